# SPDX-License-Identifier: Apache-2.0
"""Runs of pages that are alike: the rows of `query` and `demo`. Pure."""

from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import groupby, repeat
from typing import Any, Final, NamedTuple

from cowd import KernelPageFlags, Mapping, PageAttributes, PageFlags, PageState, is_copied
from cowd._kpageflags import format_letters
from cowd.cli.output import Column, format_word
from cowd.cli.ranges import Segment

__all__ = ["FLAGS", "KPAGEFLAGS", "LETTERS", "Run", "fold_pages", "iter_runs"]

# Columns of any row that has `kpageflags` as a Run has it.
LETTERS: Final[Column[Any]] = Column(
    "letters",
    "LETTERS",
    "kernel flags by the letters of page-types",
    lambda row: None if row.kpageflags is None else format_letters(row.kpageflags),
    in_json=False,
)
KPAGEFLAGS: Final[Column[Any]] = Column(
    "kpageflags",
    "KPAGEFLAGS",
    "kernel flags as a word",
    lambda row: format_word(row.kpageflags),
    in_table=False,
)
FLAGS: Final[Column[Any]] = Column(
    "flags",
    "FLAGS",
    "kernel flags by name",
    lambda row: None if row.kpageflags is None else KernelPageFlags(row.kpageflags).names,
    in_table=False,
)


class Run(NamedTuple):
    """Neighbouring pages that are alike. `kpageflags` is None where there is no page."""

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
        state, attributes, kpageflags = _decode_entry(entry)
        yield Run(address, count, page_size_bytes, state, attributes, kpageflags, mapping)
        address += count * page_size_bytes


@lru_cache(maxsize=4096)  # A process has few sorts of pages.
def _decode_entry(entry: tuple[int, int, int]) -> tuple[PageState, PageAttributes, int | None]:
    state = PageState(entry[0])
    return state, PageAttributes(entry[1]), entry[2] if state.is_present else None


def _count_alike(pages: PageFlags, *, each: bool) -> Iterable[tuple[tuple[int, int, int], int]]:
    """Return (state, attributes, flags) and how many neighbouring pages have them."""
    states, attributes, words = pages.states, pages.attributes, pages.kpageflags
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
        parts: the answers to the ranges of `segments`, as `Client.iter_page_flags` yields them.
        segments: what was asked about, in the same order.
        each: yield one run a page.
    """
    rest = iter(parts)
    for segment in segments:
        address = segment.start
        last: Run | None = None
        while address < segment.end:
            part = next(rest)
            for run in fold_pages(part, segment.mapping, each=each):
                # Inside one answer, neighbours differ already.
                starts_answer = run.address == address
                if last and starts_answer and not each and last.is_continued_by(run):
                    last = last._replace(page_count=last.page_count + run.page_count)
                    continue
                if last:
                    yield last
                last = run
            address += len(part.states) * part.page_size_bytes
        if last:
            yield last
