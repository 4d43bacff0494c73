# SPDX-License-Identifier: Apache-2.0
"""Where either of two processes has pages: what is merged, and what lies between."""

from collections.abc import Iterator

import numpy as np
import pytest
from cowdaemon.worker import comparison_stream as module
from cowdaemon.worker.comparison_stream import iter_gaps, iter_union
from cowdaemon.worker.pagemap import JOINED_PAGES, Stretches, join_stretches, number_pages
from hypothesis import given
from hypothesis import strategies as st

END = 500
"""Behind all stretches."""
stretches_of = st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), max_size=8)
"""Gap before a stretch, and its length."""


def lay_out(gaps_and_lengths: list[tuple[int, int]]) -> list[tuple[int, int]]:
    placed, reached = [], 0
    for gap, length in gaps_and_lengths:
        placed.append((reached + gap, reached + gap + length))
        reached += gap + length
    return placed


def yield_parts(stretches: list[tuple[int, int]], size: int) -> Iterator[Stretches]:
    for start in range(0, len(stretches), size):
        yield np.array(stretches[start : start + size], np.int64)


@given(stretches_of, stretches_of, st.integers(1, 4), st.integers(1, 4))
def test_union_has_the_pages_of_both(
    first: list[tuple[int, int]], second: list[tuple[int, int]], size: int, other_size: int
) -> None:
    """However they come: ascending, and no page twice.

    Seen to fail with the rest of one part taken before the other has come that far.
    """
    stretches, other_stretches = lay_out(first), lay_out(second)
    parts = yield_parts(stretches, size), yield_parts(other_stretches, other_size)
    told = [page for part in iter_union(*parts) for page in number_pages(part).tolist()]
    pages = {page for start, end in stretches + other_stretches for page in range(start, end)}
    assert told == sorted(pages)


def test_union_takes_no_more_of_either_than_it_needs() -> None:
    """What one has far ahead of the other stays where it is."""
    taken = []

    def yield_far() -> Iterator[Stretches]:
        for start in range(1_000, 1_010):
            taken.append(start)
            yield np.array([[start, start + 1]])

    near = yield_parts([(page, page + 1) for page in range(0, 20, 2)], 1)
    union = iter_union(near, yield_far())
    for _ in range(5):
        next(union)
    assert taken == [1_000]


@given(stretches_of, st.integers(1, 4), st.sampled_from([0, 5, 512]))
def test_gaps_are_all_that_is_read_of_nothing_else(
    laid_out: list[tuple[int, int]], size: int, pages_a_gap: int
) -> None:
    """And of no use where one process has pages, unless they are many in little.

    Seen to fail with the last gap left out, and with what lies between two parts.
    """
    stretches = lay_out(laid_out)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_PAGES_A_GAP", pages_a_gap)
        gaps = list(iter_gaps(yield_parts(stretches, size), 0, END))
    read = [range(*each) for part in yield_parts(stretches, size) for each in join(part)]
    told = [page for gap in gaps for page in range(*gap)]
    assert told == sorted(set(told))
    assert {*told, *(page for pages in read for page in pages)} == set(range(END))
    if pages_a_gap == 0:
        assert not any({*told}.intersection(pages) for pages in read)


def join(part: Stretches) -> list[list[int]]:
    return join_stretches(part, JOINED_PAGES).tolist()
