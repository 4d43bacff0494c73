# SPDX-License-Identifier: Apache-2.0
"""What a worker takes of memory while it streams. Runs in the process of the benchmark."""

import threading
from collections.abc import Mapping
from pathlib import Path

from harness.programs import NOBODY, Program, User

from bench.cases import BYTES, Case, Outcome, Part
from bench.ranges import SCENE_BYTES
from bench.rounds import show_progress
from bench.stage import Pages, Stage, ask

SAMPLE_SECONDS = 0.02
FIRST_GROUP = 70_000
CALLS = 20
"""Before a stream: a worker that has answered has all that it keeps anyway."""


def measure_gain(stage: Stage, rounds: int) -> Mapping[str, Outcome]:
    """What a worker takes at most during a stream, less what it took before: each a fresh one."""
    gains, before = [], []
    with stage.hole() as file:
        with stage.scene("scattered", file=file):
            pass  # The file's pages keep the frames that they got.
        with stage.scene("large", file=file) as scene:
            for number in range(rounds):
                show_progress(f"memory of a worker: round {number + 1} of {rounds}")
                # Other groups are another credential, and so another worker.
                user = NOBODY._replace(groups=(FIRST_GROUP + number,))
                small, large = stream_as(user, stage, scene["all"])
                before.append(small)
                gains.append(large - small)
    details = {"pages": scene["all"].count, "median_bytes_before": sorted(before)[rounds // 2]}
    return {"memory": Outcome(gains, details=details)}


def stream_as(user: User, stage: Stage, pages: Pages) -> tuple[int, int]:
    """Return what the worker of a new user has of its own before a stream, and most in it."""
    others = set(stage.daemon.tree().workers)
    with stage.start_asker(user) as asker:
        ask(asker, pages._replace(count=4).order("call", way="library", calls=CALLS))
        [worker] = set(stage.daemon.tree().workers) - others
        return read_own_bytes(worker), sample_most(worker, asker, pages)


def sample_most(worker: int, asker: Program, pages: Pages) -> int:
    """Return the most that the worker had of its own while the asker read a range."""
    samples = []
    ended = threading.Event()

    def sample() -> None:
        while not ended.wait(SAMPLE_SECONDS):
            samples.append(read_own_bytes(worker))

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        ask(asker, pages.order("read"))
    finally:
        ended.set()
        sampler.join()
    return max(samples)


def read_own_bytes(pid: int) -> int:
    """Return what a process has of memory that nobody shares (USS)."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))


PARTS = [
    Part(
        [Case("memory", "worker's gain while streaming", 32 << 20, is_absolute=True, unit=BYTES)],
        measure_gain,
        SCENE_BYTES,
    )
]
