# SPDX-License-Identifier: Apache-2.0
"""Reads pagemap entries and the kpageflags of their frames, as arrays, at one consistent moment.

Worker, unprivileged, through descriptors it was handed; no loop over pages. pagemap is read, then
kpageflags, then pagemap again: where an entry has changed, the frame may have become another page's
in between, and both are read anew.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from typing import Final, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from cowdaemon.limits import READING_THREADS, SETTLE_ROUNDS
from cowdaemon.worker.features import KernelFeatures
from cowdaemon.worker.kpageflags import read_flags
from cowdaemon.worker.page_states import (
    Attribute,
    Bytes,
    EntryLayout,
    PageState,
    Words,
    classify,
    is_contradictory,
)
from cowdaemon.worker.pagemap import (
    Numbers,
    Stretches,
    count_pages,
    join_stretches,
    number_pages,
    read_entries,
    read_stretches,
)

__all__ = ["PageReadings", "Reader", "classify_readings"]

_T = TypeVar("_T")
_R = TypeVar("_R")

_PAGE_SIZE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_JOINED_PAGES: Final = 16
"""Between pages that are read again: reading so many costs as much as a system call."""


class PageReadings(NamedTuple):
    """What the kernel said of each page; uint64 arrays, one element a page.

    Attributes:
        entries: of pagemap.
        flags: 0 where no page is present or its frame has no information, and where unstable.
        unstable: the places of pages that changed on every attempt; mostly none.
    """

    entries: Words
    flags: Words
    unstable: NDArray[np.intp]


def classify_readings(readings: PageReadings, layout: EntryLayout) -> tuple[Bytes, Bytes]:
    """Return what `classify` does, with state UNKNOWN for the pages that are unstable."""
    states, attributes = classify(readings.entries, readings.flags, layout)
    if len(readings.unstable):
        states[readings.unstable] = PageState.UNKNOWN
        attributes[readings.unstable] = Attribute.UNSTABLE
    return states, attributes


class Reader:
    """Reads any target's pages. Threads may share it.

    Args:
        kpageflags: descriptor of /proc/kpageflags, opened as root.
        features: what the kernel was found to offer.
    """

    def __init__(self, kpageflags: int, features: KernelFeatures) -> None:
        self._kpageflags = kpageflags
        self.features: Final = features

    def close(self) -> None:
        """Give up kpageflags."""
        os.close(self._kpageflags)

    def read(self, pagemap: int, address: int, count: int) -> PageReadings:
        """Read the pages of a range of a target, in the calling thread.

        Args:
            pagemap: descriptor of its /proc/PID/pagemap that shows frame numbers.
            address: of the first page, in bytes; a multiple of the page size.
            count: of pages, at least 1.

        Raises:
            ShortReadError: pagemap ended within the range.
        """
        entries = read_entries(pagemap, address, count)
        flags = np.empty(count, np.uint64)
        read_flags(self._kpageflags, [entries], [flags])
        again = read_entries(pagemap, address, count)
        first = address // _PAGE_SIZE_BYTES
        return self._settle(pagemap, np.array([[first, first + count]]), entries, flags, again)

    def read_ahead(
        self,
        pagemap: int,
        pieces: Sequence[Stretches],
        finish: Callable[[int, PageReadings], _R],
        verify_wanted: Callable[[], None],
    ) -> Iterator[_R]:
        """Read the pages of many stretches at once, in several threads.

        The more pages, the less each of them costs (see kpageflags.py), and the more memory they
        take: 16 bytes a page until all have been yielded.

        Args:
            pagemap: descriptor of the target's /proc/PID/pagemap that shows frame numbers.
            pieces: what one thread is to read at a time.
            finish: called in some thread with the place of a piece, and with its readings.
            verify_wanted: called in some thread before each part of the work; what it raises ends
                the reading.

        Yields:
            What `finish` returns, in the order of the pieces.

        Raises:
            ShortReadError: pagemap ended within one of the stretches.
        """
        ends = np.cumsum([count_pages(piece) for piece in pieces]).tolist()
        entries = np.split(np.empty(ends[-1], np.uint64), ends[:-1])
        flags = np.split(np.empty(ends[-1], np.uint64), ends[:-1])

        def read_piece(place: int) -> None:
            verify_wanted()
            entries[place][:] = read_stretches(pagemap, pieces[place])

        def finish_piece(place: int) -> _R:
            verify_wanted()
            again = read_stretches(pagemap, pieces[place])
            return finish(
                place, self._settle(pagemap, pieces[place], entries[place], flags[place], again)
            )

        places = range(len(pieces))
        if len(pieces) == 1:  # work for one thread
            read_piece(0)
            read_flags(self._kpageflags, entries, flags)
            yield finish_piece(0)
            return
        for _ in self._pool.map(read_piece, places):
            pass
        verify_wanted()
        read_flags(self._kpageflags, entries, flags, self._pool.map)
        yield from _map_ahead(self._pool, finish_piece, places)

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(READING_THREADS, "reading")

    def _settle(
        self, pagemap: int, stretches: Stretches, entries: Words, flags: Words, again: Words
    ) -> PageReadings:
        """Read anew what was not of one moment, given a later look at the same entries."""
        suspects = np.flatnonzero((again != entries) | is_contradictory(again, flags))
        if not len(suspects):
            return PageReadings(entries, flags, suspects)
        pages = number_pages(stretches)
        entries = entries.copy()
        again = again[suspects]
        for _ in range(SETTLE_ROUNDS - 1):
            entries[suspects] = again
            flags[suspects] = self._read_flags(again)
            again = _read_pages(pagemap, pages[suspects])
            changed = (again != entries[suspects]) | is_contradictory(again, flags[suspects])
            again, suspects = again[changed], suspects[changed]
            if not len(suspects):
                return PageReadings(entries, flags, suspects)
        entries[suspects] = again
        flags[suspects] = self._read_flags(again)
        again = _read_pages(pagemap, pages[suspects])
        unstable = suspects[again != entries[suspects]]
        flags[unstable] = 0
        return PageReadings(entries, flags, unstable)

    def _read_flags(self, entries: Words) -> Words:
        flags = np.empty_like(entries)
        read_flags(self._kpageflags, [entries], [flags])
        return flags


def _read_pages(pagemap: int, pages: Numbers) -> Words:
    """Return the entries of single pages, in ascending order."""
    stretches = join_stretches(np.column_stack((pages, pages + 1)), _JOINED_PAGES)
    entries = read_stretches(pagemap, stretches)
    return entries[np.searchsorted(number_pages(stretches), pages)]


def _map_ahead(
    pool: ThreadPoolExecutor, function: Callable[[_T], _R], things: Iterable[_T]
) -> Iterator[_R]:
    """Yield the results of `function` in order, as `pool.map` does, but few of them ahead."""
    under_way: deque[Future[_R]] = deque()
    for thing in things:
        under_way.append(pool.submit(function, thing))
        if len(under_way) > READING_THREADS:
            yield under_way.popleft().result()
    while under_way:
        yield under_way.popleft().result()
