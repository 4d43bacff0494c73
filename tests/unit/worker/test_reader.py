# SPDX-License-Identifier: Apache-2.0
"""Reading against a naive reading, a page at a time; and what happens when the target moves.

The arithmetic is tried on plain files of words in place of /proc's. Changes between two reads of
pagemap are scripted in place of read_entries(): the kernel cannot be made to race on cue.
"""

import ctypes
import mmap
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing

import numpy as np
import pytest
from cowdaemon.limits import SETTLE_ROUNDS
from cowdaemon.worker import kpageflags
from cowdaemon.worker import pagemap as pagemap_module
from cowdaemon.worker import reader as module
from cowdaemon.worker.features import KernelFeatures
from cowdaemon.worker.page_states import EntryLayout, Kpageflags, Words
from cowdaemon.worker.pagemap import ShortReadError, Stretches, read_entries, read_stretches
from cowdaemon.worker.reader import PageReadings, Reader
from harness.kernel_flags import VOLATILE_FLAGS
from hypothesis import given
from hypothesis import strategies as st

MakeFile = Callable[[bytes], int]

PAGE = mmap.PAGESIZE
PRESENT, SWAPPED, FILE = 1 << 63, 1 << 62, 1 << 61
FRAMES = 100_007
"""Words in the file that stands for kpageflags: it ends inside a block."""
FAR_FRAMES = 1 << 28
"""Where it goes on after a hole of zeros, which is read as frames without information."""
FIRST_PAGE = 10
ALWAYS_SORT, ALWAYS_TABLE = 0, 1 << 40
FEATURES = KernelFeatures(EntryLayout(), has_guard_regions=False, has_pagemap_scan=False)

pytestmark = pytest.mark.usefixtures("nothing_is_left")


class Memory:
    """A machine's frames, in a file: random flags, none that would contradict an entry."""

    def __init__(self) -> None:
        random = np.random.default_rng(2)
        shown = Kpageflags.ANON | Kpageflags.DIRTY | Kpageflags.LRU | 0x3FF << 40
        self.words = random.integers(1 << 60, size=FRAMES, dtype=np.uint64) & np.uint64(shown)
        self.file = os.memfd_create("kpageflags")
        os.pwrite(self.file, self.words.tobytes(), 0)
        os.pwrite(self.file, self.words.tobytes(), FAR_FRAMES * 8)

    def close(self) -> None:
        os.close(self.file)

    def flags(self, frame: int) -> int:
        """The flags of one frame, read alone; 0 past the end."""
        return int.from_bytes(os.pread(self.file, 8, frame * 8), "little")

    def entry(self, frame: int) -> int:
        """An entry that agrees with the frame's flags."""
        file = 0 if self.flags(frame) & Kpageflags.ANON else FILE
        return PRESENT | file | frame

    def read(self, entries: Sequence[int]) -> PageReadings:
        """Read a pagemap of these entries."""
        pagemap = os.memfd_create("pagemap")
        try:
            os.pwrite(pagemap, np.array(entries, np.uint64).tobytes(), FIRST_PAGE * 8)
            return Reader(self.file, FEATURES).read(pagemap, FIRST_PAGE * PAGE, len(entries))
        finally:
            os.close(pagemap)


@pytest.fixture(scope="module")
def memory() -> Iterator[Memory]:
    with closing(Memory()) as memory:
        yield memory


def assert_read_rightly(memory: Memory, frames: Sequence[int]) -> None:
    entries = [memory.entry(frame) for frame in frames]
    readings = memory.read(entries)
    assert readings.entries.tolist() == entries
    assert readings.flags.tolist() == [memory.flags(frame) for frame in frames]
    assert not len(readings.unstable)


RANDOM = np.random.default_rng(1)
SETS_OF_FRAMES = [
    pytest.param([7], id="one"),
    pytest.param([0], id="the first of all"),
    pytest.param([FRAMES - 1], id="the last of all, inside a block"),
    pytest.param([FRAMES, FAR_FRAMES + FRAMES], id="after the last"),
    pytest.param([FRAMES + 1000], id="in the hole"),
    pytest.param([1 << 54], id="far past the end of file"),
    pytest.param([31, 32], id="on both sides of a block's edge"),
    pytest.param(range(1000), id="dense"),
    pytest.param(range(1000, 0, -1), id="dense, descending"),
    pytest.param([5] * 100, id="one, mapped often"),
    pytest.param(range(0, 3200, 32), id="one in each block"),
    pytest.param(range(0, 6400, 64), id="one in each second block"),
    pytest.param([3, 40_000, 3, 90_000, 90_001], id="few and apart"),
    pytest.param([9, FAR_FRAMES + 9], id="far apart"),
    pytest.param([*range(FAR_FRAMES, FAR_FRAMES + 500), *range(500)], id="two dense lots"),
    pytest.param(RANDOM.integers(FRAMES, size=10_000).tolist(), id="scattered"),
    pytest.param(RANDOM.permutation(FRAMES).tolist(), id="all, shuffled"),
]


@pytest.mark.parametrize("frames", SETS_OF_FRAMES)
def test_flags_are_those_of_a_naive_reading(memory: Memory, frames: Sequence[int]) -> None:
    assert_read_rightly(memory, frames)


@pytest.mark.parametrize("span", [ALWAYS_SORT, ALWAYS_TABLE], ids=["by sorting", "by a table"])
def test_both_ways_of_numbering_blocks_agree(
    memory: Memory, monkeypatch: pytest.MonkeyPatch, span: int
) -> None:
    monkeypatch.setattr(kpageflags, "_TABLE_SPAN_PER_PAGE", span)
    for frames in ([7], [9, FRAMES - 1, 9], range(0, 6400, 64), range(1000, 0, -1)):
        assert_read_rightly(memory, frames)
    assert_read_rightly(memory, np.random.default_rng(3).integers(FRAMES, size=3000).tolist())


@given(st.lists(st.integers(0, 400) | st.integers(0, FRAMES + 100), min_size=1, max_size=200))
def test_flags_of_any_frames(memory: Memory, frames: list[int]) -> None:
    assert_read_rightly(memory, frames)


def test_only_present_pages_have_flags(memory: Memory) -> None:
    """Bits 0 to 54 of any other entry are no frame number."""
    present = memory.entry(50)
    entries = [0, SWAPPED | 50, present, 50, FILE | 50, present]
    flags = memory.flags(50)
    assert flags
    assert memory.read(entries).flags.tolist() == [0, 0, flags, 0, 0, flags]


def test_nothing_present(memory: Memory) -> None:
    readings = memory.read([0, SWAPPED, 0])
    assert readings.flags.tolist() == [0, 0, 0]
    assert not len(readings.unstable)


def test_range_that_ends_early_raises(make_file: MakeFile) -> None:
    pagemap = make_file(bytes(8 * 4))
    assert read_entries(pagemap, 0, 4).tolist() == [0] * 4
    assert read_entries(pagemap, 3 * PAGE, 1).tolist() == [0]
    for page, count in ((0, 5), (3, 2), (4, 1), (1 << 40, 1)):
        with pytest.raises(ShortReadError):
            read_entries(pagemap, page * PAGE, count)


def test_read_that_comes_in_parts_is_put_together(
    memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As from a signal, or from a kernel that gives a page of the file at a time."""
    pread, lengths = os.pread, []

    def read_little(file: int, length_bytes: int, offset: int) -> bytes:
        lengths.append(length_bytes)
        return pread(file, min(length_bytes, 24), offset)

    monkeypatch.setattr(os, "pread", read_little)
    assert_read_rightly(memory, [*range(100), FRAMES - 1])
    assert max(lengths) > 24


def test_close_gives_up_kpageflags() -> None:
    file = os.memfd_create("kpageflags")
    Reader(file, FEATURES).close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(file)


class Script:
    """Plays pagemap: each read sees the next of `moments`, the last one for ever.

    A moment is the entries of all pages, and what happens to the machine just before the read.
    """

    def __init__(self, *moments: Sequence[int] | tuple[Sequence[int], Callable[[], object]]):
        self.moments = list(moments)
        self.reads: list[tuple[int, int]] = []

    def read_entries(self, pagemap: int, address: int, count: int) -> Words:
        assert pagemap == -1
        moment = self.moments[min(len(self.reads), len(self.moments) - 1)]
        first = address // PAGE
        self.reads.append((first, count))
        if isinstance(moment, tuple):
            moment, happen = moment
            happen()
        return np.array(moment[first : first + count], np.uint64)

    def read_stretches(self, pagemap: int, stretches: Stretches) -> Words:
        [[first, end]] = stretches.tolist()
        return self.read_entries(pagemap, first * PAGE, end - first)


@pytest.fixture
def play(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> Callable[[Script], PageReadings]:
    """Read a scripted pagemap from its first page to its last."""

    def read(script: Script) -> PageReadings:
        monkeypatch.setattr(module, "read_entries", script.read_entries)
        for each in module, pagemap_module:
            monkeypatch.setattr(each, "read_stretches", script.read_stretches)
        moment = script.moments[0]
        entries = moment[0] if isinstance(moment, tuple) else moment
        return Reader(memory.file, FEATURES).read(-1, 0, len(entries))

    return read


Play = Callable[[Script], PageReadings]


def test_what_does_not_change_is_read_twice(memory: Memory, play: Play) -> None:
    script = Script([memory.entry(frame) for frame in range(5)])
    assert not len(play(script).unstable)
    assert script.reads == [(0, 5), (0, 5)]


def test_changed_entry_gets_the_flags_of_its_new_frame(memory: Memory, play: Play) -> None:
    before = [memory.entry(frame) for frame in (1, 2, 3, 4, 5)]
    after = [memory.entry(frame) for frame in (1, 60_000, 3, 70_000, 5)]
    script = Script(before, after)
    readings = play(script)
    assert readings.entries.tolist() == after
    assert readings.flags.tolist() == [memory.flags(frame) for frame in (1, 60_000, 3, 70_000, 5)]
    assert not len(readings.unstable)
    assert script.reads == [(0, 5), (0, 5), (1, 3)]  # from the first to the last that changed


@pytest.mark.parametrize(
    "stretches",
    [[[40, 41], [10, 12]], [[10, 13], [11, 12]], [[30, 32], [29, 33], [0, 1], [31, 32]]],
)
def test_changed_pages_of_stretches_in_any_order(
    memory: Memory, make_file: MakeFile, stretches: list[list[int]]
) -> None:
    """As ranges may be. Seen to fail with pages that are taken to ascend."""
    before, after = ([memory.entry(3 * page + by) for page in range(50)] for by in (0, 1))
    pagemap = make_file(np.array(after, np.uint64).tobytes())
    pages = [page for first, end in stretches for page in range(first, end)]
    entries = np.array([before[page] for page in pages], np.uint64)
    reader = Reader(memory.file, FEATURES)
    readings = reader.settle(pagemap, np.array(stretches), entries, np.zeros_like(entries))
    assert readings.entries.tolist() == [after[page] for page in pages]
    assert readings.flags.tolist() == [memory.flags(3 * page + 1) for page in pages]
    assert not len(readings.unstable)


@pytest.mark.parametrize("last", [0, SWAPPED | 77])
def test_page_that_goes_away_has_no_flags(memory: Memory, play: Play, last: int) -> None:
    script = Script([memory.entry(1), memory.entry(2)], [memory.entry(1), last])
    readings = play(script)
    assert readings.entries.tolist() == [memory.entry(1), last]
    assert readings.flags.tolist() == [memory.flags(1), 0]
    assert not len(readings.unstable)


def test_same_frame_with_another_bit_is_a_change(memory: Memory, play: Play) -> None:
    exclusive = memory.entry(1) | 1 << 56
    readings = play(Script([memory.entry(1)], [exclusive]))
    assert readings.entries.tolist() == [exclusive]
    assert readings.flags.tolist() == [memory.flags(1)]


def test_entry_that_never_settles_is_unstable_and_has_no_flags(memory: Memory, play: Play) -> None:
    moments = [[memory.entry(1), memory.entry(frame), memory.entry(3)] for frame in range(100, 120)]
    script = Script(*moments)
    readings = play(script)
    assert readings.unstable.tolist() == [1]
    assert readings.flags.tolist() == [memory.flags(1), 0, memory.flags(3)]
    assert len(script.reads) == SETTLE_ROUNDS + 2


def test_entry_that_settles_in_the_last_round_is_stable(memory: Memory, play: Play) -> None:
    moving = [[memory.entry(frame)] for frame in range(100, 100 + SETTLE_ROUNDS)]
    last = memory.entry(99)
    readings = play(Script(*moving, [last]))
    assert readings.unstable.tolist() == []
    assert readings.entries.tolist() == [last]
    assert readings.flags.tolist() == [memory.flags(99)]


def frame_with(memory: Memory, *, anonymous: bool) -> int:
    has = memory.words & np.uint64(Kpageflags.ANON) != 0
    return int(np.flatnonzero(has == anonymous)[0])


@pytest.fixture
def freed(memory: Memory) -> Iterator[tuple[int, Callable[[int], None]]]:
    """A frame of an anonymous page, and a way to give it other flags for the test."""
    frame = frame_with(memory, anonymous=True)
    flags = memory.flags(frame)

    def change(word: int) -> None:
        os.pwrite(memory.file, word.to_bytes(8, "little"), frame * 8)

    yield frame, change
    change(flags)


@pytest.mark.parametrize(
    "odd", [0, Kpageflags.LRU, Kpageflags.ANON | Kpageflags.SLAB, Kpageflags.BUDDY]
)
def test_contradiction_is_read_again(
    memory: Memory, play: Play, freed: tuple[int, Callable[[int], None]], odd: int
) -> None:
    """The entry is the same before and after, but the frame was not its page's in between."""
    frame, change = freed
    entries, flags = [memory.entry(1), memory.entry(frame)], memory.flags(frame)
    change(odd)
    script = Script(entries, (entries, lambda: change(flags)), entries)
    readings = play(script)
    assert readings.flags.tolist() == [memory.flags(1), flags]
    assert not len(readings.unstable)
    assert script.reads == [(0, 2), (0, 2), (1, 1)]


def test_contradiction_that_stays_is_told_as_it_is(
    memory: Memory, play: Play, freed: tuple[int, Callable[[int], None]]
) -> None:
    """It did not move: whoever decides its state sees the word."""
    frame, change = freed
    entry = memory.entry(frame)
    change(Kpageflags.BUDDY)
    readings = play(Script([entry]))
    assert readings.flags.tolist() == [Kpageflags.BUDDY]
    assert not len(readings.unstable)


def test_migrating_page_of_a_file_is_read_again(memory: Memory, play: Play) -> None:
    frame = frame_with(memory, anonymous=False)
    migrating = SWAPPED | FILE | 0x1DD
    settled = memory.entry(frame)
    readings = play(Script([migrating], [migrating], [settled]))
    assert readings.entries.tolist() == [settled]
    assert readings.flags.tolist() == [memory.flags(frame)]


@pytest.mark.parametrize("read_count", [1, SETTLE_ROUNDS + 1])
def test_exit_between_the_reads_raises(
    memory: Memory, monkeypatch: pytest.MonkeyPatch, make_file: MakeFile, read_count: int
) -> None:
    """Whichever read comes up short, the first or the last to verify, nothing is returned."""
    pagemap, reads = make_file(b""), 0

    def read_and_exit(file: int, address: int, count: int) -> Words:
        assert (address, count) == (0, 1)
        return read_stretches_and_exit(file, np.array([[0, 1]]))

    def read_stretches_and_exit(file: int, stretches: Stretches) -> Words:
        nonlocal reads
        # Every read finds another frame, so that there is a next one.
        word = memory.entry(reads) if reads < read_count else 0
        os.pwrite(pagemap, word.to_bytes(8, "little"), 0)
        if reads == read_count:
            os.ftruncate(pagemap, 0)
        reads += 1
        return read_stretches(file, stretches)

    monkeypatch.setattr(module, "read_entries", read_and_exit)
    for each in module, pagemap_module:
        monkeypatch.setattr(each, "read_stretches", read_stretches_and_exit)
    with pytest.raises(ShortReadError):
        Reader(memory.file, FEATURES).read(pagemap, 0, 1)
    assert reads == read_count + 1


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: frame numbers and kpageflags")
def test_real_pages_against_a_naive_reading() -> None:
    count = 300
    with (
        open("/proc/self/pagemap", "rb", buffering=0) as pagemap,
        open("/proc/kpageflags", "rb", buffering=0) as flags_file,
        mmap.mmap(-1, count * PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory,
    ):
        memory.madvise(mmap.MADV_NOHUGEPAGE)
        for page in range(0, count, 3):
            memory[page * PAGE] = 1  # a page of its own
        for page in range(1, count, 3):
            assert memory[page * PAGE] == 0  # the zero page
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        readings = Reader(flags_file.fileno(), FEATURES).read(pagemap.fileno(), address, count)
        for page in range(count):
            read = os.pread(pagemap.fileno(), 8, (address // PAGE + page) * 8)
            entry = int.from_bytes(read, "little")
            read = os.pread(flags_file.fileno(), 8, (entry & (1 << 55) - 1) * 8)
            flags = int.from_bytes(read, "little") if entry & PRESENT else 0
            assert readings.entries[page] == entry
            assert int(readings.flags[page]) & ~VOLATILE_FLAGS == flags & ~VOLATILE_FLAGS
        anonymous = readings.flags & np.uint64(Kpageflags.ANON) != 0
        assert np.flatnonzero(anonymous).tolist() == list(range(0, count, 3))
        assert not len(readings.unstable)
