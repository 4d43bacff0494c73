# SPDX-License-Identifier: Apache-2.0
"""Runs of neighbouring pages that are alike, cut at the borders of mappings. Pure."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, groupby
from mmap import PAGESIZE
from operator import itemgetter
from typing import Generic, NamedTuple, Protocol, TypeAlias, TypeVar

from cowd._mappings import Mapping, is_copied
from cowd._pages import PageAttributes, PageChunk, PageFlags, PageState

__all__ = ["AlikePages", "Run", "Segment", "iter_runs", "iter_segments", "join_segments"]

_Entry: TypeAlias = tuple[int, int, int | None]
"""State, attributes and flags of one page; None for the flags where there was no daemon."""


@dataclass(frozen=True, slots=True)
class Segment:
    """Whole pages inside one mapping, or outside any, from `start` to before `end`."""

    start: int
    end: int
    mapping: Mapping | None


class Run(NamedTuple):
    """Neighbouring pages that are alike.

    Attributes:
        address: of the first page, in bytes.
        kpageflags: word of the kernel (see KernelPageFlags) after the daemon's masks; None where
            there is no page, or where there was no daemon.
        mapping: that all the pages are in; None outside any.
    """

    address: int
    page_count: int
    page_size_bytes: int
    state: PageState
    attributes: PageAttributes
    kpageflags: int | None
    mapping: Mapping | None

    @property
    def size_bytes(self) -> int:
        """Size of all the pages."""
        return self.page_count * self.page_size_bytes

    @property
    def copied(self) -> bool | None:
        """Whether the pages are private copies; None where that has no meaning or is not known."""
        return is_copied(self.mapping.kind if self.mapping else None, self.state)


def iter_runs(
    chunks: Iterable[PageChunk], segments: Iterable[Segment], *, each: bool
) -> Iterator[Run]:
    """Yield the runs of `segments`, across the chunks that they came in.

    Args:
        chunks: answers to the ranges of `join_segments(segments)`, in pieces of any size.
        segments: what was asked about, in the same order.
        each: yield one run a page.
    """
    alike = AlikePages(chain.from_iterable(map(_iter_alike, chunks)))
    for segment in segments:
        address = segment.start
        taken = alike.take((segment.end - segment.start) // PAGESIZE)
        for entry, group in groupby(taken, itemgetter(0)):
            count = sum(number for _, number in group)
            state, attributes, kpageflags = _decode_entry(entry)
            step = 1 if each else count
            for _ in range(0, count, step):
                yield Run(address, step, PAGESIZE, state, attributes, kpageflags, segment.mapping)
                address += step * PAGESIZE


_Sort = TypeVar("_Sort")


class AlikePages(Generic[_Sort]):
    """Pages that follow each other, by their sort, to be taken in other pieces than they came in.

    Args:
        pieces: the sort of neighbours that are alike, and how many they are.
    """

    def __init__(self, pieces: Iterable[tuple[_Sort, int]]) -> None:
        self._rest = iter(pieces)
        self._piece: tuple[_Sort, int] | None = None

    def take(self, page_count: int) -> Iterator[tuple[_Sort, int]]:
        """Yield the next so many pages; neighbours may be of the same sort still."""
        while page_count:
            sort, left = self._piece or next(self._rest)
            count = min(left, page_count)
            self._piece = (sort, left - count) if left > count else None
            page_count -= count
            yield sort, count


def _iter_alike(chunk: PageChunk) -> Iterator[tuple[_Entry, int]]:
    absent = PageState.ABSENT, 0, None if chunk.kpageflags is None else 0
    address = chunk.address
    for pages in chunk.iter_stretches():
        if pages.address > address:
            yield absent, (pages.address - address) // PAGESIZE
        yield from _count_alike(pages)
        address = pages.end_address
    if chunk.end_address > address:
        yield absent, (chunk.end_address - address) // PAGESIZE


def _count_alike(pages: PageFlags) -> Iterable[tuple[_Entry, int]]:
    states, attributes = pages.states, pages.attributes
    words: Sequence[int | None] = pages.kpageflags or (None,) * len(states)
    entries = zip(states, attributes, words, strict=True)
    # Long stretches of untouched memory are common, and comparing whole arrays is 30 times faster.
    if all(array[1:] == array[:-1] for array in (states, attributes, words)):
        return [(next(entries), len(states))]
    return ((entry, len(list(group))) for entry, group in groupby(entries))


@lru_cache(maxsize=4096)  # A process has few sorts of pages.
def _decode_entry(entry: _Entry) -> tuple[PageState, PageAttributes, int | None]:
    state = PageState(entry[0])
    return state, PageAttributes(entry[1]), entry[2] if state.is_present else None


class _Place(Protocol):
    """Whole pages that follow each other."""

    @property
    def start(self) -> int:
        """Return the first address."""

    @property
    def end(self) -> int:
        """Return the first address after them."""


def join_segments(segments: Iterable[_Place]) -> Iterator[tuple[int, int]]:
    """Yield the first and the end address of what `segments` cover, as few as that takes.

    A process may have many thousand mappings next to each other, and a question takes its time.
    """
    start = end = None
    for segment in segments:
        if segment.start != end:
            if start is not None and end is not None:
                yield start, end
            start = segment.start
        end = segment.end
    if start is not None and end is not None:
        yield start, end


def iter_segments(mappings: Iterable[Mapping], start: int, end: int) -> Iterator[Segment]:
    """Yield the range from `start` to before `end`, cut at the borders of `mappings`."""
    for mapping in mappings:
        if mapping.end_address <= start:
            continue
        if mapping.start_address >= end:
            break
        if mapping.start_address > start:
            yield Segment(start, mapping.start_address, None)
            start = mapping.start_address
        yield Segment(start, min(mapping.end_address, end), mapping)
        start = min(mapping.end_address, end)
    if start < end:
        yield Segment(start, end, None)
