# SPDX-License-Identifier: Apache-2.0
"""Runs of pages that are alike, read from the daemon: the rows of `query` and `demo`."""

from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from itertools import groupby, repeat
from typing import NamedTuple

from cowd import Client, Mapping, PageAttributes, PageFlags, PageState, is_copied
from cowd.cli.ranges import Segment

__all__ = ["Run", "fold_pages", "iter_runs"]


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
    def copied(self) -> bool | None:
        """Whether the pages are private copies; None where that has no meaning or is not known."""
        return is_copied(self.mapping.kind if self.mapping else None, self.state)

    def is_continued_by(self, other: "Run") -> bool:
        """Whether `other` starts where this ends and is alike."""
        end = self.address + self.page_count * self.page_size_bytes
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
    client: Client,
    pid: int,
    segments: Iterable[Segment],
    *,
    page_size_bytes: int,
    maximum_page_count: int,
    start_time_ticks: int,
    each: bool,
    advance: Callable[[int], None],
) -> Iterator[Run]:
    """Ask the daemon about `segments` in bounded calls and yield their runs.

    Args:
        client: connected to the daemon.
        pid: the process.
        segments: what to read, in this order.
        page_size_bytes: size of a page.
        maximum_page_count: most pages in one call.
        start_time_ticks: start time that the process must have throughout.
        each: yield one run a page.
        advance: called with the number of pages that each call has answered.

    Raises:
        cowd.Error: a call failed; FailedPrecondition if the pid was reused meanwhile.
    """
    step_bytes = maximum_page_count * page_size_bytes
    for segment in segments:
        last: Run | None = None
        for address in range(segment.start, segment.end, step_bytes):
            count = (min(segment.end, address + step_bytes) - address) // page_size_bytes
            pages = client.get_page_flags(
                pid, address, count, expected_start_time_ticks=start_time_ticks
            )
            for run in fold_pages(pages, segment.mapping, each=each):
                # Inside one answer, neighbours differ already.
                starts_answer = run.address == address
                if last and starts_answer and not each and last.is_continued_by(run):
                    last = last._replace(page_count=last.page_count + run.page_count)
                    continue
                if last:
                    yield last
                last = run
            advance(count)
        if last:
            yield last
