# SPDX-License-Identifier: Apache-2.0
"""Streams of pages, in small steps, of a process that is files: order, ends, and how far ahead.

tests/kernel has the same of real processes.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any, NamedTuple

import numpy as np
import pytest
from cowdaemon.limits import READING_THREADS
from cowdaemon.wire import Purpose
from cowdaemon.worker import chunks, kpageflags, page_scan, page_stream, windows
from cowdaemon.worker.disclosure import FULL
from cowdaemon.worker.page_states import Kpageflags, PageState, Words
from cowdaemon.worker.page_stream import ChunkPages, PageStreams
from cowdaemon.worker.pagemap import ShortReadError, Stretches
from cowdaemon.worker.reader import PageReadings, Reader
from unit.worker.served_process import FEATURES, PID, PRESENT, SWAPPED, MakeFile, Process

PIECE_PAGES = 256
WINDOW_PIECES = 4
FRAMES = 1 << 14
AHEAD = READING_THREADS + 2
"""Pieces that are looked at before the first is waited for, and the one that is wanted."""

pytestmark = pytest.mark.usefixtures("nothing_is_left", "small")


class CallEndedError(Exception):
    """What is raised by a test's verify_wanted()."""


class Told(NamedTuple):
    """What a chunk said: of its pages, and of those listed one by one."""

    first_page: int
    end_page: int
    listed: list[tuple[int, int, int]]
    """Page, flags and state."""


def flags_of(frame: int) -> int:
    return frame << 33 | Kpageflags.ANON | Kpageflags.SWAPBACKED


def tell(pages: ChunkPages) -> Told:
    first, end, stretches = pages.chunk
    numbers = [page for start, stop in stretches.tolist() for page in range(start, stop)]
    words = zip(numbers, pages.kpageflags.tolist(), pages.states.tolist(), strict=True)
    return Told(first, end, list(words))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (chunks, page_scan, windows):
        monkeypatch.setattr(module, "PAGES_PER_CALL", PIECE_PAGES)
    monkeypatch.setattr(windows, "WINDOW_PAGES", WINDOW_PIECES * PIECE_PAGES)
    monkeypatch.setattr(chunks, "SCANNED_PAGES", 8 * PIECE_PAGES)


class NotingReader(Reader):
    """Notes what it is asked to do, and does it."""

    def __init__(self, kpageflags: int) -> None:
        super().__init__(kpageflags, FEATURES)
        self.looks: list[Stretches] = []
        self.windows: list[int] = []
        self.settled: list[Stretches] = []
        self.last_look = 0
        self.last_window = 0
        self.is_over = threading.Event()
        """Set at the look, or the window, so numbered from 1."""

    def look(self, pagemap: int, stretches: Stretches) -> tuple[Words, PageReadings | None]:
        self.looks.append(stretches)
        if len(self.looks) == self.last_look:
            self.is_over.set()
        return super().look(pagemap, stretches)

    def read_scattered(
        self, entries: Sequence[Words], run: Callable[..., Any], verify_wanted: Callable[[], None]
    ) -> list[Words]:
        self.windows.append(len(entries))
        if len(self.windows) == self.last_window:
            self.is_over.set()
        return super().read_scattered(entries, run, verify_wanted)

    def settle(
        self, pagemap: int, stretches: Stretches, entries: Words, flags: Words
    ) -> PageReadings:
        self.settled.append(stretches)
        return super().settle(pagemap, stretches, entries, flags)


@pytest.fixture(scope="module")
def words() -> Words:
    """The flags of each frame: anonymous, and a word of its own."""
    return np.array([flags_of(frame) for frame in range(FRAMES)], np.uint64)


@pytest.fixture
def reader(make_file: MakeFile, words: Words) -> NotingReader:
    return NotingReader(make_file(words.tobytes()))


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(READING_THREADS) as threads:
        yield threads


@pytest.fixture
def streams(reader: NotingReader, threads: ThreadPoolExecutor) -> PageStreams[Told]:
    return PageStreams(reader, FULL, threads)


def make_piece(kind: str, seed: int) -> Words:
    """Return the entries of a piece's pages."""
    random = np.random.default_rng(seed)
    if kind == "run":
        frames = np.arange(PIECE_PAGES) + random.integers(FRAMES - PIECE_PAGES)
        return frames.astype(np.uint64) | np.uint64(PRESENT)
    if kind == "scattered":
        return random.permutation(FRAMES)[:PIECE_PAGES].astype(np.uint64) | np.uint64(PRESENT)
    if kind == "holes":
        entries = random.permutation(FRAMES)[:PIECE_PAGES].astype(np.uint64) | np.uint64(PRESENT)
        entries[random.integers(PIECE_PAGES, size=PIECE_PAGES // 3)] = 0
        return entries
    return np.full(PIECE_PAGES, SWAPPED | 1 if kind == "swapped" else 0, np.uint64)


def make_process(process: Process, kinds: Sequence[str]) -> Words:
    """Have the process have these pieces, from page 0; return their entries."""
    entries = np.concatenate([make_piece(kind, seed) for seed, kind in enumerate(kinds)])
    process.write_pagemap(entries)
    return entries


def verify_told(told: Sequence[Told], ranges: Sequence[tuple[int, int]], entries: Words) -> None:
    """Assert that chunks are those of the ranges, and say what a naive reading does."""
    left = iter(told)
    for first, end in ranges:
        reached = first
        while reached < end:
            chunk = next(left)
            assert chunk.first_page == reached
            reached = chunk.end_page
            due = {
                page: judge(int(entries[page]))
                for page in range(chunk.first_page, chunk.end_page)
                if entries[page]
            }
            there = {page: (flags, state) for page, flags, state in chunk.listed}
            assert {page: there[page] for page in due} == due
            assert {there[page] for page in there.keys() - due.keys()} <= {(0, PageState.ABSENT)}
        assert reached == end
    assert next(left, None) is None


def judge(entry: int) -> tuple[int, int]:
    if not entry & PRESENT:
        return 0, PageState.ANON_SWAPPED
    return flags_of(entry & (1 << 55) - 1), PageState.ANON


def ignore() -> None:
    """Whoever asked still waits."""


ORDERS = {
    "runs": ["run"] * 12,
    "scattered": ["scattered"] * 11,
    "empty": ["empty"] * 20,
    "mixed": ["run", "scattered", "run", "run", "scattered", "holes", "empty", "swapped", "run"],
    "scattered first": ["scattered", "run", "empty", "run", "swapped", "scattered", "holes"],
    "scattered last": ["empty", "swapped", "run", *["holes"] * 5],
    "by turns": ["scattered", "run"] * 9,
}


@pytest.mark.parametrize("name", ORDERS)
def test_pieces_are_told_in_their_order(
    streams: PageStreams[Told], process: Process, name: str
) -> None:
    """Whichever wait for others. Seen to fail with those that wait told at the end of a window."""
    entries = make_process(process, ORDERS[name])
    ranges = [(0, len(entries))]
    target = process.open(PID, Purpose.PAGES)
    verify_told(list(streams.iter_chunks(target, ranges, tell, ignore)), ranges, entries)


@pytest.mark.parametrize("seed", range(20))
def test_ranges_in_any_order(streams: PageStreams[Told], process: Process, seed: int) -> None:
    """And over each other, of one page or of many."""
    random = np.random.default_rng(seed)
    kinds = random.choice(["run", "scattered", "holes", "empty", "swapped"], 12).tolist()
    entries = make_process(process, kinds)
    ranges = []
    for longest in random.choice([3, 100, 3_000], 30).tolist():
        first = int(random.integers(len(entries)))
        ranges.append((first, min(len(entries), first + int(random.integers(1, longest)))))
    target = process.open(PID, Purpose.PAGES)
    verify_told(list(streams.iter_chunks(target, ranges, tell, ignore)), ranges, entries)


def test_small_stream_is_read_without_threads(streams: PageStreams[Told], process: Process) -> None:
    make_process(process, ["scattered"] * 2)
    threads = set()

    def note_thread() -> None:
        threads.add(threading.current_thread())

    target = process.open(PID, Purpose.PAGES)
    assert list(streams.iter_chunks(target, [(5, 5 + PIECE_PAGES)], tell, note_thread))
    assert threads == {threading.current_thread()}


def test_scattered_pieces_are_read_together_up_to_a_window(
    streams: PageStreams[Told], reader: NotingReader, process: Process
) -> None:
    make_process(process, ["scattered"] * 10)
    target = process.open(PID, Purpose.PAGES)
    assert len(list(streams.iter_chunks(target, [(0, 10 * PIECE_PAGES)], tell, ignore))) == 10
    assert reader.windows == [WINDOW_PIECES, WINDOW_PIECES, 2]


@pytest.mark.parametrize(("kind", "most"), [("run", AHEAD), ("scattered", WINDOW_PIECES + AHEAD)])
def test_no_more_is_looked_at_than_is_wanted_soon(
    streams: PageStreams[Told],
    threads: ThreadPoolExecutor,
    reader: NotingReader,
    process: Process,
    kind: str,
    most: int,
) -> None:
    """And nothing once nobody takes more. Seen to fail with the executor's own map()."""
    make_process(process, [kind] * 50)
    target = process.open(PID, Purpose.PAGES)
    with closing(streams.iter_chunks(target, [(0, 50 * PIECE_PAGES)], tell, ignore)) as told:
        next(told)
        threads.submit(ignore).result()
        assert len(reader.looks) <= most
    threads.shutdown()
    assert len(reader.looks) <= most


@pytest.mark.parametrize("kind", ["run", "scattered"])
@pytest.mark.parametrize("wanted", [0, 1, 5, 20])
def test_nothing_is_read_once_nobody_waits(
    streams: PageStreams[Told],
    threads: ThreadPoolExecutor,
    reader: NotingReader,
    process: Process,
    kind: str,
    wanted: int,
) -> None:
    """Each part of the work asks first. Seen to fail without the question before a look."""
    make_process(process, [kind] * 50)
    asked = 0
    asking = threading.Lock()

    def verify_wanted() -> None:
        nonlocal asked
        with asking:
            asked += 1
            if asked > wanted:
                raise CallEndedError

    target = process.open(PID, Purpose.PAGES)
    with pytest.raises(CallEndedError):
        list(streams.iter_chunks(target, [(0, 50 * PIECE_PAGES)], tell, verify_wanted))
    threads.shutdown()
    assert len(reader.looks) + len(reader.windows) <= wanted
    assert len(reader.settled) <= wanted


@pytest.mark.parametrize(("last_look", "last_window"), [(WINDOW_PIECES, 0), (0, 1)])
def test_window_is_read_no_further_once_nobody_waits(
    streams: PageStreams[Told],
    threads: ThreadPoolExecutor,
    reader: NotingReader,
    process: Process,
    last_look: int,
    last_window: int,
) -> None:
    """Neither its flags after the last look, nor its pages once more after its flags.

    Seen to fail without the question there.
    """
    entries = make_process(process, ["scattered"] * WINDOW_PIECES)
    reader.last_look, reader.last_window = last_look, last_window

    def verify_wanted() -> None:
        if reader.is_over.is_set():
            raise CallEndedError

    target = process.open(PID, Purpose.PAGES)
    with pytest.raises(CallEndedError):
        list(streams.iter_chunks(target, [(0, len(entries))], tell, verify_wanted))
    threads.shutdown()
    assert len(reader.windows) == last_window
    assert reader.settled == []


def test_looking_for_what_is_there_asks_too(
    streams: PageStreams[Told], process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of empty memory nothing else is done: 256 steps of it are one piece."""
    entries = make_process(process, ["empty"] * 20)
    monkeypatch.setattr(chunks, "SCANNED_PAGES", PIECE_PAGES)
    scanned = []
    read_entries = page_scan.read_entries

    def note_scan(pagemap: int, address: int, count: int) -> Words:
        scanned.append(address)
        return read_entries(pagemap, address, count)

    monkeypatch.setattr(page_scan, "read_entries", note_scan)
    asked = []

    def verify_wanted() -> None:
        asked.append(len(scanned))
        if len(asked) > 3:
            raise CallEndedError

    target = process.open(PID, Purpose.PAGES)
    with pytest.raises(CallEndedError):
        list(streams.iter_chunks(target, [(0, len(entries))], tell, verify_wanted))
    assert len(scanned) <= 3


@pytest.mark.parametrize("kind", ["run", "scattered"])
def test_process_that_goes_ends_the_stream(
    streams: PageStreams[Told], process: Process, kind: str
) -> None:
    """What was told before was all read. Seen to fail with what is not there read as zeros."""
    entries = make_process(process, [kind] * 40)
    target = process.open(PID, Purpose.PAGES)
    told = streams.iter_chunks(target, [(0, len(entries))], tell, ignore)
    found = [next(told)]
    process.exit()
    with pytest.raises(ShortReadError):
        found.extend(told)
    for chunk in found:
        verify_told([chunk], [(chunk.first_page, chunk.end_page)], entries)


def test_process_that_goes_is_not_taken_for_empty(
    streams: PageStreams[Told], process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PAGEMAP_SCAN finds nothing in it, and no error. Seen to fail without is_alive()."""
    monkeypatch.setattr(page_stream, "iter_populated_by_reading", lambda *_: iter(()))
    entries = make_process(process, ["run"] * 40)
    target = process.open(PID, Purpose.PAGES)
    process.exit()
    with pytest.raises(ShortReadError):
        next(streams.iter_chunks(target, [(0, len(entries))], tell, ignore))


def test_passes_over_a_window(
    streams: PageStreams[Told], process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kpageflags, "_WORDS_AT_ONCE", 512)
    entries = make_process(process, ["scattered", "holes"] * 6)
    ranges = [(0, len(entries))]
    target = process.open(PID, Purpose.PAGES)
    verify_told(list(streams.iter_chunks(target, ranges, tell, ignore)), ranges, entries)
