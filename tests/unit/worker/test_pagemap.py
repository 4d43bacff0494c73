# SPDX-License-Identifier: Apache-2.0
"""Stretches of pages: joined, counted and numbered. Their reading is in test_reader.py."""

import itertools

import numpy as np
import pytest
from cowdaemon.worker.pagemap import (
    Stretches,
    count_pages,
    join_stretches,
    number_pages,
    spread,
)
from hypothesis import given
from hypothesis import strategies as st


def make_stretches(rows: list[tuple[int, int]]) -> Stretches:
    return np.array(rows, np.int64).reshape(-1, 2)


@pytest.mark.parametrize(
    ("rows", "joined"),
    [
        ([], []),
        ([(1, 2)], [(1, 2)]),
        ([(1, 2), (2, 3)], [(1, 3)]),
        ([(1, 2), (2 + 512, 600)], [(1, 600)]),
        ([(1, 2), (2 + 513, 600)], [(1, 2), (515, 600)]),
        ([(1, 2), (9, 10), (10_000, 10_001), (10_002, 10_003)], [(1, 10), (10_000, 10_003)]),
    ],
)
def test_stretches_close_by_are_joined(
    rows: list[tuple[int, int]], joined: list[tuple[int, int]]
) -> None:
    found = join_stretches(make_stretches(rows), 512)
    assert [tuple(row) for row in found.tolist()] == joined


@pytest.mark.parametrize(
    ("rows", "pages"),
    [([], []), ([(3, 4)], [3]), ([(3, 5), (9, 12), (12, 13)], [3, 4, 9, 10, 11, 12])],
)
def test_pages_of_stretches_are_numbered(rows: list[tuple[int, int]], pages: list[int]) -> None:
    assert number_pages(make_stretches(rows)).tolist() == pages
    assert count_pages(make_stretches(rows)) == len(pages)


@st.composite
def rows_of_pages(draw: st.DrawFn, fewest: int) -> list[tuple[int, int]]:
    """Ascending, some adjoining, none overlapping, none empty."""
    borders = sorted(draw(st.lists(st.integers(0, 50), max_size=14)))
    rows = [(first, end) for first, end in itertools.pairwise(borders) if first < end]
    kept = [row for row in rows if draw(st.booleans())]
    return kept if len(kept) >= fewest else [(7, 20)]


@given(rows_of_pages(1), rows_of_pages(0))
def test_values_of_extents_are_spread_over_pages(
    rows: list[tuple[int, int]], extents: list[tuple[int, int]]
) -> None:
    """Wherever borders lie to each other. Seen to fail without the clip."""
    values = {page: at for at, row in enumerate(extents, 1) for page in range(*row)}
    found = spread(
        make_stretches(rows),
        make_stretches(extents),
        np.arange(1, len(extents) + 1, dtype=np.uint8),
    )
    assert found.tolist() == [values.get(page, 0) for row in rows for page in range(*row)]
    assert found.dtype == np.uint8
