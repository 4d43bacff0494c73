# SPDX-License-Identifier: Apache-2.0
"""Runs of neighbouring pages of two processes that are alike, cut at borders of mappings. Pure."""

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import chain, groupby, pairwise
from mmap import PAGESIZE
from operator import itemgetter
from typing import NamedTuple, TypeAlias

from cowd._comparisons import ComparisonChunk, PageComparison, PageCopier
from cowd._mappings import Mapping
from cowd._pages import PageState
from cowd._runs import AlikePages

__all__ = ["ComparisonRun", "PairSegment", "cut_at_borders", "iter_comparison_runs"]

_Entry: TypeAlias = tuple[int, int, int, int]
"""Comparison, state in the first process and in the second, and copier of one page."""
_NEITHER: _Entry = (
    PageComparison.NEITHER,
    PageState.ABSENT,
    PageState.ABSENT,
    PageCopier.UNSPECIFIED,
)


class PairSegment(NamedTuple):
    """Whole pages from `start` to before `end`, where neither process has a border of a mapping."""

    start: int
    end: int
    mapping: Mapping | None
    other_mapping: Mapping | None

    @property
    def page_count(self) -> int:
        """Number of pages."""
        return (self.end - self.start) // PAGESIZE

    @property
    def mappings(self) -> tuple[Mapping | None, Mapping | None]:
        """The mapping of each process."""
        return self.mapping, self.other_mapping


class ComparisonRun(NamedTuple):
    """Neighbouring pages of two processes that are alike.

    Attributes:
        address: of the first page, in bytes.
        comparison: what the two processes have there.
        state, other_state: what the pages are in the first process, and in the second.
        copied_by: who made them, where they are different.
        mapping, other_mapping: that all the pages are in; None where a process has none.
    """

    address: int
    page_count: int
    page_size_bytes: int
    comparison: PageComparison
    state: PageState
    other_state: PageState
    copied_by: PageCopier
    mapping: Mapping | None
    other_mapping: Mapping | None

    @property
    def size_bytes(self) -> int:
        """Size of all the pages."""
        return self.page_count * self.page_size_bytes

    def iter_pages(self) -> Iterator["ComparisonRun"]:
        """Yield each page as a run of its own."""
        for number in range(self.page_count):
            yield self._replace(address=self.address + number * self.page_size_bytes, page_count=1)


def iter_comparison_runs(
    chunks: Iterable[ComparisonChunk], segments: Iterable[PairSegment]
) -> Iterator[tuple[PairSegment, ComparisonRun]]:
    """Yield the runs of `segments`, each with its segment, across the chunks that they came in.

    Args:
        chunks: answers about all of these pages, in the same order, in pieces of any size.
        segments: what was asked about.
    """
    alike = AlikePages(chain.from_iterable(map(_iter_alike, chunks)))
    for segment in segments:
        address = segment.start
        for entry, group in groupby(alike.take(segment.page_count), itemgetter(0)):
            count = sum(number for _, number in group)
            what = _decode_entry(entry)
            yield segment, ComparisonRun(address, count, PAGESIZE, *what, *segment.mappings)
            address += count * PAGESIZE


def cut_at_borders(
    mappings: Sequence[Mapping], other_mappings: Sequence[Mapping]
) -> Iterator[PairSegment]:
    """Yield what lies between two neighbouring borders and is mapped by one or both.

    Args:
        mappings: of the first process, in address order, none overlapping.
        other_mappings: of the second.
    """
    borders = sorted(
        {
            border
            for each in (*mappings, *other_mappings)
            for border in (each.start_address, each.end_address)
        }
    )
    rest, other_rest = iter(mappings), iter(other_mappings)
    mapping, other = next(rest, None), next(other_rest, None)
    for start, end in pairwise(borders):
        while mapping is not None and mapping.end_address <= start:
            mapping = next(rest, None)
        while other is not None and other.end_address <= start:
            other = next(other_rest, None)
        here = mapping if mapping is not None and mapping.start_address <= start else None
        other_here = other if other is not None and other.start_address <= start else None
        if here is not None or other_here is not None:
            yield PairSegment(start, end, here, other_here)


@lru_cache(maxsize=4096)  # Two processes have few sorts of pages.
def _decode_entry(entry: _Entry) -> tuple[PageComparison, PageState, PageState, PageCopier]:
    comparison, state, other_state, copier = entry
    return (
        PageComparison(comparison),
        PageState(state),
        PageState(other_state),
        PageCopier(copier),
    )


def _iter_alike(chunk: ComparisonChunk) -> Iterator[tuple[_Entry, int]]:
    address, first = chunk.address, 0
    for start, count in zip(chunk.stretch_addresses, chunk.stretch_page_counts, strict=True):
        if start > address:
            yield _NEITHER, (start - address) // PAGESIZE
        yield from _count_alike(chunk, first, first + count)
        address, first = start + count * PAGESIZE, first + count
    if chunk.end_address > address:
        yield _NEITHER, (chunk.end_address - address) // PAGESIZE


def _count_alike(chunk: ComparisonChunk, first: int, end: int) -> Iterator[tuple[_Entry, int]]:
    lists = chunk.comparisons, chunk.states, chunk.other_states, chunk.copiers
    parts = [each[first:end] for each in lists]
    entries = zip(*parts, strict=True)
    # After a fork most neighbours are alike, and comparing whole strings is many times faster.
    if all(part.count(part[0]) == len(part) for part in parts):
        yield next(entries), end - first
        return
    for entry, group in groupby(entries):
        yield entry, len(list(group))
