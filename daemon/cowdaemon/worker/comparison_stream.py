# SPDX-License-Identifier: Apache-2.0
"""The pages of two processes side by side, chunk by chunk, each at one moment of both.

Worker, unprivileged. The entries of the first are read, those of the second, then what flags are
needed, and then the entries of both again: where none has changed, all of it was true at once,
between the reads. Fails if one of the address spaces goes meanwhile.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final, Generic, NamedTuple, TypeAlias, TypeVar

import numpy as np

from cowdaemon.errors import CowdError, Reason
from cowdaemon.limits import PAGES_PER_CALL, SETTLE_ROUNDS, WINDOW_PAGES, WINDOW_PIECES
from cowdaemon.worker.chunks import Chunk, iter_chunks, iter_pieces
from cowdaemon.worker.comparisons import close, compare, find_moved, is_open, tell_unsettled
from cowdaemon.worker.mappings import MappingKind
from cowdaemon.worker.page_scan import iter_populated, iter_populated_by_reading
from cowdaemon.worker.page_states import Bytes, Mask, Words
from cowdaemon.worker.page_stream import map_at_once, take
from cowdaemon.worker.pagemap import (
    JOINED_PAGES,
    NO_STRETCHES,
    ShortReadError,
    Stretches,
    join_stretches,
    number_pages,
    read_stretches,
)
from cowdaemon.worker.read_ahead import map_ahead
from cowdaemon.worker.reader import Reader
from cowdaemon.worker.summaries import number_extents
from cowdaemon.worker.targets import Target

__all__ = ["ComparedChunk", "ComparisonStreams", "iter_union"]

_NO_ENTRIES: Final[Words] = np.empty(0, np.uint64)

_R = TypeVar("_R")

_Run: TypeAlias = Callable[..., Iterable[Any]]


class ComparedChunk(NamedTuple):
    """A chunk, and what was found of the pages listed in it: arrays of one element a page."""

    chunk: Chunk
    findings: Bytes
    states: Bytes
    other_states: Bytes


class _Side(NamedTuple):
    """One of the two processes."""

    target: Target
    anonymous: Stretches

    def read(self, stretches: Stretches) -> Words:
        try:
            return read_stretches(self.target.pagemap, stretches)
        except ShortReadError:
            raise _gone(self.target) from None


class _Found(NamedTuple):
    """What a first look at pages has found; some findings may be open."""

    entries: Words
    other_entries: Words
    states: Bytes
    other_states: Bytes
    findings: Bytes


class _Look(NamedTuple):
    """What was found of pages, and which of them did not hold still meanwhile."""

    findings: Bytes
    states: Bytes
    other_states: Bytes
    moved: Mask
    other_moved: Mask


class _Piece(NamedTuple, Generic[_R]):
    """What one thread has looked at: `told`, or None if it waits for the flags of its frames.

    `entries` are those of the frames: of all open pages in the first process, then in the second.
    What has been told keeps nothing else: many of them may lie behind one that waits.
    """

    chunks: list[Chunk]
    stretches: Stretches
    found: _Found | None
    entries: Words
    told: list[_R] | None


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

        Pieces of which flags are needed, of frames that are scattered, wait for others, up to
        WINDOW_PAGES frames: the more, the less each of them costs.

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

        first, second = (_Side(target, _find_anonymous(target)) for target in targets)
        pieces = iter_pieces(iter_chunks(ranges, find_both))
        is_small = sum(end - first for first, end in ranges) <= PAGES_PER_CALL
        run: _Run = map if is_small else partial(map_ahead, self._threads)
        run_at_once: _Run = map_at_once if is_small else self._threads.map
        stream = _Stream(self._reader, (first, second), tell, verify_wanted, run, run_at_once)
        window: list[_Piece[_R]] = []
        frame_count = 0
        for piece in run(stream.look, pieces):
            window.append(piece)
            frame_count += len(piece.entries)
            if window[0].told or frame_count >= WINDOW_PAGES or len(window) == WINDOW_PIECES:
                yield from stream.finish(window)
                frame_count = 0
        yield from stream.finish(window)


class _Stream(NamedTuple, Generic[_R]):
    """What the steps of one call have in common."""

    reader: Reader
    sides: tuple[_Side, _Side]
    tell: Callable[[ComparedChunk], _R]
    verify_wanted: Callable[[], None]
    run: _Run
    run_at_once: _Run

    def look(self, chunks: list[Chunk]) -> _Piece[_R]:
        """Look at a piece, and tell of it if that takes no scattered frames."""
        self.verify_wanted()
        stretches = np.concatenate([chunk.stretches for chunk in chunks])
        found = self._look(stretches)
        entries = _find_open(found)
        flags = self.reader.read_runs(entries)
        if flags is None:
            return _Piece(chunks, stretches, found, entries, None)
        told = self._tell(chunks, stretches, found, flags)
        return _Piece([], NO_STRETCHES, None, _NO_ENTRIES, told)

    def finish(self, window: list[_Piece[_R]]) -> Iterator[_R]:
        """Yield what is told of all pieces of a window; nothing is held for longer than needed."""
        tolds = deque(piece.told for piece in window)
        waiting = deque(piece for piece in window if piece.told is None)
        window.clear()
        settled: Iterator[list[_R]] = iter(())
        if waiting:
            self.verify_wanted()
            entries = [piece.entries for piece in waiting]
            flags = deque(self.reader.read_scattered(entries, self.run, self.verify_wanted))
            del entries
            # At once: whoever takes no answers does not put the second look off.
            settled = iter(self.run_at_once(self._tell_waiting, take(waiting), take(flags)))
        for told in take(tolds):
            yield from next(settled) if told is None else told

    def _tell_waiting(self, piece: _Piece[_R], flags: Words) -> list[_R]:
        self.verify_wanted()
        assert piece.found  # noqa: S101 - for the type checker: it waited
        return self._tell(piece.chunks, piece.stretches, piece.found, flags)

    def _tell(
        self, chunks: list[Chunk], stretches: Stretches, found: _Found, flags: Words
    ) -> list[_R]:
        look = self._settle(stretches, self._look_again(stretches, found, flags))
        for side in self.sides:  # what was skipped may have been empty for that
            if not side.target.is_alive():
                raise _gone(side.target)
        told, start = [], 0
        for chunk in chunks:
            end = start + chunk.listed_page_count
            pages = look.findings[start:end], look.states[start:end], look.other_states[start:end]
            told.append(self.tell(ComparedChunk(chunk, *pages)))
            start = end
        return told

    def _settle(self, stretches: Stretches, look: _Look) -> _Look:
        """Look anew at what did not hold still."""
        suspects = np.flatnonzero(look.moved | look.other_moved)
        if not len(suspects):
            return look
        pages = number_pages(stretches)
        for _ in range(SETTLE_ROUNDS - 1):
            ascending = np.sort(pages[suspects])
            around = join_stretches(np.column_stack((ascending, ascending + 1)), JOINED_PAGES)
            places = np.searchsorted(number_pages(around), pages[suspects])
            found = self._look(around)
            flags = self.reader.read_flags(_find_open(found))
            anew = self._look_again(around, found, flags)
            for part, part_anew in zip(look, anew, strict=True):
                part[suspects] = part_anew[places]
            suspects = suspects[(look.moved | look.other_moved)[suspects]]
            if not len(suspects):
                return look
        tell_unsettled(*look)
        return look

    def _look(self, stretches: Stretches) -> _Found:
        first, second = self.sides
        entries, other_entries = first.read(stretches), second.read(stretches)
        classify = self.reader.classify_entries
        states = classify(entries, stretches, first.anonymous)
        other_states = classify(other_entries, stretches, second.anonymous)
        findings = compare(entries, other_entries, states, other_states)
        return _Found(entries, other_entries, states, other_states, findings)

    def _look_again(self, stretches: Stretches, found: _Found, flags: Words) -> _Look:
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
        return _Look(findings, states, other_states, moved, other_moved)


def _find_open(found: _Found) -> Words:
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


_NEVER: Final = 1 << 62


def _unite(stretches: Stretches) -> Stretches:
    """Return stretches that may overlap, ascending, as fewer that do not even touch."""
    ascending = stretches[np.argsort(stretches[:, 0], kind="stable")]
    ascending[:, 1] = np.maximum.accumulate(ascending[:, 1])
    return join_stretches(ascending)


def _find_anonymous(target: Target) -> Stretches:
    """Return the pages of the anonymous mappings that a process has now."""
    mapped = number_extents(target.list_extents())
    anonymous: Stretches = mapped[mapped[:, 2] == MappingKind.ANONYMOUS, :2]
    return anonymous


def _gone(target: Target) -> CowdError:
    return CowdError(Reason.PROCESS_GONE, pid=target.pid)
