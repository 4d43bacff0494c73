# SPDX-License-Identifier: Apache-2.0
"""The pages of ranges of any length, chunk by chunk, as fast as the kernel tells of them.

Worker, unprivileged. What is populated is found first; a few threads read it, most of the time in
the kernel. Fails if the address space goes meanwhile.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from typing import Any, Final, Generic, NamedTuple, TypeAlias, TypeVar

import numpy as np

from cowdaemon.limits import PAGES_PER_CALL, READING_THREADS, WINDOW_PAGES, WINDOW_PIECES
from cowdaemon.worker.chunks import Chunk, iter_chunks, iter_pieces
from cowdaemon.worker.disclosure import DisclosureMasks
from cowdaemon.worker.page_scan import iter_populated, iter_populated_by_reading
from cowdaemon.worker.page_states import Bytes, Words
from cowdaemon.worker.pagemap import ShortReadError, Stretches, count_pages
from cowdaemon.worker.read_ahead import map_ahead
from cowdaemon.worker.reader import PageReadings, Reader, classify_readings
from cowdaemon.worker.targets import Target

__all__ = ["ChunkPages", "PageStreams", "map_at_once", "take"]

_NO_ENTRIES: Final[Words] = np.empty(0, np.uint64)

_FEW_STRETCHES: Final = 512
"""Up to so many, a piece is not only short reads."""
_short_reads: Final = threading.Lock()
"""Between short reads a thread keeps taking the interpreter's lock: two of them that do so at once
spend their time with waking each other."""

_T = TypeVar("_T")
_R = TypeVar("_R")

_Run: TypeAlias = Callable[..., Iterable[Any]]


class ChunkPages(NamedTuple):
    """A chunk, and what may be told of the pages listed in it: arrays of one element a page."""

    chunk: Chunk
    kpageflags: Words
    states: Bytes
    attributes: Bytes


class PageStreams(Generic[_R]):
    """Reads for many calls, with the same threads.

    Args:
        reader: reads the pages.
        masks: which flags may be told.
    """

    def __init__(self, reader: Reader, masks: DisclosureMasks) -> None:
        self._reader = reader
        self._masks = masks
        self.threads: Final = ThreadPoolExecutor(READING_THREADS, "reading")

    def iter_chunks(
        self,
        target: Target,
        ranges: Sequence[tuple[int, int]],
        tell: Callable[[ChunkPages], _R],
        verify_wanted: Callable[[], None],
    ) -> Iterator[_R]:
        """Yield what `tell` makes of the chunks of ranges of pages, in order and without gaps.

        Pieces whose frames follow each other are told one by one. Those whose frames are scattered
        wait for others, up to WINDOW_PAGES pages: the more, the less each of them costs.

        Args:
            target: the process.
            ranges: first page and page after the last of each; inside the address space.
            tell: called in any thread.
            verify_wanted: called before each part of the work, in any thread; what it raises ends
                the reading.

        Raises:
            ShortReadError: the address space is gone.
        """
        reader = self._reader
        scan = iter_populated if reader.features.has_pagemap_scan else iter_populated_by_reading

        def find(first_page: int, end_page: int) -> Iterator[Stretches]:
            verify_wanted()
            return scan(target.pagemap, first_page, end_page)

        pieces = iter_pieces(iter_chunks(ranges, find))
        is_small = sum(end - first for first, end in ranges) <= PAGES_PER_CALL
        run: _Run = map if is_small else partial(map_ahead, self.threads)
        run_at_once: _Run = map_at_once if is_small else self.threads.map
        stream = _Stream(reader, self._masks, target, tell, verify_wanted, run, run_at_once)
        window: list[_Look[_R]] = []
        page_count = 0
        for look in run(stream.look, pieces):
            window.append(look)
            page_count += count_pages(look.stretches)
            if window[0].told or page_count >= WINDOW_PAGES or len(window) == WINDOW_PIECES:
                yield from stream.finish(window)
                page_count = 0
        yield from stream.finish(window)


class _Look(NamedTuple, Generic[_R]):
    """A first look at a piece: `told` is None, and `entries` needed, if frames are scattered."""

    piece: list[Chunk]
    stretches: Stretches
    entries: Words
    told: list[_R] | None


class _Stream(NamedTuple, Generic[_R]):
    """What the steps of one call's reading have in common."""

    reader: Reader
    masks: DisclosureMasks
    target: Target
    tell: Callable[[ChunkPages], _R]
    verify_wanted: Callable[[], None]
    run: _Run
    run_at_once: _Run

    def look(self, piece: list[Chunk]) -> _Look[_R]:
        self.verify_wanted()
        stretches = np.concatenate([chunk.stretches for chunk in piece])
        with _short_reads if len(stretches) > _FEW_STRETCHES else nullcontext():
            entries, readings = self.reader.look(self.target.pagemap, stretches)
            if readings is None:
                return _Look(piece, stretches, entries, None)
            return _Look(piece, stretches, _NO_ENTRIES, self._tell(piece, readings))

    def finish(self, window: list[_Look[_R]]) -> Iterator[_R]:
        """Yield what is told of all pieces of a window; nothing is held for longer than needed."""
        tolds = deque(look.told for look in window)
        scattered = deque(look for look in window if look.told is None)
        window.clear()
        settled: Iterator[list[_R]] = iter(())
        if scattered:
            self.verify_wanted()
            entries = [look.entries for look in scattered]
            flags = deque(self.reader.read_scattered(entries, self.run, self.verify_wanted))
            del entries
            # At once: whoever takes no answers does not put the second look off.
            settled = iter(self.run_at_once(self._settle, take(scattered), take(flags)))
        for told in take(tolds):
            if not self.target.is_alive():  # what was skipped may have been empty for that
                raise ShortReadError
            yield from next(settled) if told is None else told

    def _settle(self, look: _Look[_R], flags: Words) -> list[_R]:
        self.verify_wanted()
        pagemap = self.target.pagemap
        readings = self.reader.settle(pagemap, look.stretches, look.entries, flags)
        return self._tell(look.piece, readings)

    def _tell(self, piece: list[Chunk], readings: PageReadings) -> list[_R]:
        states, attributes = classify_readings(readings, self.reader.features.layout)
        kpageflags = self.masks.apply(readings.entries, readings.flags, readings.codes)
        told, start = [], 0
        for chunk in piece:
            end = start + chunk.listed_page_count
            pages = kpageflags[start:end], states[start:end], attributes[start:end]
            told.append(self.tell(ChunkPages(chunk, *pages)))
            start = end
        return told


def take(items: deque[_T]) -> Iterator[_T]:
    """Yield the items, and hold none that has been taken."""
    while items:
        yield items.popleft()


def map_at_once(function: Callable[..., _R], *iterables: Iterable[Any]) -> Iterator[_R]:
    """Do what `map` does before anything is taken, as threads do."""
    return iter(list(map(function, *iterables)))
