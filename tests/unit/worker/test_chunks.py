# SPDX-License-Identifier: Apache-2.0
"""Chunks cover their ranges, list all that is populated, and are of a bounded size."""

from collections.abc import Iterator

import numpy as np
import pytest
from cowdaemon.limits import PAGES_PER_CALL
from cowdaemon.worker import chunks as module
from cowdaemon.worker.chunks import Chunk, iter_chunks, iter_pieces
from cowdaemon.worker.pagemap import NO_STRETCHES, Stretches, join_stretches
from hypothesis import given
from hypothesis import strategies as st

MOST_LISTED, SCANNED, JOINED, CHUNKS = 8, 20, 3, 4
PAGES = 100
RANGES = st.lists(
    st.tuples(st.integers(0, PAGES - 1), st.integers(1, PAGES)).map(lambda r: (r[0], sum(r))),
    max_size=6,
)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAGES_PER_CALL", MOST_LISTED)
    monkeypatch.setattr(module, "SCANNED_PAGES", SCANNED)
    monkeypatch.setattr(module, "JOINED_PAGES", JOINED)
    monkeypatch.setattr(module, "CHUNKS_PER_PIECE", CHUNKS)


class Populated:
    """Which pages there are; told of in parts of so many pages."""

    def __init__(self, pages: set[int], part_pages: int) -> None:
        self._pages = pages
        self._part_pages = part_pages
        self.asked: list[tuple[int, int]] = []

    def __call__(self, first: int, end: int) -> Iterator[Stretches]:
        self.asked.append((first, end))
        there = sorted(page for page in self._pages if first <= page < end)
        for start in range(0, len(there), self._part_pages):
            pages = np.array(there[start : start + self._part_pages])
            yield join_stretches(np.column_stack((pages, pages + 1)))


def list_pages(chunk: Chunk) -> list[int]:
    return [page for first, end in chunk.stretches.tolist() for page in range(first, end)]


@given(RANGES, st.sets(st.integers(0, 2 * PAGES)), st.integers(1, 10))
@pytest.mark.usefixtures("small")
def test_chunks_of_any_ranges(
    ranges: list[tuple[int, int]], pages: set[int], part_pages: int
) -> None:
    """Seen to fail with a stretch cut a page too early or too late."""
    populated = Populated(pages, part_pages)
    found = list(iter_chunks(ranges, populated))
    left = iter(found)
    for first, end in ranges:
        reached = first
        while reached < end:
            chunk = next(left)
            assert chunk.first_page == reached < chunk.end_page <= end
            reached = chunk.end_page
            listed = list_pages(chunk)
            assert chunk.listed_page_count == len(listed) <= MOST_LISTED
            assert listed == sorted(set(listed))
            assert set(listed) <= set(range(chunk.first_page, reached))
            assert set(listed) >= pages & set(range(chunk.first_page, reached))
            assert all(end > first for first, end in chunk.stretches.tolist())
    assert next(left, None) is None
    assert all(end - first <= SCANNED for first, end in populated.asked)


@given(RANGES, st.sets(st.integers(0, 2 * PAGES)))
@pytest.mark.usefixtures("small")
def test_pieces_have_all_chunks_in_their_order(
    ranges: list[tuple[int, int]], pages: set[int]
) -> None:
    found = list(iter_chunks(ranges, Populated(pages, 10)))
    pieces = list(iter_pieces(found))
    together = [chunk for piece in pieces for chunk in piece]
    assert all(mine is theirs for mine, theirs in zip(together, found, strict=True))
    for piece in pieces:
        assert 1 <= len(piece) <= CHUNKS
        assert len(piece) == 1 or sum(map(cost, piece)) <= MOST_LISTED


def cost(chunk: Chunk) -> int:
    return chunk.listed_page_count + len(chunk.stretches) * JOINED


@pytest.mark.parametrize(
    ("pages", "stretches"),
    [
        ([0, 1, 2], [[0, 3]]),
        ([0, 4], [[0, 5]]),  # three between them
        ([0, 5], [[0, 1], [5, 6]]),
        ([5, 9, 14], [[5, 10], [14, 15]]),
    ],
)
@pytest.mark.usefixtures("small")
def test_what_is_close_is_listed_as_one(pages: list[int], stretches: list[list[int]]) -> None:
    [chunk] = iter_chunks([(0, 20)], Populated(set(pages), 10))
    assert (chunk.first_page, chunk.end_page) == (0, 20)
    assert chunk.stretches.tolist() == stretches


@pytest.mark.usefixtures("small")
def test_long_stretch_is_divided() -> None:
    found = list(iter_chunks([(0, 20)], Populated(set(range(1, 20)), 100)))
    assert [(chunk.first_page, chunk.end_page) for chunk in found] == [(0, 9), (9, 17), (17, 20)]
    assert [chunk.stretches.tolist() for chunk in found] == [[[1, 9]], [[9, 17]], [[17, 20]]]


@pytest.mark.usefixtures("small")
def test_empty_memory_is_one_chunk_a_step() -> None:
    found = list(iter_chunks([(0, 50), (7, 8)], Populated(set(), 1)))
    steps = [(0, 20), (20, 40), (40, 50), (7, 8)]
    assert [(chunk.first_page, chunk.end_page) for chunk in found] == steps
    assert not any(len(chunk.stretches) for chunk in found)


def test_full_memory_of_many_chunks() -> None:
    """With the limits as they are: each chunk is full, and a piece by itself."""
    count = 5 * PAGES_PER_CALL // 2

    def iter_full(first: int, end: int) -> Iterator[Stretches]:
        for start in range(first, end, PAGES_PER_CALL):
            yield np.array([[start, min(start + PAGES_PER_CALL, end)]])

    pieces = list(iter_pieces(iter_chunks([(7, 7 + count)], iter_full)))
    listed = [[chunk.listed_page_count for chunk in piece] for piece in pieces]
    assert listed == [[PAGES_PER_CALL], [PAGES_PER_CALL], [PAGES_PER_CALL // 2]]


def test_piece_is_not_waited_for_longer_than_needed() -> None:
    """Chunks are found when they are wanted. Seen to fail with all of them found first."""
    asked = []

    def iter_found() -> Iterator[Chunk]:
        for number in range(1000):
            asked.append(number)
            yield Chunk(number, number + 1, NO_STRETCHES)

    next(iter_pieces(iter_found()))
    assert len(asked) <= module.CHUNKS_PER_PIECE + 1
