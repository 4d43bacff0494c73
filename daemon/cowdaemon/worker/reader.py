# SPDX-License-Identifier: Apache-2.0
"""Reads pagemap entries and the kpageflags of their frames, as arrays, at one consistent moment.

Worker, unprivileged, through descriptors it was handed; no loop over pages. pagemap is read, then
kpageflags, then pagemap again: where an entry has changed, the frame may have become another page's
in between, and both are read anew.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cowdaemon.limits import SETTLE_ROUNDS
from cowdaemon.worker.disclosure import DisclosureMasks
from cowdaemon.worker.entry_states import classify_entries
from cowdaemon.worker.features import KernelFeatures
from cowdaemon.worker.few_pages import FEW_PAGES, DisclosedPages, read_few
from cowdaemon.worker.kpageflags import read_flags, read_runs, read_scattered
from cowdaemon.worker.page_states import (
    Attribute,
    Bytes,
    Codes,
    EntryLayout,
    Kpageflags,
    Mask,
    PageState,
    Words,
    classify,
    encode,
    frames,
    is_contradictory,
)
from cowdaemon.worker.pagemap import (
    Pagemap,
    Stretches,
    count_pages,
    number_pages,
    read_entries,
    read_pages,
    read_stretches,
)

__all__ = ["PageReadings", "Reader", "classify_readings"]

_PAGE_SIZE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_PRESENT: Final = np.uint64(1 << 63)
_NO_FRAME: Final = np.uint64(1 << 55)
_ZERO_PAGE: Final = np.uint64(Kpageflags.ZERO_PAGE)
_STRETCHES_AT_ONCE: Final = 512
"""So few that what leads to their pages is still in the processor's caches at the second look."""


class PageReadings(NamedTuple):
    """What the kernel said of each page; uint64 arrays, one element a page.

    Attributes:
        entries: of pagemap.
        flags: 0 where no page is present or its frame has no information, and where unstable.
        codes: of both, see `page_states.encode`.
        unstable: the places of pages that changed on every attempt; mostly none.
    """

    entries: Words
    flags: Words
    codes: Codes
    unstable: NDArray[np.intp]


def classify_readings(readings: PageReadings, layout: EntryLayout) -> tuple[Bytes, Bytes]:
    """Return what `classify` does, with state UNKNOWN for the pages that are unstable."""
    states, attributes = classify(readings.entries, readings.flags, layout, readings.codes)
    if len(readings.unstable):
        states[readings.unstable] = PageState.UNKNOWN
        attributes[readings.unstable] = Attribute.UNSTABLE
    return states, attributes


class Reader:
    """Reads any target's pages. Threads may share it.

    Args:
        kpageflags: descriptor of /proc/kpageflags, opened as root.
        features: what the kernel was found to offer.

    Attributes:
        note_pages: called, in any thread, with how many pages are looked at that were not before.
    """

    def __init__(self, kpageflags: int, features: KernelFeatures) -> None:
        self._kpageflags = kpageflags
        self.features: Final = features
        self.note_pages: Callable[[int], None] = _note_nothing

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
        self.note_pages(count)
        flags = read_flags(self._kpageflags, entries)
        again = read_entries(pagemap, address, count)
        first = address // _PAGE_SIZE_BYTES
        return self._settle(pagemap, np.array([[first, first + count]]), entries, flags, again)

    def read_few(
        self, pagemap: int, address: int, count: int, masks: DisclosureMasks
    ) -> DisclosedPages | None:
        """Return the pages of a range as they may be told; None if that is work for `read`.

        Args are those of `read`, and which flags may be told.
        """
        if count > FEW_PAGES:
            return None
        few = read_few(self._kpageflags, pagemap, address, count, self.features.layout, masks)
        if few is not None:
            self.note_pages(count)
        return few

    def read_states(self, pagemap: Pagemap, stretches: Stretches, anonymous: Stretches) -> Bytes:
        """Return the state of each page of stretches: what `classify_readings` says, for less.

        One look at pagemap tells nearly all of it, and no other pages are looked at again.

        Args:
            pagemap: of the target, or of several; descriptors that show frame numbers.
            stretches: of no more pages than one thread is to read at a time.
            anonymous: the pages of the target's anonymous mappings, ascending, none overlapping.

        Raises:
            ShortReadError: pagemap ended within one of the stretches.
        """
        entries = read_stretches(pagemap, stretches)
        layout = self.features.layout
        states, doubts = classify_entries(entries, stretches, anonymous, layout)
        doubtful = entries[doubts.pages]
        judged, _ = classify(doubtful, self._read_distinct(doubtful), layout)
        states[doubts.pages] = judged
        # An anonymous page is what its entry may be, and no driver has pages that are anonymous.
        # Of huge pages that are none of zeros their entries have told the truth.
        is_open = judged != PageState.ANON
        is_zero = self._are_zero(doubts.heads)
        states[doubts.huge[is_zero & doubts.is_expected]] = PageState.ZERO
        unexpected = doubts.huge[is_zero & ~doubts.is_expected]
        places = np.concatenate((doubts.pages[is_open], unexpected))
        if len(places):
            pages = number_pages(stretches)[places]
            open_entries = entries[places]
            flags = read_flags(self._kpageflags, open_entries)
            again = read_pages(pagemap, pages)
            alone = np.column_stack((pages, pages + 1))
            readings = self._settle(pagemap, alone, open_entries, flags, again)
            states[places], _ = classify_readings(readings, layout)
        return states

    def classify_entries(
        self, entries: Words, stretches: Stretches, anonymous: Stretches
    ) -> tuple[Bytes, NDArray[np.intp]]:
        """Return the state of each page, by its entry alone where that suffices.

        Where it does not, the flags of frames are read now; the places of these pages are returned
        as well. If an entry of theirs has changed afterwards, the state is to be found anew.

        Args:
            entries: of pagemap, of the pages of `stretches`, in their order.
            stretches: which pages these are, in any order.
            anonymous: the pages of the target's anonymous mappings, ascending, none overlapping.
        """
        layout = self.features.layout
        states, doubts = classify_entries(entries, stretches, anonymous, layout)
        if len(doubts.pages):
            doubtful = entries[doubts.pages]
            states[doubts.pages], _ = classify(doubtful, self._read_distinct(doubtful), layout)
        states[doubts.huge[self._are_zero(doubts.heads)]] = PageState.ZERO
        return states, np.concatenate((doubts.pages, doubts.huge))

    def _are_zero(self, heads: Words) -> Mask:
        """Return which frames are pages of zeros, most of them being the same as the one before."""
        if not len(heads):
            return np.zeros(0, np.bool_)
        begins = np.diff(heads, prepend=heads[0] ^ np.uint64(1)) != 0
        flags = self._read_distinct(heads[begins] | _PRESENT)
        is_zero: Mask = ((flags & _ZERO_PAGE) != 0)[np.cumsum(begins) - 1]
        return is_zero

    def _read_distinct(self, entries: Words) -> Words:
        """Return the flags of the frames of present pages, of which many may have the same one.

        As processes have that were forked from each other. np.unique imports a module.
        """
        numbers = frames(entries)
        ascending = np.sort(numbers)
        distinct = ascending[np.diff(ascending, prepend=_NO_FRAME) != 0]
        flags = read_flags(self._kpageflags, distinct | _PRESENT)
        return flags[np.searchsorted(distinct, numbers)]

    def read_flags(self, entries: Words) -> Words:
        """Return the flags of the pages of these entries, in any order; 0 where none is present."""
        return read_flags(self._kpageflags, entries)

    def read_runs(self, entries: Words) -> Words | None:
        """Return what `read_flags` does if frames follow each other, or are few; else None."""
        return read_runs(self._kpageflags, entries)

    def look(self, pagemap: int, stretches: Stretches) -> tuple[Words, PageReadings | None]:
        """Read the entries of stretches of pages; and their flags, if frames follow each other.

        Args:
            pagemap: descriptor of the target's /proc/PID/pagemap that shows frame numbers.
            stretches: of no more pages than one thread is to read at a time.

        Returns:
            The entries, and None if the frames are scattered: `read_scattered` reads the flags of
            many such pages for less, and then `settle` makes readings of both.

        Raises:
            ShortReadError: pagemap ended within one of the stretches.
        """
        self.note_pages(count_pages(stretches))
        if len(stretches) <= _STRETCHES_AT_ONCE:
            return self._look(pagemap, stretches)
        parts = np.split(stretches, range(_STRETCHES_AT_ONCE, len(stretches), _STRETCHES_AT_ONCE))
        looks = [self._look(pagemap, part) for part in parts]
        entries = np.concatenate([part for part, _ in looks])
        found = [readings for _, readings in looks if readings is not None]
        return entries, _join_readings(found) if len(found) == len(looks) else None

    def _look(self, pagemap: int, stretches: Stretches) -> tuple[Words, PageReadings | None]:
        entries = read_stretches(pagemap, stretches)
        # Where pages are read one by one, frames may be as well, and wait for no others.
        flags = read_runs(self._kpageflags, entries, most_runs=2 * len(stretches))
        return entries, None if flags is None else self.settle(pagemap, stretches, entries, flags)

    def read_scattered(
        self, entries: Sequence[Words], run: Callable[..., Any], verify_wanted: Callable[[], None]
    ) -> list[Words]:
        """Return the flags of pages whose frames are scattered, given what `look` returned.

        Args:
            entries: in pieces of what one thread is to read at a time.
            run: applies a function to all pieces: `map`, or the same in several threads.
            verify_wanted: called before each part of the reading; what it raises ends it.
        """
        return read_scattered(self._kpageflags, entries, run, verify_wanted)

    def settle(
        self, pagemap: int, stretches: Stretches, entries: Words, flags: Words
    ) -> PageReadings:
        """Look at stretches of pages once more, and read anew what was not of one moment.

        Raises:
            ShortReadError: pagemap ended within one of the stretches.
        """
        again = read_stretches(pagemap, stretches)
        return self._settle(pagemap, stretches, entries, flags, again)

    def _settle(
        self, pagemap: Pagemap, stretches: Stretches, entries: Words, flags: Words, again: Words
    ) -> PageReadings:
        """Read anew what was not of one moment, given a later look at the same entries."""
        codes = encode(entries, flags)
        suspects = np.flatnonzero((again != entries) | is_contradictory(entries, flags, codes))
        if not len(suspects):
            return PageReadings(entries, flags, codes, suspects)
        pages = number_pages(stretches)
        entries, flags = entries.copy(), flags.copy()  # to be written to
        again = again[suspects]
        for _ in range(SETTLE_ROUNDS - 1):
            entries[suspects] = again
            flags[suspects] = read_flags(self._kpageflags, again)
            again = read_pages(pagemap, pages[suspects])
            changed = (again != entries[suspects]) | is_contradictory(again, flags[suspects])
            again, suspects = again[changed], suspects[changed]
            if not len(suspects):
                return PageReadings(entries, flags, encode(entries, flags), suspects)
        entries[suspects] = again
        flags[suspects] = read_flags(self._kpageflags, again)
        again = read_pages(pagemap, pages[suspects])
        unstable = suspects[again != entries[suspects]]
        flags[unstable] = 0
        return PageReadings(entries, flags, encode(entries, flags), unstable)


def _note_nothing(_: int) -> None:
    """Of a reader that nobody counts for."""


def _join_readings(parts: Sequence[PageReadings]) -> PageReadings:
    starts = np.cumsum([0, *(len(part.entries) for part in parts[:-1])])
    return PageReadings(
        np.concatenate([part.entries for part in parts]),
        np.concatenate([part.flags for part in parts]),
        np.concatenate([part.codes for part in parts]),
        np.concatenate([part.unstable + start for part, start in zip(parts, starts, strict=True)]),
    )
