# SPDX-License-Identifier: Apache-2.0
"""Folding pages that are alike, and the map drawn of them."""

from array import array

import pytest
from cowd import (
    DisclosureMasks,
    Mapping,
    MappingKind,
    PageAttributes,
    PageFlags,
    PageState,
)
from cowd.cli.ranges import Segment
from cowd.cli.runs import Run, fold_pages, iter_runs
from cowd.cli.strip import draw_strip

START = 0x10000
MAPPING = Mapping(START, START + (64 << 12), "rw-p", 0, b"/x", MappingKind.PRIVATE_FILE)
CODES = {".": 1, "f": 2, "a": 3, "s": 4, "z": 5, "G": 6, "?": 7}
WORDS = {"f": 0x808, "a": 0x5828, "z": 0x1000800}


def make_pages(drawn, attributes=None, address=START):
    return PageFlags(
        pid=7,
        page_size_bytes=4096,
        address=address,
        start_time_ticks=5,
        masks=DisclosureMasks(0, 0),
        kpageflags=array("Q", [WORDS.get(char, 0) for char in drawn]),
        states=bytes(CODES[char] for char in drawn),
        attributes=bytes(attributes or len(drawn)),
    )


def fold(drawn, *, each=False, mapping=MAPPING, attributes=None):
    runs = list(fold_pages(make_pages(drawn, attributes), mapping, each=each))
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
    assert len(list(fold_pages(pages, MAPPING, each=False))) == 2


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
    assert next(fold_pages(pages, MAPPING, each=False)).kpageflags == 0


def test_nothing_is_copied_outside_a_mapping():
    assert fold("a", mapping=None)[0].copied is None


class Recorder:
    """Answers as the client does, from a drawing."""

    def __init__(self, drawn):
        self.drawn = drawn
        self.asked = []

    def get_page_flags(self, pid, address, count, *, expected_start_time_ticks):
        assert (pid, expected_start_time_ticks) == (7, 5)
        first = (address - START) // 4096
        self.asked.append((first, count))
        return make_pages(self.drawn[first : first + count], address=address)


def read(drawn, segments, *, each=False, maximum_page_count=4):
    recorder = Recorder(drawn)
    done = []
    runs = list(
        iter_runs(
            recorder,
            7,
            segments,
            page_size_bytes=4096,
            maximum_page_count=maximum_page_count,
            start_time_ticks=5,
            each=each,
            advance=done.append,
        )
    )
    assert done == [count for _, count in recorder.asked]
    return runs, recorder.asked


def test_long_ranges_take_several_calls_and_runs_go_across_them():
    segment = Segment(START, START + 10 * 4096, MAPPING)
    runs, asked = read("aaaaaaff..", [segment])
    assert asked == [(0, 4), (4, 4), (8, 2)]
    assert [(run.state.name, run.page_count) for run in runs] == [
        ("ANON", 6),
        ("FILE", 2),
        ("ABSENT", 2),
    ]
    assert len(read("aaaaaaff..", [segment], each=True)[0]) == 10


def test_runs_end_at_the_border_of_a_mapping():
    cut = START + 2 * 4096
    runs, asked = read("aaaa", [Segment(START, cut, MAPPING), Segment(cut, cut + 8192, None)])
    assert asked == [(0, 2), (2, 2)]
    assert [(run.page_count, run.copied) for run in runs] == [(2, True), (2, None)]


def draw(drawn, width, **options):
    strip = draw_strip(fold(drawn, **options), width)
    return ["".join(symbol.char for symbol in line) for line in strip.lines], strip


def test_the_strip_has_a_character_a_page():
    lines, strip = draw("afs.zG?", 80)
    assert lines == ["CfS.zG?"]
    assert strip.pages_per_symbol == 1
    assert [symbol.char for symbol in strip.legend] == list("CS?Gzf.")
    assert draw("as", 80, mapping=None)[0] == ["as"]


def test_the_strip_takes_a_few_lines_and_then_buckets():
    assert draw("f" * 25, 10)[0] == ["f" * 10, "f" * 10, "f" * 5]
    lines, strip = draw("f" * 40 + "." * 19 + "a", 10)
    assert strip.pages_per_symbol == 2
    assert lines == ["f" * 10, "f" * 10, "." * 9 + "C"]


def test_the_most_notable_page_stands_for_its_bucket():
    lines, strip = draw(("." * 99 + "a" + "f" * 100) * 3, 1)
    assert strip.pages_per_symbol == 200
    assert lines == ["C", "C", "C"]


def test_an_astronomic_range_is_drawn_at_once():
    run = fold(".")[0]._replace(page_count=2**52)
    strip = draw_strip([run], 78)
    assert [len(line) for line in strip.lines] == [78, 78, 78]


def test_nothing_is_drawn_of_nothing():
    assert draw_strip([], 78).lines == []
