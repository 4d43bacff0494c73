# SPDX-License-Identifier: Apache-2.0
"""The pages of two processes side by side, chunk by chunk, each at one moment of both.

Worker, unprivileged. The entries of the first are read, those of the second, and those of the first
again: what has not changed was true while the second's were read. Of pages that flags say something
about, the entries of both are read once more after these. Fails if one of the address spaces goes
meanwhile.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain, tee
from typing import Final, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from cowdaemon.errors import CowdError, Reason
from cowdaemon.limits import SETTLE_ROUNDS
from cowdaemon.worker.chunks import (
    Chunk,
    divide_stretches,
    iter_chunks,
    iter_pieces,
    locate_chunks,
)
from cowdaemon.worker.comparisons import (
    close,
    compare,
    find_copies,
    find_moved,
    is_migrating,
    is_open,
    tell_unsettled,
)
from cowdaemon.worker.mappings import find_anonymous
from cowdaemon.worker.page_scan import iter_populated, iter_populated_by_reading
from cowdaemon.worker.page_states import Bytes, Mask, PageState, Words
from cowdaemon.worker.pagemap import (
    JOINED_PAGES,
    NO_STRETCHES,
    Numbers,
    ShortReadError,
    Stretches,
    count_pages,
    join_stretches,
    number_pages,
    read_pages,
    read_stretches,
)
from cowdaemon.worker.reader import Reader
from cowdaemon.worker.targets import Target
from cowdaemon.worker.windows import Look, Waiting, Windows

__all__ = ["ComparedChunk", "ComparisonStreams", "iter_gaps", "iter_union"]

_NEVER: Final = 1 << 62
"""The page that comes after all."""
_PAGES_AT_ONCE: Final = 4_096
"""Of each process: so few that what the kernel looks at for them (64 bytes for each frame, too) is
still in the processor's caches for the other process and at the second look."""
_PAGES_A_GAP: Final = 512
"""A scan by itself takes 7 us; in passing, 14 ns a page that is there."""

_R = TypeVar("_R")


class ComparedChunk(NamedTuple):
    """A chunk, and what was found of the pages listed in it: arrays of one element a page."""

    chunk: Chunk
    findings: Bytes
    states: Bytes
    other_states: Bytes


class _Side(NamedTuple):
    """One of the two processes, and the pages of its anonymous mappings."""

    target: Target
    anonymous: Stretches

    def read(self, stretches: Stretches) -> Words:
        try:
            return read_stretches(self.target.pagemap, stretches)
        except ShortReadError:
            raise _gone(self.target) from None

    def read_pages(self, pages: Numbers) -> Words:
        try:
            return read_pages(self.target.pagemap, pages)
        except ShortReadError:
            raise _gone(self.target) from None


class _Found(NamedTuple):
    """What was found of pages, and which of them did not hold still meanwhile."""

    findings: Bytes
    states: Bytes
    other_states: Bytes
    moved: Mask
    other_moved: Mask


class _FirstLook(NamedTuple):
    """What a first look at pages has found; some findings may be open.

    Attributes:
        places: of the pages that are to be looked at again once all flags have been read.
        entries: of these, in the first process.
        other_entries: in the second.
        found: of all pages.
    """

    places: NDArray[np.intp]
    entries: Words
    other_entries: Words
    found: _Found


class ComparisonStreams:
    """Compares for many calls.

    Args:
        reader: reads the pages.
        threads: those that read.
    """

    def __init__(self, reader: Reader, threads: ThreadPoolExecutor) -> None:
        self._reader = reader
        self._threads = threads

    def iter_chunks(
        self,
        targets: tuple[Target, Target],
        ranges: Sequence[tuple[int, int]],
        tell: Callable[[ComparedChunk], _R],
        verify_wanted: Callable[[], None],
        with_copiers: bool = True,
    ) -> Iterator[_R]:
        """Yield what `tell` makes of the chunks of ranges of pages, in order and without gaps.

        Args:
            targets: the processes.
            ranges: first page and page after the last of each; inside both address spaces.
            tell: called in any thread.
            verify_wanted: called before each part of the work, in any thread; what it raises ends
                the reading.
            with_copiers: whether to find who made a page, which takes flags of all that differ.

        Raises:
            CowdError: PROCESS_GONE, of the one whose address space is gone.
        """
        features = self._reader.features
        scan = iter_populated if features.has_pagemap_scan else iter_populated_by_reading

        def find(target: Target, first_page: int, end_page: int) -> Iterator[Stretches]:
            try:
                for stretches in scan(target.pagemap, first_page, end_page):
                    verify_wanted()
                    yield stretches
            except ShortReadError:
                raise _gone(target) from None

        def find_either(first_page: int, end_page: int) -> Iterator[Stretches]:
            verify_wanted()
            of_first, ahead = tee(find(targets[0], first_page, end_page))
            gaps = iter_gaps(ahead, first_page, end_page)
            return iter_union(of_first, chain.from_iterable(find(targets[1], *gap) for gap in gaps))

        first, second = (
            _Side(target, find_anonymous(target.number_mappings())) for target in targets
        )
        windows = Windows(self._reader, self._threads, ranges, verify_wanted)
        stream = _Stream(self._reader, (first, second), tell, with_copiers)
        return windows.iter_told(iter_pieces(iter_chunks(ranges, find_either)), stream.look)


class _Stream(NamedTuple, Generic[_R]):
    """What the steps of one call have in common."""

    reader: Reader
    sides: tuple[_Side, _Side]
    tell: Callable[[ComparedChunk], _R]
    with_copiers: bool

    def look(self, piece: list[Chunk]) -> Look[_R]:
        """Look at a piece, and tell of it if that takes no scattered frames."""
        stretches = np.concatenate([chunk.stretches for chunk in piece])
        self.reader.note_pages(len(self.sides) * count_pages(stretches))
        look = self._look_first(stretches)
        entries = _list_open(look)
        flags = self.reader.read_runs(entries)
        tell = partial(self._tell, piece, stretches, look)
        if flags is None:
            return Look(len(entries), Waiting(entries, tell))
        return Look(0, tell(flags))

    def _tell(
        self, piece: list[Chunk], stretches: Stretches, look: _FirstLook, flags: Words
    ) -> list[_R]:
        self._look_again(stretches, look, flags)
        self._settle(stretches, look.found)
        for side in self.sides:  # what was skipped may have been empty for that
            if not side.target.is_alive():
                raise _gone(side.target)
        findings, states, other_states, _, _ = look.found
        return [
            self.tell(ComparedChunk(chunk, findings[here], states[here], other_states[here]))
            for chunk, here in locate_chunks(piece)
        ]

    def _settle(self, stretches: Stretches, found: _Found) -> None:
        """Look anew at what did not hold still."""
        suspects = np.flatnonzero(found.moved | found.other_moved)
        if not len(suspects):
            return
        pages = number_pages(stretches)
        for _ in range(SETTLE_ROUNDS - 1):
            ascending = np.sort(pages[suspects])
            around = join_stretches(np.column_stack((ascending, ascending + 1)), JOINED_PAGES)
            places = np.searchsorted(number_pages(around), pages[suspects])
            anew = self._look_first(around)
            self._look_again(around, anew, self.reader.read_flags(_list_open(anew)))
            for part, part_anew in zip(found, anew.found, strict=True):
                part[suspects] = part_anew[places]
            suspects = suspects[(found.moved | found.other_moved)[suspects]]
            if not len(suspects):
                return
        tell_unsettled(*found)

    def _look_first(self, stretches: Stretches) -> _FirstLook:
        first, second = self.sides
        page_count = count_pages(stretches)
        entries, other_entries = _SCRATCH.take(page_count)
        moved, rests_on_flags = np.zeros((2, page_count), np.bool_)
        for here, part in _iter_parts(stretches):
            mine, theirs = first.read(part), second.read(part)
            entries[here], other_entries[here] = mine, theirs
            # Where many are looked at again after their flags, all are: that is one look less.
            if self.with_copiers and 2 * np.count_nonzero(find_copies(mine, theirs)) >= len(mine):
                rests_on_flags[here] = True
            else:
                moved[here] = find_moved(mine, first.read(part))
        moved |= is_migrating(entries)
        classify = self.reader.classify_entries
        states, places = classify(entries, stretches, first.anonymous)
        other_states, other_places = classify(other_entries, stretches, second.anonymous)
        findings = compare(entries, other_entries, states, other_states, self.with_copiers)
        rests_on_flags |= is_open(findings)
        rests_on_flags[places] = rests_on_flags[other_places] = True
        for each in states, other_states:  # what seems to be swapped out may be being migrated
            rests_on_flags |= each == PageState.ANON_SWAPPED
        places = rests_on_flags.nonzero()[0]
        found = _Found(findings, states, other_states, moved, is_migrating(other_entries))
        return _FirstLook(places, entries[places], other_entries[places], found)

    def _look_again(self, stretches: Stretches, look: _FirstLook, flags: Words) -> None:
        """Close what was open, with the flags of its frames, and see what has moved meanwhile."""
        places, entries, other_entries, found = look
        if not len(places):
            return
        is_closed = is_open(found.findings[places])
        if is_closed.any():
            mine, theirs = np.split(flags, 2)
            sides = entries[is_closed], other_entries[is_closed]
            with_copiers = self.with_copiers and self.reader.features.has_page_copiers
            found.findings[places[is_closed]] = close(*sides, mine, theirs, with_copiers)
        first, second = self.sides
        if len(places) * JOINED_PAGES < len(found.findings):
            pages = number_pages(stretches)[places]
            found.moved[places] |= find_moved(entries, first.read_pages(pages))
            found.other_moved[places] |= find_moved(other_entries, second.read_pages(pages))
            return
        for here, part in _iter_parts(stretches):  # all of them would be read for these
            among = slice(*np.searchsorted(places, (here.start, here.stop)))
            of_part = places[among] - here.start
            again, other_again = first.read(part)[of_part], second.read(part)[of_part]
            found.moved[places[among]] |= find_moved(entries[among], again)
            found.other_moved[places[among]] |= find_moved(other_entries[among], other_again)


class _Scratch(threading.local):
    """Two arrays of each thread for what it reads, as memory that is new has to be cleared first.

    What was read is overwritten by the next look.
    """

    words = np.empty((2, 0), np.uint64)

    def take(self, page_count: int) -> Words:
        """Return arrays of so many words for entries of both processes."""
        if page_count > self.words.shape[1]:
            self.words = np.empty((2, page_count), np.uint64)
        return self.words[:, :page_count]


_SCRATCH: Final = _Scratch()


def _iter_parts(stretches: Stretches) -> Iterator[tuple[slice, Stretches]]:
    """Yield what is read at once, and where its pages are among all."""
    start = 0
    for part in divide_stretches(stretches, _PAGES_AT_ONCE):
        end = start + count_pages(part)
        yield slice(start, end), part
        start = end


def _list_open(look: _FirstLook) -> Words:
    """Return the entries of open pages, of the first process and then of the second."""
    are_open = is_open(look.found.findings[look.places])
    return np.concatenate((look.entries[are_open], look.other_entries[are_open]))


def iter_gaps(
    parts: Iterable[Stretches], first_page: int, end_page: int
) -> Iterator[tuple[int, int]]:
    """Yield first page and page after the last of what lies between the stretches of parts.

    Where that would be much in little, as one with what it lies between; nothing of it where
    stretches are so close that they are read as one.
    """
    for stretches in parts:
        joined = join_stretches(stretches, JOINED_PAGES)
        reached = int(joined[-1, 1])
        if len(joined) * _PAGES_A_GAP > reached - first_page:
            yield first_page, reached
        else:
            ends = [first_page, *joined[:-1, 1].tolist()]
            yield from (
                (end, start)
                for end, start in zip(ends, joined[:, 0].tolist(), strict=True)
                if end < start
            )
        first_page = reached
    if first_page < end_page:
        yield first_page, end_page


def iter_union(*parts: Iterator[Stretches]) -> Iterator[Stretches]:
    """Yield the stretches of both of two iterators: ascending, none overlapping.

    No more is held of either than what it yields at a time.
    """
    ahead: list[Stretches] = [NO_STRETCHES, NO_STRETCHES]
    borders = [0, 0]
    left = list(parts)
    while True:
        for number, part in enumerate(left):
            if not len(ahead[number]):
                ahead[number] = next(part, NO_STRETCHES)
                borders[number] = int(ahead[number][-1, 1]) if len(ahead[number]) else _NEVER
        border = min(borders)
        if border == _NEVER and not any(map(len, ahead)):
            return
        below = [stretches[stretches[:, 0] < border].clip(max=border) for stretches in ahead]
        ahead = [stretches[stretches[:, 1] > border].clip(min=border) for stretches in ahead]
        yield _unite(np.concatenate(below))


def _unite(stretches: Stretches) -> Stretches:
    """Return stretches that may overlap, ascending, as fewer that do not even touch."""
    ascending = stretches[np.argsort(stretches[:, 0], kind="stable")]
    ascending[:, 1] = np.maximum.accumulate(ascending[:, 1])
    return join_stretches(ascending)


def _gone(target: Target) -> CowdError:
    return CowdError(Reason.PROCESS_GONE, pid=target.pid)
