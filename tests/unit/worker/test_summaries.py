# SPDX-License-Identifier: Apache-2.0
"""Counting pages by kind of mapping and state: against a count page by page, in plain Python."""

import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cowdaemon.worker import chunks as chunks_module
from cowdaemon.worker import mapping_counts
from cowdaemon.worker import summaries as module
from cowdaemon.worker.features import probe_features
from cowdaemon.worker.mappings import MappingKind
from cowdaemon.worker.page_states import PageState
from cowdaemon.worker.pagemap import Numbers
from cowdaemon.worker.reader import Reader
from cowdaemon.worker.summaries import Totals, add_up, iter_summaries
from cowdaemon.worker.targets import Target
from hypothesis import given
from hypothesis import strategies as st
from unit.worker.mapped_process import MAPS, Rows, as_array, make_target, rows
from unit.worker.opener_player import open_files
from unit.worker.served_process import (
    ENTRIES,
    FEATURES,
    FRAMES,
    PID,
    START_TIME_TICKS,
    MakeFile,
)

SUMMARY = [
    Totals(
        MappingKind.PRIVATE_FILE,
        2,
        {
            PageState.ABSENT: 1,
            PageState.FILE: 1,
            PageState.ANON: 1,
            PageState.ANON_SWAPPED: 1,
            PageState.ZERO: 0,
            PageState.GUARD: 1,
            PageState.UNKNOWN: 0,
        },
    ),
    Totals(MappingKind.SHARED_FILE, 1, dict.fromkeys(PageState, 0) | {PageState.ZERO: 1}),
    Totals(MappingKind.ANONYMOUS, 1, dict.fromkeys(PageState, 0) | {PageState.ANON: 1}),
    Totals(
        MappingKind.SPECIAL,
        2,
        dict.fromkeys(PageState, 0) | {PageState.ABSENT: 1, PageState.UNKNOWN: 1},
    ),
]
"""Of ENTRIES, which start at page 0, and a page more."""


def summarize(
    reader: Reader, target: Target, verify_wanted: Callable[[], None]
) -> list[Totals] | None:
    """Return the totals of one process; None if it is gone."""
    [(_, totals)] = iter_summaries(reader, [(None, target)], verify_wanted)
    return totals


@given(rows(), st.data())
def test_totals_are_the_sums_of_the_mappings(mapped: Rows, data: st.DataObject) -> None:
    counts = [data.draw(st.lists(st.integers(0, 2**40), min_size=8, max_size=8)) for _ in mapped]
    table = np.array(counts, np.int64).reshape(-1, 8)
    table[:, 0] = 0
    totals = add_up(as_array(mapped), table)
    assert [each.kind for each in totals] == sorted({kind for *_, kind in mapped})
    for each in totals:
        of_kind = [row for row, (*_, kind) in enumerate(mapped) if kind == each.kind]
        assert each.mapping_count == len(of_kind)
        for state in PageState:
            assert each.page_counts[state] == sum(counts[row][state] for row in of_kind)
            assert type(each.page_counts[state]) is int


@pytest.fixture
def pagemap(make_file: MakeFile) -> int:
    return make_file(np.array([*ENTRIES, 0, 0], "<u8").tobytes())


@pytest.fixture
def target(make_file: MakeFile, pagemap: int) -> Target:
    return Target(PID, START_TIME_TICKS, os.dup(pagemap), os.dup(make_file(MAPS)))


@pytest.fixture
def reader(make_file: MakeFile) -> Reader:
    return Reader(make_file(np.array(FRAMES, "<u8").tobytes()), FEATURES)


@pytest.mark.parametrize(("chunk_pages", "chunks"), [(1, 8), (3, 3), (8, 1), (65_536, 1)])
def test_summary_is_the_same_in_chunks_of_any_size(
    target: Target, reader: Reader, monkeypatch: pytest.MonkeyPatch, chunk_pages: int, chunks: int
) -> None:
    """Each of several begins with the question whether it is wanted, as do list and scan."""
    monkeypatch.setattr(chunks_module, "PAGES_PER_CALL", chunk_pages)
    monkeypatch.setattr(mapping_counts, "SMALL_PAGES", chunk_pages)
    asked = []
    assert summarize(reader, target, lambda: asked.append(None)) == SUMMARY
    assert len(asked) == (2 if chunks == 1 else 2 + chunks)


def test_summary_that_is_not_wanted_ends_before_the_next_chunk(
    target: Target, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks_module, "PAGES_PER_CALL", 1)
    monkeypatch.setattr(mapping_counts, "SMALL_PAGES", 1)
    asked = []

    def refuse_third() -> None:
        asked.append(None)
        if len(asked) == 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        summarize(reader, target, refuse_third)
    assert len(asked) == 3


SWAPPED_OUT = [0, *[1 << 62 | 0x123 << 5 | 1] * 6]
"""What ENTRIES are not."""


@pytest.mark.parametrize("small_pages", [1, 65_536])
@pytest.mark.parametrize("mappings_together", [1, 7, 1_000])
@pytest.mark.parametrize("targets_together", [1, 2, 12])
def test_processes_that_are_read_together_are_told_apart(
    make_file: MakeFile,
    reader: Reader,
    monkeypatch: pytest.MonkeyPatch,
    small_pages: int,
    mappings_together: int,
    targets_together: int,
) -> None:
    """In their order, with those that could not be opened, or are gone.

    Seen to fail with the pages of all processes numbered alike.
    """
    monkeypatch.setattr(mapping_counts, "SMALL_PAGES", small_pages)
    monkeypatch.setattr(module, "MAPPINGS_TOGETHER", mappings_together)
    monkeypatch.setattr(module, "TARGETS_TOGETHER", targets_together)
    gone = make_target(make_file, ENTRIES, 4)
    os.ftruncate(gone.pagemap, 0)
    targets = [
        make_target(make_file, ENTRIES, 1),
        None,
        make_target(make_file, SWAPPED_OUT, 3),
        gone,
        make_target(make_file, ENTRIES, 5),
    ]
    [(_, swapped_out)] = iter_summaries(reader, [(0, targets[2])], lambda: None)
    assert swapped_out
    assert swapped_out[0].page_counts[PageState.ANON_SWAPPED] == 4
    found = list(iter_summaries(reader, enumerate(targets), lambda: None))
    assert found == [(0, SUMMARY), (1, None), (2, swapped_out), (3, None), (4, SUMMARY)]


@pytest.mark.parametrize(
    ("mappings_together", "targets_together", "sizes"),
    [(1_000, 2, [2, 2, 1]), (1, 5, [1, 1, 1, 1, 1]), (7, 5, [2, 2, 1]), (1_000, 9, [5])],
)
def test_few_enough_processes_are_listed_before_any_is_told(
    make_file: MakeFile,
    reader: Reader,
    monkeypatch: pytest.MonkeyPatch,
    mappings_together: int,
    targets_together: int,
    sizes: list[int],
) -> None:
    """Their number, and that of their mappings, bounds descriptors and memory."""
    monkeypatch.setattr(module, "MAPPINGS_TOGETHER", mappings_together)
    monkeypatch.setattr(module, "TARGETS_TOGETHER", targets_together)
    taken: list[int] = []

    def take() -> Iterator[tuple[int, Target]]:
        for number in range(5):
            taken.append(number)
            yield number, make_target(make_file, ENTRIES, number)

    told = [len(taken) for _ in iter_summaries(reader, take(), lambda: None)]
    assert told == [
        sum(sizes[: place + 1]) for place, size in enumerate(sizes) for _ in range(size)
    ]


def test_large_process_is_counted_by_itself(
    target: Target, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the pages of those that are counted together are bounded as well."""
    wholes = []
    for small_pages in (8, 7):
        monkeypatch.setattr(mapping_counts, "SMALL_PAGES", small_pages)
        plan = mapping_counts.make_plan(reader, target, target.number_mappings())
        wholes.append(plan.whole)
    assert wholes[0] is not None
    assert wholes[1] is None


@pytest.mark.parametrize("pages_left", [0, 1, len(ENTRIES) - 1])
def test_process_that_ends_while_it_is_read_has_no_summary(
    target: Target, reader: Reader, pagemap: int, pages_left: int
) -> None:
    assert summarize(reader, target, lambda: os.ftruncate(pagemap, 8 * pages_left)) is None


def test_process_that_ends_after_its_last_chunk_has_no_summary(
    target: Target, reader: Reader, pagemap: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was read after the end, and seemed empty, is not told apart."""
    complete = mapping_counts._complete

    def complete_and_end(*arguments: Any) -> Numbers:
        os.ftruncate(pagemap, 0)
        return complete(*arguments)

    monkeypatch.setattr(mapping_counts, "_complete", complete_and_end)
    assert summarize(reader, target, lambda: None) is None


def test_process_that_ends_before_it_is_scanned_has_no_summary(make_file: MakeFile) -> None:
    """To scan an address space that is gone is no failure: nothing is there."""
    features = replace(FEATURES, has_pagemap_scan=probe_features().has_pagemap_scan)
    if not features.has_pagemap_scan:
        pytest.skip("the kernel has no PAGEMAP_SCAN (it is in 6.7)")
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as cat:

        class Ending(Target):
            def number_mappings(self, verify_wanted: Callable[[], None] = print) -> Numbers:
                mapped = super().number_mappings(verify_wanted)
                cat.kill()
                cat.wait()
                return mapped

        _, (pagemap, maps) = open_files(cat.pid)
        reader = Reader(make_file(b""), features)
        assert summarize(reader, Ending(cat.pid, 1, pagemap, maps), lambda: None) is None
