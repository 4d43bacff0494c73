# SPDX-License-Identifier: Apache-2.0
"""The pages of ranges of any length, chunk by chunk, as fast as the kernel tells of them.

Worker, unprivileged. What is populated is found first; a few threads read it, most of the time in
the kernel. Fails if the address space goes meanwhile.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple, TypeVar

import numpy as np

from cowdaemon.limits import PAGES_PER_CALL, READING_THREADS, WINDOW_PAGES
from cowdaemon.worker.chunks import Chunk, iter_chunks, iter_pieces
from cowdaemon.worker.disclosure import DisclosureMasks
from cowdaemon.worker.page_scan import iter_populated, iter_populated_by_reading
from cowdaemon.worker.page_states import Bytes, Words
from cowdaemon.worker.pagemap import ShortReadError, Stretches
from cowdaemon.worker.reader import PageReadings, Reader, classify_readings
from cowdaemon.worker.targets import Target

__all__ = ["ChunkPages", "PageStreams"]

_T = TypeVar("_T")
_R = TypeVar("_R")


class ChunkPages(NamedTuple):
    """A chunk, and what may be told of the pages listed in it: arrays of one element a page."""

    chunk: Chunk
    kpageflags: Words
    states: Bytes
    attributes: Bytes


class PageStreams:
    """Reads for many calls, with the same threads.

    Args:
        reader: reads the pages.
        masks: which flags may be told.
    """

    def __init__(self, reader: Reader, masks: DisclosureMasks) -> None:
        self._reader = reader
        self._masks = masks
        self._threads = ThreadPoolExecutor(READING_THREADS, "reading")

    def iter_chunk_pages(
        self,
        target: Target,
        ranges: Sequence[tuple[int, int]],
        verify_wanted: Callable[[], None],
    ) -> Iterator[ChunkPages]:
        """Yield the chunks of ranges of pages, in order and without gaps.

        Pieces whose frames follow each other are told one by one. Those whose frames are scattered
        wait for others, up to WINDOW_PAGES pages: the more, the less each of them costs.

        Args:
            target: the process.
            ranges: first page and page after the last of each; inside the address space.
            verify_wanted: called before each part of the work, in any thread; what it raises ends
                the reading.

        Raises:
            ShortReadError: the address space is gone.
        """
        reader = self._reader
        scan = iter_populated if reader.features.has_pagemap_scan else iter_populated_by_reading
        pieces = iter_pieces(iter_chunks(ranges, partial(scan, target.pagemap)))
        is_small = sum(end - first for first, end in ranges) <= PAGES_PER_CALL
        run = map if is_small else partial(_map_ahead, self._threads)
        stream = _Stream(reader, self._masks, target, verify_wanted, run)
        window: list[_Look] = []
        for look in run(stream.look, pieces):
            window.append(look)
            if window[0].told or sum(len(each.entries) for each in window) >= WINDOW_PAGES:
                yield from stream.finish(window)
        yield from stream.finish(window)


class _Look(NamedTuple):
    """A first look at a piece: `told` is None if the frames are scattered."""

    piece: list[Chunk]
    stretches: Stretches
    entries: Words
    told: list[ChunkPages] | None


class _Stream(NamedTuple):
    """What the steps of one call's reading have in common."""

    reader: Reader
    masks: DisclosureMasks
    target: Target
    verify_wanted: Callable[[], None]
    run: Callable[..., Iterable[Any]]

    def look(self, piece: list[Chunk]) -> _Look:
        self.verify_wanted()
        stretches = np.concatenate([chunk.stretches for chunk in piece])
        entries, readings = self.reader.look(self.target.pagemap, stretches)
        told = None if readings is None else self._tell(piece, readings)
        return _Look(piece, stretches, entries, told)

    def finish(self, window: list[_Look]) -> Iterator[ChunkPages]:
        """Yield what may be told of all pieces of a window."""
        tolds = [look.told for look in window]
        scattered = deque(look for look in window if look.told is None)
        window.clear()  # what is worked on and done is not held for longer
        settled: Iterator[list[ChunkPages]] = iter(())
        if scattered:
            self.verify_wanted()
            flags = self.reader.read_scattered([look.entries for look in scattered], self.run)
            settled = iter(self.run(self._settle, _take(scattered), _take(deque(flags))))
            del flags
        for told in tolds:
            if not self.target.is_alive():  # what was skipped may have been empty for that
                raise ShortReadError
            yield from next(settled) if told is None else told

    def _settle(self, look: _Look, flags: Words) -> list[ChunkPages]:
        self.verify_wanted()
        pagemap = self.target.pagemap
        readings = self.reader.settle(pagemap, look.stretches, look.entries, flags)
        return self._tell(look.piece, readings)

    def _tell(self, piece: list[Chunk], readings: PageReadings) -> list[ChunkPages]:
        states, attributes = classify_readings(readings, self.reader.features.layout)
        kpageflags = self.masks.apply(readings.entries, readings.flags)
        told, start = [], 0
        for chunk in piece:
            end = start + chunk.listed_page_count
            told.append(
                ChunkPages(chunk, kpageflags[start:end], states[start:end], attributes[start:end])
            )
            start = end
        return told


def _take(items: deque[_T]) -> Iterator[_T]:
    while items:
        yield items.popleft()


def _map_ahead(
    threads: ThreadPoolExecutor, function: Callable[..., _R], *iterables: Iterable[Any]
) -> Iterator[_R]:
    """Do what `map` does in several threads, few results ahead of what has been taken."""
    under_way: deque[Future[_R]] = deque()
    for arguments in zip(*iterables, strict=False):
        under_way.append(threads.submit(function, *arguments))
        if len(under_way) > READING_THREADS:
            yield under_way.popleft().result()
    while under_way:
        yield under_way.popleft().result()
