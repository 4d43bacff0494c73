# SPDX-License-Identifier: Apache-2.0
"""Folding pages that are alike, and the map drawn of them."""

from array import array
from itertools import pairwise

import pytest
from cowd import (
    DisclosureMasks,
    Mapping,
    MappingKind,
    PageAttributes,
    PageChunk,
    PageState,
)
from cowd._runs import Run, Segment, iter_runs, join_segments
from cowd.cli.strip import draw_strip

START = 0x10000
MAPPING = Mapping(START, START + (64 << 12), "rw-p", 0, b"/x", MappingKind.PRIVATE_FILE)
CODES = {".": 1, "f": 2, "a": 3, "s": 4, "z": 5, "G": 6, "?": 7}
WORDS = {"f": 0x808, "a": 0x5828, "z": 0x1000800}


def make_pages(drawn, attributes=None, address=START):
    return PageChunk(
        pid=7,
        page_size_bytes=4096,
        address=address,
        page_count=len(drawn),
        start_time_ticks=5,
        masks=DisclosureMasks(0, 0),
        stretch_addresses=array("Q", [address]),
        stretch_page_counts=array("I", [len(drawn)]),
        kpageflags=array("Q", [WORDS.get(char, 0) for char in drawn]),
        states=bytes(CODES[char] for char in drawn),
        attributes=bytes(attributes or len(drawn)),
    )


def fold_pages(chunk, mapping, *, each=False):
    return list(iter_runs([chunk], [Segment(chunk.address, chunk.end_address, mapping)], each=each))


def fold(drawn, *, each=False, mapping=MAPPING, attributes=None):
    runs = fold_pages(make_pages(drawn, attributes), mapping, each=each)
    address = START
    for run in runs:
        assert run.address == address
        address += run.page_count * 4096
    return runs


def test_neighbours_that_are_alike_are_one_run():
    runs = fold("aa.fff")
    assert [(run.state.name, run.page_count, run.copied) for run in runs] == [
        ("ANON", 2, True),
        ("ABSENT", 1, False),
        ("FILE", 3, False),
    ]
    assert runs[0] == Run(START, 2, 4096, PageState.ANON, PageAttributes(0), 0x5828, MAPPING)


def test_each_page_has_its_own_run():
    assert [run.page_count for run in fold("aa.fff", each=True)] == [1] * 6


@pytest.mark.parametrize(("count", "each", "rows"), [(65_536, False, 1), (65_536, True, 65_536)])
def test_a_uniform_stretch_is_folded(count, each, rows):
    assert len(fold("." * count, each=each)) == rows


def test_attributes_and_flags_keep_pages_apart():
    assert [run.page_count for run in fold("aaa", attributes=[1, 1, 0])] == [2, 1]
    pages = make_pages("aa")
    pages.kpageflags[1] ^= 1 << 2
    assert len(fold_pages(pages, MAPPING)) == 2


def test_flags_are_none_where_there_is_no_page():
    flags = {run.state.name: run.kpageflags for run in fold(".fasz?G")}
    assert flags == {
        "ABSENT": None,
        "FILE": 0x808,
        "ANON": 0x5828,
        "ANON_SWAPPED": None,
        "ZERO": 0x1000800,
        "UNKNOWN": None,
        "GUARD": None,
    }


def test_a_page_with_all_flags_hidden_is_not_a_page_without_flags():
    pages = make_pages("f")
    pages.kpageflags[0] = 0
    assert fold_pages(pages, MAPPING)[0].kpageflags == 0


def test_nothing_is_copied_outside_a_mapping():
    assert fold("a", mapping=None)[0].copied is None


def read(drawn, segments, *, each=False, maximum_page_count=4):
    """Return the runs, from answers about at most `maximum_page_count` pages."""
    parts = []
    for start_address, end_address in join_segments(segments):
        first, last = (start_address - START) // 4096, (end_address - START) // 4096
        for start in range(first, last, maximum_page_count):
            part = drawn[start : min(start + maximum_page_count, last)]
            parts.append(make_pages(part, address=START + start * 4096))
    return list(iter_runs(parts, segments, each=each))


def test_runs_go_across_answers():
    segment = Segment(START, START + 10 * 4096, MAPPING)
    runs = read("aaaaaaff..", [segment])
    assert [(run.state.name, run.page_count) for run in runs] == [
        ("ANON", 6),
        ("FILE", 2),
        ("ABSENT", 2),
    ]
    assert len(read("aaaaaaff..", [segment], each=True)) == 10


def test_runs_end_at_the_border_of_a_mapping():
    cut = START + 2 * 4096
    runs = read("aaaa", [Segment(START, cut, MAPPING), Segment(cut, cut + 8192, None)])
    assert [(run.page_count, run.copied) for run in runs] == [(2, True), (2, None)]


def test_answers_are_cut_where_mappings_are_and_the_other_way_round():
    borders = [0, 1, 3, 8, 9, 10]
    segments = [
        Segment(START + first * 4096, START + last * 4096, MAPPING if first % 2 else None)
        for first, last in pairwise(borders)
    ]
    runs = read("aaaaaaff..", segments, each=True, maximum_page_count=4)
    assert [run.address for run in runs] == [START + page * 4096 for page in range(10)]
    assert "".join(run.state.name[:2] for run in runs) == "ANANANANANANFIFIABAB"
    assert [run.mapping is MAPPING for run in runs] == [0, 1, 1, 1, 1, 1, 1, 1, 0, 1]


def test_segments_with_a_gap_are_read_apart():
    segments = [Segment(START, START + 4096, MAPPING), Segment(START + 8192, START + 16384, None)]
    assert list(join_segments(segments)) == [
        (START, START + 4096),
        (START + 8192, START + 16384),
    ]
    runs = read("afaf", segments)
    assert [(run.address - START, run.state.name) for run in runs] == [
        (0, "ANON"),
        (8192, "ANON"),
        (12288, "FILE"),
    ]
    assert list(join_segments([])) == []


def draw(drawn, width, **options):
    return draw_strip(fold(drawn, **options), width + 2, lambda text, _style: text)


def test_the_strip_has_a_character_a_page():
    lines = draw("afs.zG?", 80)
    assert lines[0] == "|CfS.zG?|"
    assert [meaning[0] for meaning in lines[1].split("  ")] == list("CS?Gzf.")
    assert len(lines) == 2
    assert draw("as", 80, mapping=None)[0] == "|as|"


def test_the_strip_is_painted():
    lines = draw_strip(fold("aaf"), 80, lambda text, style: f"<{style}>{text}")
    assert lines == ["|<bold red>CC<green>f|", "<bold red>C copied  <green>f file"]


def test_the_strip_takes_a_few_lines_and_then_buckets():
    assert draw("f" * 25, 10)[:3] == [f"|{'f' * 10}|", f"|{'f' * 10}|", "|fffff|"]
    assert draw("f" * 40 + "." * 19 + "a", 10) == [
        f"|{'f' * 10}|",
        f"|{'f' * 10}|",
        f"|{'.' * 9}C|",
        "C copied",
        "f file",
        ". absent",
        "one",
        "character:",
        "the most",
        "notable of 2",
        "pages",
    ]


def test_the_most_notable_page_stands_for_its_bucket():
    lines = draw(("." * 99 + "a" + "f" * 100) * 3, 1)
    assert lines[:3] == ["|C|"] * 3
    assert "200pages" in "".join(lines)


def test_the_legend_is_as_wide_as_the_terminal():
    lines = draw("afs.zG?s", 38)
    assert lines[1:] == [
        "C copied  S copied, swapped out",
        "? unknown  G guard  z zero page  f file",
        ". absent",
    ]


@pytest.mark.parametrize("width", [-2, 0, 1])
def test_the_narrowest_terminal_gets_a_strip(width):
    assert draw("af", width)[:2] == ["|C|", "|f|"]


def test_an_astronomic_range_is_drawn_at_once():
    run = fold(".")[0]._replace(page_count=2**52)
    lines = draw_strip([run], 80, lambda text, _style: text)
    assert [len(line) for line in lines[:3]] == [80, 80, 80]
