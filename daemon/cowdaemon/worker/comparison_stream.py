# SPDX-License-Identifier: Apache-2.0
"""The pages of two processes side by side, chunk by chunk, each at one moment of both.

Worker, unprivileged. The entries of the first are read, those of the second, then what flags are
needed, and then the entries of both again: where none has changed, all of it was true at once,
between the reads. Fails if one of the address spaces goes meanwhile.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, Generic, NamedTuple, TypeVar

import numpy as np

from cowdaemon.errors import CowdError, Reason
from cowdaemon.limits import SETTLE_ROUNDS
from cowdaemon.worker.chunks import Chunk, iter_chunks, iter_pieces, locate_chunks
from cowdaemon.worker.comparisons import close, compare, find_moved, is_open, tell_unsettled
from cowdaemon.worker.mappings import find_anonymous
from cowdaemon.worker.page_scan import iter_populated, iter_populated_by_reading
from cowdaemon.worker.page_states import Bytes, Mask, Words
from cowdaemon.worker.pagemap import (
    JOINED_PAGES,
    NO_STRETCHES,
    ShortReadError,
    Stretches,
    count_pages,
    join_stretches,
    number_pages,
    read_stretches,
)
from cowdaemon.worker.reader import Reader
from cowdaemon.worker.targets import Target
from cowdaemon.worker.windows import Look, Waiting, Windows

__all__ = ["ComparedChunk", "ComparisonStreams", "iter_union"]

_NEVER: Final = 1 << 62
"""The page that comes after all."""

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


class _FirstLook(NamedTuple):
    """What a first look at pages has found; some findings may be open."""

    entries: Words
    other_entries: Words
    states: Bytes
    other_states: Bytes
    findings: Bytes


class _SecondLook(NamedTuple):
    """What was found of pages, and which of them did not hold still meanwhile."""

    findings: Bytes
    states: Bytes
    other_states: Bytes
    moved: Mask
    other_moved: Mask


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
    ) -> Iterator[_R]:
        """Yield what `tell` makes of the chunks of ranges of pages, in order and without gaps.

        Args:
            targets: the processes.
            ranges: first page and page after the last of each; inside both address spaces.
            tell: called in any thread.
            verify_wanted: called before each part of the work, in any thread; what it raises ends
                the reading.

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

        def find_both(first_page: int, end_page: int) -> Iterator[Stretches]:
            verify_wanted()
            return iter_union(*(find(target, first_page, end_page) for target in targets))

        first, second = (
            _Side(target, find_anonymous(target.number_mappings())) for target in targets
        )
        windows = Windows(self._reader, self._threads, ranges, verify_wanted)
        stream = _Stream(self._reader, (first, second), tell)
        return windows.iter_told(iter_pieces(iter_chunks(ranges, find_both)), stream.look)


class _Stream(NamedTuple, Generic[_R]):
    """What the steps of one call have in common."""

    reader: Reader
    sides: tuple[_Side, _Side]
    tell: Callable[[ComparedChunk], _R]

    def look(self, piece: list[Chunk]) -> Look[_R]:
        """Look at a piece, and tell of it if that takes no scattered frames."""
        stretches = np.concatenate([chunk.stretches for chunk in piece])
        self.reader.note_pages(len(self.sides) * count_pages(stretches))
        found = self._look_first(stretches)
        entries = _find_open(found)
        flags = self.reader.read_runs(entries)
        tell = partial(self._tell, piece, stretches, found)
        if flags is None:
            return Look(len(entries), Waiting(entries, tell))
        return Look(0, tell(flags))

    def _tell(
        self, piece: list[Chunk], stretches: Stretches, found: _FirstLook, flags: Words
    ) -> list[_R]:
        look = self._settle(stretches, self._look_again(stretches, found, flags))
        for side in self.sides:  # what was skipped may have been empty for that
            if not side.target.is_alive():
                raise _gone(side.target)
        findings, states, other_states, _, _ = look
        return [
            self.tell(ComparedChunk(chunk, findings[here], states[here], other_states[here]))
            for chunk, here in locate_chunks(piece)
        ]

    def _settle(self, stretches: Stretches, look: _SecondLook) -> _SecondLook:
        """Look anew at what did not hold still."""
        suspects = np.flatnonzero(look.moved | look.other_moved)
        if not len(suspects):
            return look
        pages = number_pages(stretches)
        for _ in range(SETTLE_ROUNDS - 1):
            ascending = np.sort(pages[suspects])
            around = join_stretches(np.column_stack((ascending, ascending + 1)), JOINED_PAGES)
            places = np.searchsorted(number_pages(around), pages[suspects])
            found = self._look_first(around)
            flags = self.reader.read_flags(_find_open(found))
            anew = self._look_again(around, found, flags)
            for part, part_anew in zip(look, anew, strict=True):
                part[suspects] = part_anew[places]
            suspects = suspects[(look.moved | look.other_moved)[suspects]]
            if not len(suspects):
                return look
        tell_unsettled(*look)
        return look

    def _look_first(self, stretches: Stretches) -> _FirstLook:
        first, second = self.sides
        entries, other_entries = first.read(stretches), second.read(stretches)
        classify = self.reader.classify_entries
        states = classify(entries, stretches, first.anonymous)
        other_states = classify(other_entries, stretches, second.anonymous)
        findings = compare(entries, other_entries, states, other_states)
        return _FirstLook(entries, other_entries, states, other_states, findings)

    def _look_again(self, stretches: Stretches, found: _FirstLook, flags: Words) -> _SecondLook:
        """Close what was open, with the flags of its frames, and see what has moved."""
        entries, other_entries, states, other_states, findings = found
        places = np.flatnonzero(is_open(findings))
        if len(places):
            mine, theirs = np.split(flags, 2)
            sides = entries[places], other_entries[places]
            has_copiers = self.reader.features.has_page_copiers
            findings[places] = close(*sides, mine, theirs, has_copiers)
        first, second = self.sides
        moved = find_moved(entries, first.read(stretches))
        other_moved = find_moved(other_entries, second.read(stretches))
        return _SecondLook(findings, states, other_states, moved, other_moved)


def _find_open(found: _FirstLook) -> Words:
    """Return the entries of open pages, of the first process and then of the second."""
    places = np.flatnonzero(is_open(found.findings))
    return np.concatenate((found.entries[places], found.other_entries[places]))


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
