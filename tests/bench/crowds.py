# SPDX-License-Identifier: Apache-2.0
"""What many callers cost, and what they cost each other.

Runs as root in the process of the benchmark. A caller is a child that takes on a user's ids and
then connects; so nothing in this process may have used grpc before.
"""

import gc
import os
import signal
import socket
import statistics
import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import cowd
import grpc  # noqa: F401 - once, here: a child that imports it alone would be timed for that
from harness.daemon import Daemon
from harness.programs import GAMES, NOBODY, User

from bench.cases import Case, Outcome, Part
from bench.rounds import measure, show_progress
from bench.stage import Stage

CALLS = 300
CONNECTIONS = 1_000
CREDENTIALS = 1_000
GROUPS = tuple(range(71_000, 71_300))
FIRST_ID = 100_000


def run_as(user: User, work: Callable[[], Sequence[float]]) -> list[float]:
    """Return the numbers that `work` returns in a child of that user."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            become(user)
            numbers = work()
            os.write(writer, struct.pack(f"{len(numbers)}d", *numbers))
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    with open(reader, "rb") as file:
        packed = file.read()
    _, status = os.waitpid(pid, 0)
    assert status == 0, f"a caller failed with status {status}"
    return list(struct.unpack(f"{len(packed) // 8}d", packed))


def become(user: User) -> None:
    """Take on a user's ids for good."""
    os.setgroups(user.groups)
    os.setresgid(user.gid, user.gid, user.gid)
    os.setresuid(user.uid, user.uid, user.uid)


def time_calls(path: Path, calls: int) -> list[float]:
    """Return the seconds of the first call, connecting included, and the median of the others."""
    with cowd.Client(os.fspath(path)) as client:
        seconds = []
        for _ in range(calls):
            start = time.perf_counter()
            client.get_server_info()
            seconds.append(time.perf_counter() - start)
    return [seconds[0], statistics.median(seconds[1:] or seconds)]


@contextmanager
def hold_connections(path: Path, count: int) -> Iterator[None]:
    """Have a process of GAMES that has connected so often."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            become(GAMES)
            held = []
            for _ in range(count):
                held.append(socket.socket(socket.AF_UNIX))
                held[-1].connect(os.fspath(path))
            os.write(writer, b"x")
            signal.pause()
        finally:
            os._exit(1)
    os.close(writer)
    try:
        with open(reader, "rb") as file:
            assert file.read(1) == b"x"
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def read_pss_bytes(pids: Sequence[int]) -> int:
    """Return what these processes take of memory, shared pages divided by their users."""
    pss_bytes = 0
    for pid in pids:
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            pss_bytes += sum(
                int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:")
            )
    return pss_bytes


def describe(daemon: Daemon) -> dict[str, Any]:
    """Return how many processes the daemon has and what they take."""
    tree = daemon.tree()
    return {
        "workers": len(tree.workers),
        "openers": len(tree.openers),
        "pss_bytes": read_pss_bytes(tree.pids),
    }


def measure_callers(stage: Stage, rounds: int) -> Mapping[str, Outcome]:
    """One caller's calls: alone, of many groups, and beside many connections of another uid."""
    path = stage.daemon.socket_path
    details: dict[str, dict[str, Any]] = {}

    def call_as(name: str, user: User) -> float:
        _, later = run_as(user, lambda: time_calls(path, CALLS))
        details[name] = describe(stage.daemon)
        return later

    def call_beside() -> float:
        with hold_connections(path, CONNECTIONS):
            return call_as("connections", NOBODY)

    gc.freeze()
    ways = {
        "alone": lambda: call_as("alone", NOBODY),
        "groups": lambda: call_as("groups", NOBODY._replace(groups=GROUPS)),
        "connections": call_beside,
    }
    figures = measure(ways, rounds, "callers")
    return {
        f"crowd-{name}": Outcome(figures[name], figures["alone"], details[name])
        for name in ("groups", "connections")
    }


def measure_credentials(stage: Stage, _: int) -> Mapping[str, Outcome]:
    """One new credential after another: each needs an opener and a worker, and there are limits."""
    firsts, most = [], 0
    gc.freeze()
    for number in range(CREDENTIALS):
        if not number % 10:
            show_progress(f"credentials: {number} of {CREDENTIALS}")
        user = User("", FIRST_ID + number, FIRST_ID + number)
        firsts.append(run_as(user, lambda: time_calls(stage.daemon.socket_path, 1))[0])
        most = max(most, len(stage.daemon.tree().workers))
    details = describe(stage.daemon) | {"most_workers": most, "slowest_seconds": max(firsts)}
    return {"crowd-first": Outcome(firsts, details=details)}


PARTS = [
    Part(
        [
            Case("crowd-groups", f"call by {len(GROUPS)} groups, by none"),
            Case("crowd-connections", f"beside {CONNECTIONS:,} connected, alone"),
        ],
        measure_callers,
    ),
    Part([Case("crowd-first", f"{CREDENTIALS:,} users, one first call")], measure_credentials),
]
