# SPDX-License-Identifier: Apache-2.0
"""Runs of two processes: folded as far as can be, across answers, and cut where mappings end."""

from array import array
from itertools import groupby, pairwise

from cowd import Mapping, MappingKind, PageComparison, PageCopier, PageState
from cowd._comparison_runs import PairSegment, cut_at_borders, iter_comparison_runs
from cowd._comparisons import ComparisonChunk
from hypothesis import given
from hypothesis import strategies as some

PAGE = 4096
START = 0x10000
SORTS = {
    ".": (PageComparison.NEITHER, PageState.ABSENT, PageState.ABSENT, PageCopier.UNSPECIFIED),
    "z": (PageComparison.NEITHER, PageState.ZERO, PageState.ABSENT, PageCopier.UNSPECIFIED),
    "=": (PageComparison.SAME, PageState.ANON, PageState.ANON, PageCopier.UNSPECIFIED),
    "1": (PageComparison.DIFFERENT, PageState.ANON, PageState.FILE, PageCopier.FIRST),
    "2": (PageComparison.DIFFERENT, PageState.FILE, PageState.ANON, PageCopier.SECOND),
    ">": (PageComparison.ONLY_SECOND, PageState.ABSENT, PageState.ANON, PageCopier.UNSPECIFIED),
}


def make_chunk(drawn, address):
    """Return a chunk of pages; stretches are of those that are not "."."""
    stretches, first = [], 0
    for is_listed, group in groupby(drawn, lambda char: char != "."):
        count = len(list(group))
        if is_listed:
            stretches.append((address + first * PAGE, count))
        first += count
    lists = list(zip(*(SORTS[char] for char in drawn if char != "."), strict=True)) or [()] * 4
    return ComparisonChunk(
        pid=7,
        other_pid=8,
        page_size_bytes=PAGE,
        address=address,
        page_count=len(drawn),
        start_time_ticks=5,
        other_start_time_ticks=6,
        stretch_addresses=array("Q", [start for start, _ in stretches]),
        stretch_page_counts=array("I", [count for _, count in stretches]),
        comparisons=bytes(lists[0]),
        states=bytes(lists[1]),
        other_states=bytes(lists[2]),
        copiers=bytes(lists[3]),
    )


def cut(drawn, borders):
    """Yield the parts of pages between borders, with the number of the first page of each."""
    for first, end in pairwise(sorted({0, len(drawn), *borders})):
        yield first, drawn[first:end]


@given(
    some.text("..zz==12>", min_size=1, max_size=40),
    some.sets(some.integers(1, 39)),
    some.sets(some.integers(1, 39)),
)
def test_runs_are_the_pages_folded_whatever_they_came_in(drawn, borders, chunk_borders):
    """Seen to fail with runs that end with their chunk, and with pages of other stretches."""
    borders = {border for border in borders if border < len(drawn)}
    chunk_borders = {border for border in chunk_borders if border < len(drawn)}
    chunks = [make_chunk(part, START + first * PAGE) for first, part in cut(drawn, chunk_borders)]
    segments = []
    for number, (first, part) in enumerate(cut(drawn, borders)):
        start, end = START + first * PAGE, START + (first + len(part)) * PAGE
        mapping = Mapping(start, end, "rw-p", 0, b"%d" % number, MappingKind.ANONYMOUS)
        segments.append(PairSegment(start, end, mapping, None))
    expected = [
        (segment, char, len(list(group)))
        for segment in segments
        for char, group in groupby(
            drawn[(segment.start - START) // PAGE : (segment.end - START) // PAGE]
        )
    ]
    found = list(iter_comparison_runs(chunks, segments))
    assert [
        (segment, (run.comparison, run.state, run.other_state, run.copied_by), run.page_count)
        for segment, run in found
    ] == [(segment, SORTS[char], count) for segment, char, count in expected]
    address = START
    for segment, run in found:
        assert run.address == address
        assert (run.mapping, run.other_mapping) == segment[2:]
        assert run.size_bytes == run.page_count * PAGE
        address += run.size_bytes
    assert [page.address for _, run in found for page in run.iter_pages()] == [
        START + number * PAGE for number in range(len(drawn))
    ]


def make_mapping(start_page, end_page, path=b""):
    return Mapping(start_page * PAGE, end_page * PAGE, "rw-p", 0, path, MappingKind.ANONYMOUS)


def cut_pages(one, other):
    return [
        (start // PAGE, end // PAGE, here, there)
        for start, end, here, there in cut_at_borders(one, other)
    ]


def test_borders_of_both_cut():
    one, other = (
        [make_mapping(1, 4), make_mapping(4, 8)],
        [make_mapping(2, 6), make_mapping(10, 11)],
    )
    assert cut_pages(one, other) == [
        (1, 2, one[0], None),
        (2, 4, one[0], other[0]),
        (4, 6, one[1], other[0]),
        (6, 8, one[1], None),
        (10, 11, None, other[1]),
    ]
    assert cut_pages([], []) == []
    assert cut_pages(one, []) == [(1, 4, one[0], None), (4, 8, one[1], None)]


@some.composite
def mappings(draw):
    """Return mappings in address order, among few pages."""
    borders = draw(some.lists(some.integers(0, 40), unique=True).map(sorted))
    keep = draw(some.lists(some.booleans(), min_size=len(borders), max_size=len(borders)))
    pairs = zip(borders, borders[1:], keep, strict=False)
    return [make_mapping(start, end) for start, end, is_kept in pairs if is_kept]


def find(listed, address):
    return next((each for each in listed if each.start_address <= address < each.end_address), None)


@given(mappings(), mappings())
def test_every_page_that_is_mapped_is_in_one_segment(one, other):
    """Seen to fail where only the borders of the first process cut."""
    told = {}
    last_end = 0
    for start, end, here, there in cut_at_borders(one, other):
        assert last_end <= start < end
        last_end = end
        for address in range(start, end, PAGE):
            told[address] = here, there
    for address in range(0, 41 * PAGE, PAGE):
        due = find(one, address), find(other, address)
        assert told.get(address, (None, None)) == due
