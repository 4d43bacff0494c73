# SPDX-License-Identifier: Apache-2.0
"""What a picture of a process shows: which mappings, and how many pages of what in which column."""

from array import array
from itertools import groupby
from mmap import PAGESIZE as PAGE

import numpy
import pytest
from cowd import Mapping, MappingKind, PageChunk, PageCounts, PageState
from cowd.cli.pictures import SORTS, Row, add_totals, choose_mappings, count_pages, stack_shares
from hypothesis import given
from hypothesis import strategies as st

CHARS = [sort.char for sort in SORTS]
STATES = {".": 1, "f": 2, "a": 3, "s": 4, "z": 5, "G": 6, "?": 7}
KINDS = {
    "p": MappingKind.PRIVATE_FILE,
    "h": MappingKind.ANONYMOUS,
    "s": MappingKind.SHARED_FILE,
    "v": MappingKind.SPECIAL,
}


def make_mapping(first, states, kind="p", path=b"/words"):
    counts = {PageState(value).name.lower(): states.count(char) for char, value in STATES.items()}
    end = (first + len(states)) * PAGE
    return Mapping(first * PAGE, end, "rw-p", 0, path, KINDS[kind], PageCounts(**counts))


def make_chunk(first, states):
    """Return pages as a backend does; those that are "." are not listed."""
    stretches = []
    for is_listed, group in groupby(enumerate(states), lambda page: page[1] != "."):
        pages = list(group)
        if is_listed:
            stretches.append(((first + pages[0][0]) * PAGE, len(pages)))
    listed = bytes(STATES[state] for state in states if state != ".")
    return PageChunk(
        pid=7,
        page_size_bytes=PAGE,
        address=first * PAGE,
        page_count=len(states),
        start_time_ticks=5,
        masks=None,
        stretch_addresses=array("Q", [address for address, _ in stretches]),
        stretch_page_counts=array("Q", [count for _, count in stretches]),
        kpageflags=None,
        states=listed,
        attributes=bytes(len(listed)),
    )


def choose(mappings, text=None, most=10, with_all=False):
    shown, others = choose_mappings(mappings, text, most, with_all=with_all)
    return [[each.start_address // PAGE for each in part] for part in (shown, others)]


MAPPINGS = [
    make_mapping(0, "ff......", path=b"/lib/x.so"),
    make_mapping(10, "aaaaa", "h", b"[heap]"),
    make_mapping(20, "....", "h", b""),
    make_mapping(30, "fffffff", "s", b"/dev/shm/x"),
    make_mapping(40, "ss", "p", b"/words"),
    make_mapping(2**40, "?", "v", b"[vsyscall]"),
]


@pytest.mark.parametrize(
    ("options", "shown", "others"),
    [
        ({}, [0, 10, 40], []),
        ({"most": 2}, [0, 10], [40]),
        ({"most": 1}, [10], [0, 40]),
        ({"with_all": True}, [0, 10, 20, 30, 40], []),
        ({"with_all": True, "most": 3}, [0, 10, 30], [20, 40]),
        ({"text": "/"}, [0, 30, 40], []),
        ({"text": "x", "most": 1}, [30], [0]),
        ({"text": "nothing"}, [], []),
        ({"text": "vsyscall", "with_all": True}, [], []),
    ],
    ids=str,
)
def test_those_with_most_pages_are_chosen_and_stay_in_order(options, shown, others):
    """Seen to fail with the largest mappings in the place of those with most pages."""
    assert choose(MAPPINGS, **options) == [shown, others]


def test_totals_tell_copies_from_other_pages():
    """Seen to fail with anonymous memory counted as copied."""
    totals = dict(zip(CHARS, add_totals(MAPPINGS), strict=True))
    assert totals == {"C": 0, "S": 2, "?": 1, "G": 0, "a": 5, "s": 0, "z": 0, "f": 9, ".": 10}


def test_columns_have_the_pages_of_their_part():
    pages = "aa.f" + "f..." + "s?zG"
    mapping = make_mapping(100, pages)
    [row] = count_pages([make_chunk(100, pages[:7]), make_chunk(107, pages[7:])], [mapping], 3)
    found = [
        {char: int(count) for char, count in zip(CHARS, column, strict=True) if count}
        for column in row.counts
    ]
    assert found == [
        {"C": 2, ".": 1, "f": 1},
        {"f": 1, ".": 3},
        {"S": 1, "?": 1, "z": 1, "G": 1},
    ]


@given(
    st.lists(
        st.tuples(st.sampled_from("phs"), st.text("".join(STATES), min_size=1, max_size=30)),
        min_size=1,
        max_size=4,
    ),
    st.integers(1, 12),
    st.integers(1, 9),
)
def test_no_page_is_lost_or_counted_twice(parts, most_columns, chunk_pages):
    """Against a count page by page. Seen to fail with borders of columns that are rounded down."""
    mappings, chunks = [], []
    for number, (kind, pages) in enumerate(parts):
        mappings.append(make_mapping(number * 100, pages, kind))
        for start in range(0, len(pages), chunk_pages):
            chunks.append(make_chunk(number * 100 + start, pages[start : start + chunk_pages]))
    rows = list(count_pages(chunks, mappings, most_columns))
    assert [row.mapping for row in rows] == mappings
    for row, (kind, pages) in zip(rows, parts, strict=True):
        columns = min(len(pages), most_columns)
        wanted = numpy.zeros((columns, len(SORTS)), int)
        for page, state in enumerate(pages):
            char = {"a": "C", "s": "S"}.get(state, state) if kind == "p" else state
            wanted[page * columns // len(pages), CHARS.index(char)] += 1
        assert (row.counts == wanted).all()
        assert wanted.sum(axis=1).min() >= 1


def test_what_is_rare_keeps_a_part_that_can_be_seen():
    """Seen to fail with shares in proportion."""
    counts = numpy.zeros((3, len(SORTS)), numpy.int64)
    for column, pages in enumerate(({"C": 1, "f": 9999}, {"f": 1, ".": 9999}, {"a": 5})):
        for char, count in pages.items():
            counts[column, CHARS.index(char)] = count
    heights = stack_shares(Row(MAPPINGS[0], counts))
    assert heights[0, CHARS.index("C")] == pytest.approx(0.125 / 1.1249, rel=1e-3)
    assert heights[1, CHARS.index("f")] == pytest.approx(0.125 / 1.1249, rel=1e-3)
    assert heights[2, CHARS.index("a")] == 1
    assert (heights[:, -1] == 1).all()
    assert (numpy.diff(heights, axis=1) >= 0).all()
