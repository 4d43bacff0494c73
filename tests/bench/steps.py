# SPDX-License-Identifier: Apache-2.0
"""Where the nanoseconds of a page go: the daemon's own reading, in one thread, under cProfile.

Runs in the process of the benchmark, as root, without gRPC. The clock is read where a function of
ours begins and ends; each has some 65,536 pages to itself, so what the clock takes does not count.
"""

import cProfile
import os
import pstats
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple
from unittest import mock

from cowdaemon.worker import kpageflags, page_scan, pagemap, reader, windows
from cowdaemon.worker.disclosure import SAFE, DisclosureMasks
from cowdaemon.worker.encoding import encode_pages
from cowdaemon.worker.features import probe_features
from cowdaemon.worker.kernel_files import open_kpageflags
from cowdaemon.worker.page_stream import ChunkPages, PageStreams
from cowdaemon.worker.reader import Reader
from cowdaemon.worker.targets import Target
from cowproto.v1 import twins_pb2 as twins

from bench.cases import Case, Outcome, Part
from bench.ranges import SCENE_BYTES
from bench.rounds import show_progress
from bench.stage import Pages, Stage

Function = Callable[..., Any]

WINDOWS = 65_536, 262_144, 524_288, 1_048_576
"""How many scattered pages are read together; the last is what the daemon does."""


def tell(pages: ChunkPages) -> bytes:
    """Return the answer about a chunk, as large as the service's."""
    response = twins.StreamPageFlagsResponse(count=pages.chunk.listed_page_count)
    return encode_pages(response, pages.kpageflags, pages.states, pages.attributes)


class Step(NamedTuple):
    """What of the reading is told apart: the time of functions, less of those that they call."""

    title: str
    functions: Sequence[Function]
    others: Sequence[Function] = ()


STEPS = {
    "scan": Step("scan", [page_scan.iter_populated, page_scan.iter_populated_by_reading]),
    "pagemap": Step("pagemap twice", [pagemap.read_stretches]),
    "frames": Step(
        "finding blocks",
        [kpageflags.read_runs, kpageflags.read_scattered],
        [kpageflags._read_runs, kpageflags._gather],
    ),
    "kpageflags": Step("kpageflags", [kpageflags._read_runs]),
    "gather": Step("gathering", [kpageflags._gather]),
    "judge": Step(
        "judging",
        [reader.encode, reader.is_contradictory, reader.classify_readings, DisclosureMasks.apply],
    ),
    "tell": Step("encoding", [tell]),
}
ALL = "all"
LEAST_TOLD = 0.8
"""Of the whole time, that the steps have to make up."""


class Reading:
    """What one thread needs to read a scene as a worker does."""

    def __init__(self, pages: Pages) -> None:
        first_page = pages.address // os.sysconf("SC_PAGE_SIZE")
        self._ranges = [(first_page, first_page + pages.count)]
        self._count = pages.count
        self._reader = Reader(open_kpageflags(), probe_features())
        threads = ThreadPoolExecutor(1)  # which starts none: so much is not few
        self._streams: PageStreams[bytes] = PageStreams(self._reader, SAFE, threads)
        files = (os.open(f"/proc/{pages.pid}/{name}", os.O_RDONLY) for name in ("pagemap", "maps"))
        self._target = Target(pages.pid, 0, *files)

    def close(self) -> None:
        """Give up kpageflags."""
        self._reader.close()

    def read(self) -> float:
        """Read all of it, and return how many seconds a page took."""
        start = time.perf_counter()
        with mock.patch.object(windows, "PAGES_PER_CALL", self._count):  # so much is not few
            for _ in self._streams.iter_chunks(self._target, self._ranges, tell, lambda: None):
                pass
        return (time.perf_counter() - start) / self._count

    def profile(self) -> dict[str, float]:
        """Return what `read` does, and the seconds a page of each step."""
        profile = cProfile.Profile(builtins=False)
        whole = profile.runcall(self.read)
        seconds = {where: row[3] for where, row in pstats.Stats(profile).stats.items()}

        def add(functions: Sequence[Function]) -> float:
            codes = (function.__code__ for function in functions)
            places = ((code.co_filename, code.co_firstlineno, code.co_name) for code in codes)
            return sum(seconds.get(place, 0.0) for place in places) / self._count

        steps = {name: add(step.functions) - add(step.others) for name, step in STEPS.items()}
        told = sum(steps.values()) / whole
        assert LEAST_TOLD < told <= 1, f"the steps make up {told:.0%} of the whole"
        return {**steps, ALL: whole}

    def count_words(self) -> float:
        """Read all of it, and return how many words of kpageflags a page took."""
        count = 0

        def read_runs(*arguments: object) -> object:
            nonlocal count
            words = original(*arguments)
            count += len(words)
            return words

        original = kpageflags._read_runs
        with mock.patch.object(kpageflags, "_read_runs", read_runs):
            self.read()
        return count / self._count


@contextmanager
def scene(stage: Stage, kind: str) -> Iterator[Reading]:
    """Have a scene of a file, and what reads it."""
    with stage.hole() as file, stage.scene(kind, file=file) as pages:
        reading = Reading(pages["all"])
        try:
            yield reading
        finally:
            reading.close()


def profile(reading: Reading, rounds: int, title: str) -> Mapping[str, list[float]]:
    """Return the seconds a page of each step, by round, after one to warm up."""
    figures = defaultdict(list)
    for number in range(rounds + 1):
        show_progress(f"steps, {title}: round {number} of {rounds}")
        for name, seconds in reading.profile().items():
            if number:
                figures[name].append(seconds)
    return figures


def measure_steps(stage: Stage, rounds: int) -> Mapping[str, Outcome]:
    """Where the time of a page goes: of scattered pages, against those in runs."""
    with scene(stage, "scattered") as reading:
        scattered = profile(reading, rounds, "scattered")
        by_window = {}
        for pages in WINDOWS:
            with mock.patch.object(windows, "WINDOW_PAGES", pages):
                figures = profile(reading, rounds, f"{pages} together")
                details = {"words_per_page": reading.count_words()}
            by_window[f"steps-window-{pages}"] = Outcome(figures[ALL], details=details)
    with scene(stage, "runs") as reading:
        runs = profile(reading, rounds, "in runs")
    return by_window | {
        f"steps-{name}": Outcome(figures, runs[name]) for name, figures in scattered.items()
    }


PARTS = [
    Part(
        [
            *(
                Case(f"steps-{name}", f"step: {step.title}, in runs")
                for name, step in STEPS.items()
            ),
            Case(f"steps-{ALL}", "all steps, in runs"),
            *(Case(f"steps-window-{pages}", f"a page, {pages:,} together") for pages in WINDOWS),
        ],
        measure_steps,
        SCENE_BYTES,
    )
]
