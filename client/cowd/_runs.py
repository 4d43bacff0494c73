# SPDX-License-Identifier: Apache-2.0
"""Runs of neighbouring pages that are alike, cut at the borders of mappings. Pure."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby, repeat
from typing import NamedTuple, TypeAlias

from cowd._pages import Mapping, PageAttributes, PageFlags, PageState, is_copied

__all__ = ["Run", "Segment", "fold_pages", "iter_runs", "iter_segments", "join_segments"]

_Entry: TypeAlias = tuple[int, int, int]
"""State, attributes and flags of one page."""


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

    def is_continued_by(self, other: "Run") -> bool:
        """Whether `other` starts where this ends and is alike."""
        end = self.address + self.size_bytes
        return other == self._replace(address=end, page_count=other.page_count)


def fold_pages(pages: PageFlags, mapping: Mapping | None, *, each: bool) -> Iterator[Run]:
    """Yield the runs of `pages`, all inside `mapping`; with `each`, one run a page."""
    address = pages.address
    page_size_bytes = pages.page_size_bytes
    for entry, count in _count_alike(pages, each=each):
        state, attributes = _decode_entry(entry[:2])
        is_known = pages.kpageflags is not None and state.is_present
        kpageflags = entry[2] if is_known else None
        yield Run(address, count, page_size_bytes, state, attributes, kpageflags, mapping)
        address += count * page_size_bytes


@lru_cache(maxsize=4096)  # A process has few sorts of pages.
def _decode_entry(entry: tuple[int, int]) -> tuple[PageState, PageAttributes]:
    return PageState(entry[0]), PageAttributes(entry[1])


def _count_alike(pages: PageFlags, *, each: bool) -> Iterable[tuple[_Entry, int]]:
    """Return entries and how many neighbouring pages have them."""
    states, attributes = pages.states, pages.attributes
    words: Sequence[int] = bytes(len(states)) if pages.kpageflags is None else pages.kpageflags
    entries = zip(states, attributes, words, strict=True)
    if each:
        return zip(entries, repeat(1))
    # Long stretches of untouched memory are common, and comparing whole arrays is 30 times faster.
    if all(array[1:] == array[:-1] for array in (states, attributes, words)):
        return [(next(entries), len(states))]
    return ((entry, len(list(group))) for entry, group in groupby(entries))


def iter_runs(
    parts: Iterable[PageFlags], segments: Iterable[Segment], *, each: bool
) -> Iterator[Run]:
    """Yield the runs of `segments`, across the answers that they came in.

    Args:
        parts: answers to the ranges of `join_segments(segments)`, in pieces of any size.
        segments: what was asked about, in the same order.
        each: yield one run a page.
    """
    rest = iter(parts)
    part: PageFlags | None = None
    for segment in segments:
        address = segment.start
        last: Run | None = None
        while address < segment.end:
            if part is None or part.end_address <= address or part.address > address:
                part = next(rest)
            piece = part.cut(address, min(part.end_address, segment.end))
            for run in fold_pages(piece, segment.mapping, each=each):
                # Inside one answer, neighbours differ already.
                starts_piece = run.address == address
                if last and starts_piece and not each and last.is_continued_by(run):
                    last = last._replace(page_count=last.page_count + run.page_count)
                    continue
                if last:
                    yield last
                last = run
            address = piece.end_address
        if last:
            yield last


def join_segments(segments: Iterable[Segment]) -> Iterator[tuple[int, int]]:
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
