# SPDX-License-Identifier: Apache-2.0
"""Counting pages by mapping and state; tests/kernel has every kind of page."""

from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import pytest
from cowdaemon.worker import chunks as chunks_module
from cowdaemon.worker import mapping_counts as module
from cowdaemon.worker.mapping_counts import (
    count_mappings,
    count_together,
    divide_regions,
    make_plan,
)
from cowdaemon.worker.mappings import MappingKind
from cowdaemon.worker.page_scan import Category
from cowdaemon.worker.page_states import PageState
from cowdaemon.worker.pagemap import PROCESS_SHIFT, Numbers, Pagemap, Stretches, number_pages
from cowdaemon.worker.reader import Reader
from cowdaemon.worker.region_states import NOT_TOLD, classify_regions
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from unit.worker.mapped_process import Rows, as_array, make_target, rows
from unit.worker.served_process import ENTRIES, FEATURES, FRAMES, PID, MakeFile

Found = list[tuple[int, int, int]]
"""First page, page after the last, categories."""
Processes = list[tuple[Rows, Found]]


MANY_LARGE = 2


@st.composite
def regions(draw: st.DrawFn) -> Found:
    """Regions in ascending order, some adjoining, none overlapping, with their categories."""
    borders = draw(st.lists(st.integers(0, 70), min_size=2, max_size=16, unique=True).map(sorted))
    told = [0, Category.PRESENT, Category.PRESENT | Category.FILE]
    category = st.sampled_from(told) | st.integers(0, 127)
    categories = draw(st.lists(category, min_size=8, max_size=8))
    pairs = zip(borders[::2], borders[1::2], categories, strict=False)
    return list(pairs)


@given(rows(), regions())
def test_regions_are_cut_at_the_borders_of_mappings(mapped: Rows, found: Found) -> None:
    """Seen to fail with what lies in no mapping taken for the next one's."""
    places, pieces = divide_regions(as_array(found), as_array(mapped))
    told = [
        (page, category, place)
        for (first, end, category), place in zip(pieces.tolist(), places.tolist(), strict=True)
        for page in range(first, end)
    ]
    assert told == [
        (page, category, place)
        for first, end, category in found
        for page in range(first, end)
        for place, (start, stop, _) in enumerate(mapped)
        if start <= page < stop
    ]


class Machine:
    """What the kernel tells of processes, which are known by their places in place of descriptors.

    Args:
        processes: the mappings of each and the regions that are found there.
    """

    features = replace(FEATURES, has_pagemap_scan=True)
    note_pages = staticmethod(int)

    def __init__(self, processes: Processes) -> None:
        self._processes = processes

    def iter_regions(
        self, pagemap: int, first: int, end: int, is_anonymous: bool
    ) -> Iterator[Numbers]:
        mapped, regions = self._processes[pagemap]
        inside = [kind for start, stop, kind in mapped if start < end and stop > first]
        assert not is_anonymous or inside == [MappingKind.ANONYMOUS]
        found = as_array(regions)
        found = found[(found[:, 0] < end) & (found[:, 1] > first)]
        found[:, :2] = found[:, :2].clip(first, end)
        if len(found):
            found[:, 2] &= ~(Category.FILE * is_anonymous)  # the kernel did not look
            yield found

    def read_states(
        self,
        pagemap: Pagemap,
        stretches: Stretches,
        anonymous: Stretches,  # noqa: ARG002
    ) -> NDArray[np.uint8]:
        """Say of a page what is not said of those beside it, nor of that of another process."""
        told = []
        for number in number_pages(stretches).tolist():
            place, page = divmod(number, 1 << PROCESS_SHIFT)
            process = pagemap if isinstance(pagemap, int) else pagemap[place]
            told.append(self.state_of(process, page))
        return np.array(told, np.uint8)

    @staticmethod
    def state_of(process: int, page: int) -> PageState:
        return list(PageState)[(process * 3 + page) % len(PageState)]

    def count(self, process: int, large_pages: int) -> list[list[int]]:
        """Return what is to be found in a process, page by page."""
        mapped, found = self._processes[process]
        sizes = [stop - start for start, stop, kind in mapped if kind == MappingKind.ANONYMOUS]
        large_count = sum(size >= large_pages for size in sizes)
        categories = {page: each for first, end, each in found for page in range(first, end)}
        counts = []
        for first, end, kind in mapped:
            is_anonymous = np.array([kind == MappingKind.ANONYMOUS])
            is_large = is_anonymous[0] and end - first >= large_pages and large_count <= MANY_LARGE
            row = [0] * (max(PageState) + 1)
            for page in range(first, end):
                state = PageState.ABSENT
                if page in categories:
                    category = categories[page] & ~(Category.FILE * bool(is_large))
                    [told] = classify_regions(np.array([category]), is_anonymous)
                    state = self.state_of(process, page) if told == NOT_TOLD else PageState(told)
                row[state] += 1
            counts.append(row)
        return counts


@given(
    st.lists(st.tuples(rows(), regions()), min_size=1, max_size=4),
    st.sampled_from([1, 5, 1_000]),
    st.sampled_from([2, 1_000]),
)
def test_what_is_told_and_what_is_read_is_counted_by_its_mapping(
    processes: Processes, large_pages: int, small_pages: int
) -> None:
    """Of one process, and of several at once, large anonymous mappings being scanned apart.

    Seen to fail with what is told taken for anonymous everywhere, with what is read counted twice,
    with all of a process scanned as a large mapping is, and with what is between two of these left
    out.
    """
    machine = Machine(processes)
    with (
        patch.object(module, "_LARGE_PAGES", large_pages),
        patch.object(module, "_MANY_LARGE", MANY_LARGE),
        patch.object(module, "SMALL_PAGES", small_pages),
        patch.object(module, "iter_regions", machine.iter_regions),
        patch.object(module, "_is_inside", lambda *_: True),
    ):
        plans = [
            make_plan(machine, SimpleNamespace(pagemap=number), as_array(mapped))  # type: ignore[arg-type]
            for number, (mapped, _) in enumerate(processes)
        ]
        due = [machine.count(number, large_pages) for number in range(len(processes))]
        small = [number for number, plan in enumerate(plans) if plan.whole is not None]
        together = count_together(machine, [plans[number] for number in small])  # type: ignore[arg-type]
        assert [counts.tolist() for counts in together] == [due[number] for number in small]
        alone = [count_mappings(machine, plan, lambda: None).tolist() for plan in plans]  # type: ignore[arg-type]
        assert alone == due


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
    plan = make_plan(reader, target, target.number_mappings())
    counts = count_mappings(reader, plan, lambda: None, most_pages)
    if chunk_pages == 1:
        assert len(counts) == rows
    assert 1 <= len(counts) <= 6
    found = [{state: row[state] for state in PageState if row[state]} for row in counts.tolist()]
    assert found == BY_MAPPING[: len(counts)]


@pytest.mark.parametrize("apart_pages", [2, 100])
def test_what_is_around_many_small_regions_is_read_without_a_look(
    monkeypatch: pytest.MonkeyPatch, apart_pages: int
) -> None:
    """But not where they lie far apart. Seen to fail with that never done, and done everywhere."""
    monkeypatch.setattr(module, "_MANY_REGIONS", 3)
    monkeypatch.setattr(module, "_AROUND_PAGES", 16)
    found = [(page, page + 1, 0) for page in range(0, 3 * apart_pages, apart_pages)]
    machine = Machine([([(0, 1_000, MappingKind.ANONYMOUS)], found)])
    monkeypatch.setattr(module, "iter_regions", machine.iter_regions)
    target = SimpleNamespace(pagemap=0)
    mapped = as_array([(0, 1_000, MappingKind.ANONYMOUS)])
    parts = iter(make_plan(machine, target, mapped).parts)  # type: ignore[arg-type]
    assert next(parts).tolist() == [list(each) for each in found]
    if apart_pages == 2:
        assert next(parts).tolist() == [[5, 21, 0]]
    else:
        assert list(parts) == []


def test_what_is_around_ends_with_what_is_scanned_in_one_go(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Seen to fail with what is read around them not cut off there."""
    monkeypatch.setattr(module, "_MANY_REGIONS", 3)
    monkeypatch.setattr(module, "_LARGE_PAGES", 8)
    mapped = [(0, 8, MappingKind.ANONYMOUS), (8, 99, MappingKind.PRIVATE_FILE)]
    machine = Machine([(mapped, [(0, 1, 0), (2, 3, 0), (4, 5, 0), (9, 10, 0)])])
    monkeypatch.setattr(module, "iter_regions", machine.iter_regions)
    plan = make_plan(machine, SimpleNamespace(pagemap=0), as_array(mapped))  # type: ignore[arg-type]
    parts = [part.tolist() for part in plan.parts]
    assert parts == [[[0, 1, 0], [2, 3, 0], [4, 5, 0]], [[5, 8, 0]], [[9, 10, 0]]]


@pytest.mark.parametrize("count", [MANY_LARGE, MANY_LARGE + 1])
def test_many_large_mappings_are_scanned_with_all_the_rest(
    monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """Seen to fail with each of them scanned by itself."""
    monkeypatch.setattr(module, "_MANY_LARGE", MANY_LARGE)
    monkeypatch.setattr(module, "_LARGE_PAGES", 8)
    mapped = [(start, start + 8, MappingKind.ANONYMOUS) for start in range(0, 10 * count, 10)]
    found = [(0, 3, 0), (11, 12, 0)]
    machine = Machine([(mapped, found)])
    monkeypatch.setattr(module, "iter_regions", machine.iter_regions)
    plan = make_plan(machine, SimpleNamespace(pagemap=0), as_array(mapped))  # type: ignore[arg-type]
    pieces = [list(each) for each in found]
    due = [pieces] if count > MANY_LARGE else [[piece] for piece in pieces]
    assert [part.tolist() for part in plan.parts] == due
