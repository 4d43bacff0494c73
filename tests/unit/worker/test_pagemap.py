# SPDX-License-Identifier: Apache-2.0
"""Stretches of pages: joined, counted and numbered. Their reading is in test_reader.py."""

import numpy as np
import pytest
from cowdaemon.worker.pagemap import Stretches, count_pages, join_stretches, number_pages


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
