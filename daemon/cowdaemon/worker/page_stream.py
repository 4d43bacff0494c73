# SPDX-License-Identifier: Apache-2.0
"""The pages of ranges of any length, chunk by chunk, as fast as the kernel tells of them.

Worker, unprivileged. What is populated is found first, then read a window at a time. Fails if the
address space goes meanwhile.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from cowdaemon.worker.chunks import Chunk, iter_chunks, iter_pieces, iter_windows
from cowdaemon.worker.disclosure import DisclosureMasks
from cowdaemon.worker.page_scan import iter_populated, iter_populated_by_reading
from cowdaemon.worker.page_states import Bytes, Words
from cowdaemon.worker.pagemap import ShortReadError
from cowdaemon.worker.reader import PageReadings, Reader, classify_readings
from cowdaemon.worker.targets import Target

__all__ = ["ChunkPages", "iter_chunk_pages"]


class ChunkPages(NamedTuple):
    """A chunk, and what may be told of the pages listed in it: arrays of one element a page."""

    chunk: Chunk
    kpageflags: Words
    states: Bytes
    attributes: Bytes


def iter_chunk_pages(
    reader: Reader,
    masks: DisclosureMasks,
    target: Target,
    ranges: Sequence[tuple[int, int]],
    verify_wanted: Callable[[], None],
) -> Iterator[ChunkPages]:
    """Yield the chunks of ranges of pages, in order and without gaps.

    Args:
        reader: reads the pages.
        masks: which flags may be told.
        target: the process.
        ranges: first page and page after the last of each; inside the address space.
        verify_wanted: called before each part of the work, in any thread; what it raises ends the
            reading.

    Raises:
        ShortReadError: the address space is gone.
    """
    scan = iter_populated if reader.features.has_pagemap_scan else iter_populated_by_reading
    for window in iter_windows(iter_chunks(ranges, partial(scan, target.pagemap))):
        verify_wanted()
        if not target.is_alive():  # what was skipped may have been empty for that
            raise ShortReadError
        pieces = list(iter_pieces(window))
        for told in reader.read_ahead(
            target.pagemap,
            [np.concatenate([chunk.stretches for chunk in piece]) for piece in pieces],
            partial(_tell, reader, masks, pieces),
            verify_wanted,
        ):
            yield from told


def _tell(
    reader: Reader,
    masks: DisclosureMasks,
    pieces: Sequence[list[Chunk]],
    place: int,
    readings: PageReadings,
) -> list[ChunkPages]:
    """Return what may be told of the chunks of the piece in this place."""
    states, attributes = classify_readings(readings, reader.features.layout)
    kpageflags = masks.apply(readings.entries, readings.flags)
    told, start = [], 0
    for chunk in pieces[place]:
        end = start + chunk.listed_page_count
        told.append(
            ChunkPages(chunk, kpageflags[start:end], states[start:end], attributes[start:end])
        )
        start = end
    return told
