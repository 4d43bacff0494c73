# SPDX-License-Identifier: Apache-2.0
"""The flags of any frames against a naive reading, on a file of words in place of kpageflags.

tests/unit/worker/test_reader.py has what the frames of one range come to.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pytest
from cowdaemon.limits import READING_THREADS
from cowdaemon.worker import kpageflags as module
from cowdaemon.worker.kpageflags import read_flags, read_runs, read_scattered
from cowdaemon.worker.page_states import Words
from cowdaemon.worker.read_ahead import map_ahead
from hypothesis import given
from hypothesis import strategies as st

PRESENT, SWAPPED, FILE = 1 << 63, 1 << 62, 1 << 61
FRAMES = 20_003
"""Words in the file: it ends inside a block."""
FAR_FRAME = 1 << 40
"""A file does not reach so far: as the hole in a machine's memory, it has no words."""
ALWAYS_SORT, ALWAYS_TABLE = 0, 1 << 40
RANDOM = np.random.default_rng(6)
PIECES = {
    "one page": [[7]],
    "scattered": [RANDOM.integers(FRAMES, size=3_000).tolist() for _ in range(3)],
    "all, shuffled": [part.tolist() for part in np.array_split(RANDOM.permutation(FRAMES), 4)],
    "one here and there": [RANDOM.integers(FRAMES, size=50).tolist() for _ in range(3)],
    "of different lengths": [[5, 900, 3], list(range(0, FRAMES, 2)), [FRAMES - 1, 0]],
    "the same ones": [[9, 9, 8], [8, 9, 9]],
    "to the end and past it": [[FRAMES - 1, FRAMES + 40, 2], [FRAMES, FRAMES + 1]],
    "past the end alone": [[FRAMES + 64], [FRAMES + 640, FRAMES + 6_400]],
}

pytestmark = pytest.mark.usefixtures("nothing_is_left")

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def words() -> Words:
    return np.random.default_rng(5).integers(1, 1 << 63, size=FRAMES, dtype=np.uint64)


@pytest.fixture(scope="module")
def file(words: Words) -> Iterator[int]:
    descriptor = os.memfd_create("kpageflags")
    os.pwrite(descriptor, words.tobytes(), 0)
    yield descriptor
    os.close(descriptor)


@pytest.fixture(params=["map", "threads"])
def run(request: pytest.FixtureRequest) -> Iterator[Run]:
    """Return what applies a function to all pieces."""
    if request.param == "map":
        yield map
    else:
        with ThreadPoolExecutor(2) as threads:
            yield partial(map_ahead, threads)


@pytest.fixture(params=["as it is", "sort", "table", "passes", "passes, sort"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have blocks numbered, and held, in one way or the other."""
    if "passes" in request.param:
        monkeypatch.setattr(module, "_WORDS_AT_ONCE", 256)
        monkeypatch.setattr(module, "_BLOCKS_OF_A_READ", 3)
    if "sort" in request.param:
        monkeypatch.setattr(module, "_TABLE_SPAN_PER_PAGE", ALWAYS_SORT)
    elif request.param == "table":
        monkeypatch.setattr(module, "_TABLE_SPAN_PER_PAGE", ALWAYS_TABLE)


@pytest.fixture(params=[0, 1 << 30], ids=["large blocks", "small blocks"])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have blocks of one size or the other."""
    monkeypatch.setattr(module, "_WELL_USED_PAGES", request.param)


def make_entries(frames: Sequence[int]) -> Words:
    return np.array([PRESENT | frame for frame in frames], np.uint64)


def read_naively(words: Words, entries: Words) -> list[int]:
    """Return the words of present pages' frames, one by one."""
    frames = [entry & (1 << 55) - 1 if entry & PRESENT else FRAMES for entry in entries.tolist()]
    return [int(words[frame]) if frame < FRAMES else 0 for frame in frames]


@pytest.mark.parametrize("name", PIECES)
@pytest.mark.usefixtures("way", "blocks")
def test_scattered_frames(file: int, words: Words, run: Run, name: str) -> None:
    """Seen to fail with passes that start a block too late, and with blocks in another order."""
    entries = list(map(make_entries, PIECES[name]))
    flags = read_scattered(file, entries, run)
    assert [each.tolist() for each in flags] == [read_naively(words, each) for each in entries]


@pytest.mark.usefixtures("way", "blocks")
def test_scattered_pages_of_which_some_are_not_there(file: int, words: Words, run: Run) -> None:
    """What stands in their entries is no frame's number. Seen to fail with it taken for one."""
    pieces = []
    for seed in range(3):
        random = np.random.default_rng(seed)
        entries = random.integers(FRAMES, size=1_000, dtype=np.uint64)
        entries |= random.choice(np.array([0, SWAPPED, PRESENT, PRESENT | FILE], np.uint64), 1_000)
        pieces.append(entries)
    flags = read_scattered(file, pieces, run)
    assert [each.tolist() for each in flags] == [read_naively(words, each) for each in pieces]


@given(
    st.lists(
        st.lists(
            st.tuples(
                st.sampled_from([0, SWAPPED, PRESENT, PRESENT | FILE]),
                st.integers(0, 300) | st.integers(0, FRAMES + 100),
            ),
            min_size=1,
            max_size=100,
        ),
        min_size=1,
        max_size=4,
    )
)
def test_any_entries(file: int, words: Words, pieces: list[list[tuple[int, int]]]) -> None:
    """Whether they are read as runs, or scattered and together."""
    entries = [
        np.array([PRESENT | 4, *(bits | frame for bits, frame in piece)], np.uint64)
        for piece in pieces
    ]
    due = [read_naively(words, each) for each in entries]
    assert [flags.tolist() for flags in read_scattered(file, entries)] == due
    assert [read_flags(file, each).tolist() for each in entries] == due


class CallEndedError(Exception):
    pass


@pytest.mark.usefixtures("blocks")
def test_reading_ends_once_nobody_waits(
    file: int, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen to fail without the question before each read."""
    monkeypatch.setattr(module, "_BLOCKS_OF_A_READ", 3)
    asked = []

    def verify_wanted() -> None:
        asked.append(None)
        if len(asked) > 2:
            raise CallEndedError

    with pytest.raises(CallEndedError):
        read_scattered(file, [make_entries(range(0, FRAMES, 2))], run, verify_wanted)
    assert len(asked) < 2 + 2 * READING_THREADS


def test_table_takes_no_more_memory_than_it_may(
    file: int, words: Words, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen to fail with a table of any width."""
    monkeypatch.setattr(module, "_LARGEST_TABLE_SPAN", 100)
    entries = make_entries(np.random.default_rng(4).permutation(FRAMES)[:5_000].tolist())
    monkeypatch.setattr(module.np, "empty", None)  # what makes the table
    [flags] = read_scattered(file, [entries])
    assert flags.tolist() == read_naively(words, entries)


def test_frames_that_are_far_apart_need_no_table(file: int, words: Words) -> None:
    """Nor the memory for one: it would be 4 TB."""
    entries = [make_entries([3, FAR_FRAME, 5]), make_entries([FAR_FRAME + 9, 11])]
    flags = read_scattered(file, entries)
    expected = [[int(words[3]), 0, int(words[5])], [0, int(words[11])]]
    assert [each.tolist() for each in flags] == expected


@pytest.mark.parametrize(
    ("frames", "is_read"),
    [
        ([], True),
        (range(1_000), True),
        ([*range(500), *range(700, 1_200)], True),
        (range(0, 128, 2), True),  # 63 breaks: few
        (range(0, 1_000, 2), False),
        (range(1_000, 0, -1), False),
        ([frame for start in range(0, 1_600, 16) for frame in range(start, start + 9)], True),
        ([frame for start in range(0, 1_600, 16) for frame in range(start, start + 7)], False),
    ],
)
def test_runs_are_read_where_that_is_worth_it(
    file: int, words: Words, frames: Sequence[int], is_read: bool
) -> None:
    entries = np.concatenate((make_entries(frames), np.array([0, SWAPPED | 3], np.uint64)))
    flags = read_runs(file, entries)
    assert (flags is not None) == is_read
    if flags is not None:
        assert flags.tolist() == read_naively(words, entries)


def test_more_runs_are_read_where_they_are_wanted(file: int, words: Words) -> None:
    entries = make_entries(range(0, 1_000, 2))
    assert read_runs(file, entries, most_runs=498) is None
    flags = read_runs(file, entries, most_runs=499)
    assert flags is not None
    assert flags.tolist() == read_naively(words, entries)


@pytest.mark.parametrize("frame", [FRAMES - 5, FRAMES - 1, FRAMES, FAR_FRAME])
def test_run_that_the_last_frame_ends(file: int, words: Words, frame: int) -> None:
    """What comes after it has no flags. Seen to fail with the words moved up."""
    entries = make_entries([*range(frame, frame + 10), 4])
    flags = read_runs(file, entries)
    assert flags is not None
    assert flags.tolist() == read_naively(words, entries)
