# SPDX-License-Identifier: Apache-2.0
"""The pages of ranges of any length, chunk by chunk, as fast as the kernel tells of them.

Worker, unprivileged. What is populated is found first; a few threads read it, most of the time in
the kernel. Fails if the address space goes meanwhile.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from typing import Final, Generic, NamedTuple, TypeVar

import numpy as np

from cowdaemon.worker.chunks import Chunk, iter_chunks, iter_pieces, locate_chunks
from cowdaemon.worker.disclosure import DisclosureMasks
from cowdaemon.worker.page_scan import iter_populated, iter_populated_by_reading
from cowdaemon.worker.page_states import Bytes, Words
from cowdaemon.worker.pagemap import ShortReadError, Stretches, count_pages
from cowdaemon.worker.reader import PageReadings, Reader, classify_readings
from cowdaemon.worker.targets import Target
from cowdaemon.worker.windows import Look, Waiting, Windows

__all__ = ["ChunkPages", "PageStreams"]

_FEW_STRETCHES: Final = 512
"""Up to so many, a piece is not only short reads."""
_short_reads: Final = threading.Lock()
"""Between short reads a thread keeps taking the interpreter's lock: two of them that do so at once
spend their time with waking each other."""

_R = TypeVar("_R")


class ChunkPages(NamedTuple):
    """A chunk, and what may be told of the pages listed in it: arrays of one element a page."""

    chunk: Chunk
    kpageflags: Words
    states: Bytes
    attributes: Bytes


class PageStreams(Generic[_R]):
    """Reads for many calls.

    Args:
        reader: reads the pages.
        masks: which flags may be told.
        threads: those that read.
    """

    def __init__(self, reader: Reader, masks: DisclosureMasks, threads: ThreadPoolExecutor) -> None:
        self._reader = reader
        self._masks = masks
        self._threads = threads

    def iter_chunks(
        self,
        target: Target,
        ranges: Sequence[tuple[int, int]],
        tell: Callable[[ChunkPages], _R],
        verify_wanted: Callable[[], None],
    ) -> Iterator[_R]:
        """Yield what `tell` makes of the chunks of ranges of pages, in order and without gaps.

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

        windows = Windows(reader, self._threads, ranges, verify_wanted)
        stream = _Stream(reader, self._masks, target, tell)
        for told in windows.iter_told(iter_pieces(iter_chunks(ranges, find)), stream.look):
            if not target.is_alive():  # what was skipped may have been empty for that
                raise ShortReadError
            yield told


class _Stream(NamedTuple, Generic[_R]):
    """What the steps of one call's reading have in common."""

    reader: Reader
    masks: DisclosureMasks
    target: Target
    tell: Callable[[ChunkPages], _R]

    def look(self, piece: list[Chunk]) -> Look[_R]:
        stretches = np.concatenate([chunk.stretches for chunk in piece])
        with _short_reads if len(stretches) > _FEW_STRETCHES else nullcontext():
            entries, readings = self.reader.look(self.target.pagemap, stretches)
            if readings is not None:
                return Look(count_pages(stretches), self._tell(piece, readings))
        settle = partial(self._settle, piece, stretches, entries)
        return Look(count_pages(stretches), Waiting(entries, settle))

    def _settle(
        self, piece: list[Chunk], stretches: Stretches, entries: Words, flags: Words
    ) -> list[_R]:
        return self._tell(piece, self.reader.settle(self.target.pagemap, stretches, entries, flags))

    def _tell(self, piece: list[Chunk], readings: PageReadings) -> list[_R]:
        states, attributes = classify_readings(readings, self.reader.features.layout)
        kpageflags = self.masks.apply(readings.entries, readings.flags, readings.codes)
        return [
            self.tell(ChunkPages(chunk, kpageflags[here], states[here], attributes[here]))
            for chunk, here in locate_chunks(piece)
        ]
