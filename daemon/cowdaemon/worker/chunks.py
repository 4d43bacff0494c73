# SPDX-License-Identifier: Apache-2.0
"""Cuts ranges of any length into chunks of bounded size, without what is empty.

Worker, unprivileged. Where nothing is, a chunk covers pages without listing them. What one thread
reads at a time is a piece: one chunk, or many of small ranges.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import NamedTuple

import numpy as np

from cowdaemon.limits import CHUNKS_PER_PIECE, PAGES_PER_CALL, SCANNED_PAGES
from cowdaemon.worker.pagemap import (
    JOINED_PAGES,
    NO_STRETCHES,
    Stretches,
    count_pages,
    join_stretches,
)

__all__ = ["Chunk", "divide_stretches", "iter_chunks", "iter_pieces", "locate_chunks"]


class Chunk(NamedTuple):
    """Consecutive pages, and those of them to be listed.

    Attributes:
        first_page: number of the first page.
        end_page: number of the page after the last.
        stretches: what is listed of them, PAGES_PER_CALL pages at most; the others are absent.
    """

    first_page: int
    end_page: int
    stretches: Stretches

    @property
    def listed_page_count(self) -> int:
        """How many pages are listed."""
        return count_pages(self.stretches)


def iter_chunks(
    ranges: Iterable[tuple[int, int]], iter_populated: Callable[[int, int], Iterator[Stretches]]
) -> Iterator[Chunk]:
    """Yield the chunks of ranges of pages, each inside one range, in order and without gaps.

    Args:
        ranges: first page and page after the last of each.
        iter_populated: yields what is populated between two pages, as the function of page_scan.
    """
    for start, end in ranges:
        for first in range(start, end, SCANNED_PAGES):
            yield from _cut(first, min(first + SCANNED_PAGES, end), iter_populated)


def _cut(
    first: int, end: int, iter_populated: Callable[[int, int], Iterator[Stretches]]
) -> Iterator[Chunk]:
    found = (join_stretches(part, JOINED_PAGES) for part in iter_populated(first, end))
    listed = NO_STRETCHES
    for stretches in chain.from_iterable(map(divide_stretches, found)):
        if len(listed):
            next_page = int(listed[-1, 1])
            yield Chunk(first, next_page, listed)
            first = next_page
        listed = stretches
    yield Chunk(first, end, listed)


def divide_stretches(stretches: Stretches, most_pages: int | None = None) -> Iterator[Stretches]:
    """Yield the stretches in parts of so many pages at most, which are mostly PAGES_PER_CALL."""
    most_pages = most_pages or PAGES_PER_CALL
    lengths = stretches[:, 1] - stretches[:, 0]
    while len(stretches):
        ends = np.cumsum(lengths)
        whole = int(np.searchsorted(ends, most_pages, "right"))
        part, rest = stretches[:whole], stretches[whole:]
        room = most_pages - (int(ends[whole - 1]) if whole else 0)
        if len(rest) and room:  # the next one in part
            part, rest = stretches[: whole + 1].copy(), rest.copy()
            part[-1, 1] = rest[0, 0] = rest[0, 0] + room
        yield part
        stretches = rest
        lengths = stretches[:, 1] - stretches[:, 0]


def locate_chunks(piece: Iterable[Chunk]) -> Iterator[tuple[Chunk, slice]]:
    """Yield each chunk of a piece, and where its pages are among all that are listed."""
    start = 0
    for chunk in piece:
        end = start + chunk.listed_page_count
        yield chunk, slice(start, end)
        start = end


def iter_pieces(chunks: Iterable[Chunk]) -> Iterator[list[Chunk]]:
    """Yield the chunks in lists of the work that PAGES_PER_CALL pages are, or less."""
    piece: list[Chunk] = []
    done = 0
    for chunk in chunks:
        work = chunk.listed_page_count + len(chunk.stretches) * JOINED_PAGES
        # Before Linux 6.7, what is empty is looked at, too.
        work += (chunk.end_page - chunk.first_page) * PAGES_PER_CALL // SCANNED_PAGES
        if piece and (done + work > PAGES_PER_CALL or len(piece) == CHUNKS_PER_PIECE):
            yield piece
            piece, done = [], 0
        piece.append(chunk)
        done += work
    if piece:
        yield piece
