# SPDX-License-Identifier: Apache-2.0
"""Counting pages by mapping and state: against a count page by page, in plain Python."""

from collections import Counter
from collections.abc import Collection

import numpy as np
import pytest
from cowdaemon.worker import chunks as chunks_module
from cowdaemon.worker.mapping_counts import count_mappings, count_states, make_plan
from cowdaemon.worker.mappings import MappingKind, number_extents
from cowdaemon.worker.page_states import PageState
from cowdaemon.worker.pagemap import Stretches, join_stretches
from cowdaemon.worker.reader import Reader
from hypothesis import given
from hypothesis import strategies as st
from unit.worker.mapped_process import Rows, as_array, make_target, rows
from unit.worker.served_process import ENTRIES, FEATURES, FRAMES, PID, MakeFile


def as_stretches(pages: Collection[int]) -> Stretches:
    """Return stretches of one page each."""
    return np.array([(page, page + 1) for page in sorted(pages)], np.int64)


PAGES = st.dictionaries(st.integers(0, 70), st.sampled_from(PageState), min_size=1)


@given(rows(), PAGES, st.booleans())
def test_states_are_counted_by_their_mapping(
    mapped: Rows, states: dict[int, PageState], are_joined: bool
) -> None:
    """However the pages are cut up. Seen to fail with the column of the state next to it."""
    stretches = as_stretches(states)
    if are_joined:
        stretches = join_stretches(stretches)
    known = np.array([states[page] for page in sorted(states)], np.uint8)
    where, table = count_states(as_array(mapped), stretches, known)
    due = Counter(
        (row, states[page])
        for row, (first, end, _) in enumerate(mapped)
        for page in range(first, end)
        if page in states
    )
    rows = range(len(mapped))[where]
    found = {
        (row, PageState(state)): count
        for row, counts in zip(rows, table.tolist(), strict=True)
        for state, count in enumerate(counts)
        if count
    }
    assert found == due


def test_states_at_the_highest_addresses() -> None:
    end = 2**52
    mapped = as_array([(end - 3, end, MappingKind.ANONYMOUS)])
    states = np.full(4, PageState.ANON, np.uint8)
    where, table = count_states(mapped, np.array([[end - 4, end]]), states)
    assert where == slice(0, 1)
    assert table.tolist() == [[3 if state == PageState.ANON else 0 for state in range(8)]]


BY_MAPPING = [
    {PageState.ANON: 1, PageState.FILE: 1},
    {PageState.ANON: 1},
    {PageState.ZERO: 1},
    {PageState.ANON_SWAPPED: 1, PageState.GUARD: 1, PageState.ABSENT: 1},
    {PageState.ABSENT: 1},
    {PageState.UNKNOWN: 1},
]
"""Of the mappings of MAPS."""


@pytest.mark.parametrize("chunk_pages", [1, 3, 65_536])
@pytest.mark.parametrize(
    ("most_pages", "rows"), [(None, 6), (100, 6), (8, 5), (6, 4), (4, 3), (3, 2), (1, 1)]
)
def test_mappings_are_counted_until_enough_has_been_read(
    make_file: MakeFile,
    monkeypatch: pytest.MonkeyPatch,
    chunk_pages: int,
    most_pages: int | None,
    rows: int,
) -> None:
    """And the one that has the last page is counted to its end.

    Seen to fail with the mapping after it counted as well, and with it left out.
    """
    monkeypatch.setattr(chunks_module, "PAGES_PER_CALL", chunk_pages)
    target = make_target(make_file, ENTRIES, PID)
    reader = Reader(make_file(np.array(FRAMES, "<u8").tobytes()), FEATURES)
    plan = make_plan(reader, target, number_extents(target.list_extents()))
    counts = count_mappings(reader, plan, lambda: None, most_pages)
    if chunk_pages == 1:
        assert len(counts) == rows
    assert 1 <= len(counts) <= 6
    found = [{state: row[state] for state in PageState if row[state]} for row in counts.tolist()]
    assert found == BY_MAPPING[: len(counts)]
