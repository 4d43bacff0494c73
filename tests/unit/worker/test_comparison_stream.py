# SPDX-License-Identifier: Apache-2.0
"""Two processes that are files, side by side: where either has pages, and what moves meanwhile."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from cowdaemon.errors import CowdError, Reason
from cowdaemon.limits import PAGES_PER_CALL, SETTLE_ROUNDS
from cowdaemon.worker import comparison_stream as module
from cowdaemon.worker.comparison_stream import ComparedChunk, ComparisonStreams
from cowdaemon.worker.comparisons import Comparison, Copier, find_comparisons, find_copiers
from cowdaemon.worker.page_states import Bytes, PageState, Words
from cowdaemon.worker.pagemap import Stretches, read_stretches
from cowdaemon.worker.reader import Reader
from cowdaemon.worker.targets import Target
from numpy.typing import NDArray
from unit.worker.served_process import (
    ANON_WORD,
    EXCLUSIVE,
    FEATURES,
    FILE,
    PID,
    PRESENT,
    SWAPPED,
    MakeFile,
    Process,
)

PAGES = 40
FRAMES = 200
PRIVATE = PRESENT | EXCLUSIVE
"""Of entries of a page that needs no flags to be told."""
ALONE = 1 << 34
"""Of the flags of every second frame."""


class RestlessReader(Reader):
    """Calls `between` each time that it has read the entries of both."""

    between: Callable[[], None]
    looks = 0

    def classify_entries(
        self, entries: Words, stretches: Stretches, anonymous: Stretches
    ) -> tuple[Bytes, NDArray[np.intp]]:
        if self.looks % 2:
            self.between()
        self.looks += 1
        return super().classify_entries(entries, stretches, anonymous)


class NotedReader(RestlessReader):
    """Notes of how many pages flags are read."""

    flags_read = 0

    def read_runs(self, entries: Words) -> Words | None:
        self.flags_read += len(entries)
        return super().read_runs(entries)


@pytest.fixture
def reader(make_file: MakeFile) -> NotedReader:
    flags = np.full(FRAMES, ANON_WORD, np.uint64)
    flags[::2] |= np.uint64(ALONE)
    layout = replace(FEATURES.layout, zero_frames=(0,))
    features = replace(FEATURES, layout=layout, has_page_copiers=True)
    return NotedReader(make_file(flags.tobytes()), features)


@pytest.fixture
def other(process: Process, make_file: MakeFile) -> Process:
    """Have two processes with a page of each its own, at every address; return the second."""
    other = Process(make_file)
    for number, each in enumerate((process, other)):
        each.write_pagemap(
            np.arange(PAGES, dtype=np.uint64) + np.uint64(PRESENT | 50 + 50 * number)
        )
    return other


@pytest.fixture
def compare(process: Process, other: Process, reader: Reader) -> Iterator[Callable[..., object]]:
    """Return a function that compares all pages of the two, in one chunk."""
    with ThreadPoolExecutor(2) as threads:
        streams = ComparisonStreams(reader, threads)

        def compare(with_copiers: bool = True) -> ComparedChunk:
            targets = process.open(PID, None), other.open(PID, None)  # type: ignore[arg-type]
            [compared] = streams.iter_chunks(
                targets, [(0, PAGES)], lambda it: it, lambda: None, with_copiers
            )
            return compared

        yield compare


class Reads:
    """Whose entries are read, in turn, and what happens behind a read of that number."""

    def __init__(self) -> None:
        self.is_of_other: list[bool] = []
        self.changes: dict[int, Callable[[], object]] = {}


@pytest.fixture
def reads(other: Process, monkeypatch: pytest.MonkeyPatch) -> Reads:
    noted = Reads()

    def note(pagemap: int, stretches: Stretches) -> Words:
        entries = read_stretches(pagemap, stretches)
        noted.is_of_other.append(os.path.sameopenfile(pagemap, other.pagemap))
        noted.changes.get(len(noted.is_of_other), lambda: None)()
        return entries

    monkeypatch.setattr(module, "read_stretches", note)
    return noted


def set_entry(process: Process, page: int, entry: int) -> None:
    entries = np.fromfile(f"/proc/self/fd/{process.pagemap}", np.uint64)
    entries[page] = entry
    process.write_pagemap(entries)


def write_private(*processes: Process) -> None:
    """Have entries say that all pages are each process's alone, and of which frames: no flags."""
    for number, process in enumerate(processes):
        frames = np.arange(PAGES, dtype=np.uint64) + np.uint64(50 + 50 * number)
        process.write_pagemap(frames | np.uint64(PRIVATE))


def set_frame(process: Process, page: int, frame: int) -> None:
    set_entry(process, page, PRESENT | frame)


def test_second_process_is_not_scanned_where_the_first_has_pages(
    compare: Callable[..., ComparedChunk],
    process: Process,
    reader: RestlessReader,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They are read of both anyway. Seen to fail with both scanned in full."""
    scanned = []

    def scan(pagemap: int, first_page: int, end_page: int) -> Iterator[Stretches]:
        is_first = os.path.sameopenfile(pagemap, process.pagemap)
        scanned.append((is_first, first_page, end_page))
        if is_first:
            yield np.array([[first_page, end_page - 10]])

    monkeypatch.setattr(module, "iter_populated_by_reading", scan)
    monkeypatch.setattr(module, "_PAGES_A_GAP", 1)
    reader.between = lambda: None
    assert len(compare().findings) == PAGES - 10
    assert scanned == [(True, 0, PAGES), (False, PAGES - 10, PAGES)]


@pytest.mark.parametrize("with_copiers", [False, True])
def test_first_process_is_looked_at_before_and_behind_the_second(
    compare: Callable[..., ComparedChunk],
    process: Process,
    other: Process,
    reader: RestlessReader,
    reads: Reads,
    with_copiers: bool,
) -> None:
    """Its page 5 was the second's, and has moved when that is read.

    Seen to fail with the second look at the first left out.
    """
    reader.between = lambda: None
    write_private(process, other)
    set_entry(other, 5, PRIVATE | 55)
    reads.changes[1] = lambda: set_entry(process, 5, PRIVATE | 180)
    comparisons = find_comparisons(compare(with_copiers).findings)
    assert set(comparisons.tolist()) == {Comparison.DIFFERENT}
    assert reads.is_of_other[:3] == [False, True, False]


@pytest.mark.parametrize("with_page", [False, True])
@pytest.mark.parametrize("entry", [SWAPPED | 7 << 5, PRESENT | 120])
def test_second_process_is_looked_at_again_where_flags_have_been_read(
    compare: Callable[..., ComparedChunk],
    process: Process,
    other: Process,
    reader: RestlessReader,
    entry: int,
    with_page: bool,
) -> None:
    """Page 5 of it is swapped out, or a page of a driver's, before it is the one that it is.

    Seen to fail with no second look at the second, or none at what is swapped out.
    """
    write_private(process, other)
    set_entry(process, 5, with_page * (PRIVATE | 55))
    set_entry(other, 5, entry)
    changes = [lambda: set_frame(other, 5, 55)]
    reader.between = lambda: changes and changes.pop()()
    compared = compare(with_copiers=False)
    due = Comparison.SAME if with_page else Comparison.ONLY_SECOND
    assert find_comparisons(compared.findings)[5] == due
    assert compared.other_states[5] == PageState.ANON


@pytest.mark.parametrize("is_other", [False, True])
def test_page_of_a_file_that_is_being_migrated_is_unknown(
    compare: Callable[..., ComparedChunk],
    process: Process,
    other: Process,
    reader: RestlessReader,
    is_other: bool,
) -> None:
    """It goes on for all looks here. Seen to fail with such an entry taken for one that stays."""
    reader.between = lambda: None
    write_private(process, other)
    set_entry(other if is_other else process, 5, SWAPPED | FILE | 55)
    compared = compare(with_copiers=False)
    comparisons = find_comparisons(compared.findings)
    assert np.flatnonzero(comparisons == Comparison.UNKNOWN).tolist() == [5]
    states = compared.states, compared.other_states
    assert [each[5] == PageState.UNKNOWN for each in states] == [not is_other, is_other]


def test_most_pages_are_read_thrice_and_their_flags_never(
    compare: Callable[..., ComparedChunk],
    process: Process,
    other: Process,
    reader: NotedReader,
    reads: Reads,
) -> None:
    """If nobody asks who copied. Seen to fail with the flags of all that differ read."""
    reader.between = lambda: None
    write_private(process, other)
    set_entry(other, 7, SWAPPED | 7 << 5)
    findings = compare(with_copiers=False).findings
    assert set(find_comparisons(findings).tolist()) == {Comparison.DIFFERENT}
    assert not find_copiers(findings).any()
    assert reads.is_of_other == [False, True, False]
    assert reader.flags_read == 2  # where one of the two is swapped out


def test_what_is_looked_at_again_after_its_flags_is_not_before(
    compare: Callable[..., ComparedChunk],
    process: Process,
    other: Process,
    reader: NotedReader,
    reads: Reads,
) -> None:
    """Where that is so of many. Seen to fail with the first looked at three times."""
    reader.between = lambda: None
    write_private(process, other)
    reads.changes[2] = lambda: set_entry(process, 5, PRIVATE | 155)
    findings = compare().findings
    assert reads.is_of_other[:4] == [False, True, False, True]
    assert find_copiers(findings)[5] == find_copiers(findings)[4] ^ Copier.BOTH


def test_page_that_moved_once_is_read_again(
    compare: Callable[..., ComparedChunk], process: Process, other: Process, reader: RestlessReader
) -> None:
    """Of either process: what is told is true of both at once. Seen to fail without another look.

    Page 5 becomes one, page 7 becomes none in the first, page 9 changes hands.
    """
    changes = [
        lambda: (set_frame(process, 5, 180), set_frame(other, 5, 180), set_frame(other, 9, 60))
    ]
    reader.between = lambda: changes and changes.pop()()
    compared = compare()
    comparisons = find_comparisons(compared.findings)
    assert comparisons[5] == Comparison.SAME
    assert find_copiers(compared.findings)[9] == Copier.SECOND  # frame 59 against 60
    assert Comparison.UNKNOWN not in comparisons
    assert np.flatnonzero(comparisons == Comparison.SAME).tolist() == [5]
    assert reader.looks == 4


@pytest.mark.parametrize("is_other", [False, True])
def test_page_that_keeps_moving_is_unknown_and_no_other(
    compare: Callable[..., ComparedChunk],
    process: Process,
    other: Process,
    reader: RestlessReader,
    is_other: bool,
) -> None:
    """Seen to fail with what moved told as it was last seen."""
    frames = iter(range(100, FRAMES))
    reader.between = lambda: set_frame(other if is_other else process, 5, next(frames))
    compared = compare()
    comparisons = find_comparisons(compared.findings)
    assert np.flatnonzero(comparisons == Comparison.UNKNOWN).tolist() == [5]
    assert find_copiers(compared.findings)[5] == Copier.UNSPECIFIED
    moved, still = compared.states, compared.other_states
    if is_other:
        moved, still = still, moved
    assert np.flatnonzero(moved == PageState.UNKNOWN).tolist() == [5]
    assert set(still.tolist()) == {PageState.ANON}
    assert reader.looks == 2 * SETTLE_ROUNDS


def test_flags_are_read_of_no_more_pages_than_need_them(
    compare: Callable[..., ComparedChunk], other: Process, reader: NotedReader
) -> None:
    """Those that are anonymous in both, and different."""
    reader.between = lambda: None
    other.write_pagemap(np.arange(PAGES, dtype=np.uint64) + np.uint64(PRESENT | 50))
    set_frame(other, 7, 150)
    compared = compare()
    assert find_comparisons(compared.findings)[7] == Comparison.DIFFERENT
    assert reader.flags_read == 2


@pytest.mark.parametrize("is_other", [False, True])
def test_nothing_is_found_in_a_process_that_has_gone(
    process: Process,
    other: Process,
    reader: RestlessReader,
    monkeypatch: pytest.MonkeyPatch,
    is_other: bool,
) -> None:
    """Which is no answer, as by PAGEMAP_SCAN. Seen to fail without the look whether both live."""
    reader.between = lambda: None
    reader.features = replace(reader.features, has_pagemap_scan=True)  # type: ignore[misc]
    monkeypatch.setattr(module, "iter_populated", lambda *_: iter(()))
    targets: tuple[Target, Target] = process.open(PID, None), other.open(PID, None)  # type: ignore[arg-type]
    with ThreadPoolExecutor(2) as threads:
        streams = ComparisonStreams(reader, threads)
        assert list(streams.iter_chunks(targets, [(0, PAGES)], lambda it: it, lambda: None))
        (other if is_other else process).exit()
        with pytest.raises(CowdError) as failure:
            list(streams.iter_chunks(targets, [(0, PAGES)], lambda it: it, lambda: None))
    assert failure.value.reason is Reason.PROCESS_GONE


def test_chunks_and_threads_keep_the_order(
    process: Process, other: Process, reader: RestlessReader
) -> None:
    """Of many pages, and each has its own pages' findings, whether or not it waits for flags.

    Seen to fail with what waits told last.
    """
    reader.between = lambda: None
    count = 3 * PAGES_PER_CALL
    entries = np.full(count, PRESENT | 50, np.uint64)
    process.write_pagemap(entries)
    shared = np.random.default_rng(3).random(count) < 0.5
    shared[PAGES_PER_CALL : 2 * PAGES_PER_CALL] = True
    other.write_pagemap(np.where(shared, entries, entries + np.uint64(1)))
    targets: tuple[Target, Target] = process.open(PID, None), other.open(PID, None)  # type: ignore[arg-type]
    with ThreadPoolExecutor(2) as threads:
        streams = ComparisonStreams(reader, threads)
        told = list(streams.iter_chunks(targets, [(0, count)], lambda it: it, lambda: None))
    assert [chunk.chunk.end_page - chunk.chunk.first_page for chunk in told] == [PAGES_PER_CALL] * 3
    findings = np.concatenate([chunk.findings for chunk in told])
    assert ((find_comparisons(findings) == Comparison.SAME) == shared).all()
    assert ((find_copiers(findings) == Copier.FIRST) == ~shared).all()
