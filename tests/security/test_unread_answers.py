# SPDX-License-Identifier: Apache-2.0
"""Answers that nobody reads stay within a worker's bounds: how many it keeps x the largest answer.

gRPC takes an answer from its handler at once and keeps it until the client wants it, so the number
of handlers bounds nothing.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cowdaemon.limits import (
    ANSWERS_UNREAD,
    CALLS_PER_WORKER,
    CONNECTIONS_PER_UID,
    DRAIN_SECONDS,
    PAGES_PER_CALL,
)
from harness.daemon import ROOT, Daemon, StartDaemon
from harness.programs import GAMES, NOBODY, Caller, Program, StartCaller

READER = ROOT / "tests" / "security" / "silent_reader.py"
BYTES_PER_PAGE = 10
LARGEST_ANSWER_BYTES = PAGES_PER_CALL * BYTES_PER_PAGE
COPIES = 4
"""gRPC's own of an answer, as measured and rounded up: the message, its slices, buffers."""
CONNECTION_BYTES = 1 << 20
"""Two relay buffers of 256 KiB, stacks, and gRPC's own."""
BOUND_BYTES = (
    ANSWERS_UNREAD * LARGEST_ANSWER_BYTES * COPIES + CONNECTIONS_PER_UID * CONNECTION_BYTES
)
FEW_CONNECTIONS, FEW_CALLS = 8, 4
"""More than are served at once, and so few that they themselves take next to nothing."""
STREAM_BYTES = {"streams": 32 << 20, "comparisons": 48 << 20}
"""What one may take, whatever it is of. As measured with grpcio 1.51.1 and 1.85: 21 MB; to compare
two processes, 35 MB: entries of both.

Streams are worked on in as many threads as there are; further ones wait unread."""
MANY_CALLS = 40
"""On each connection: twenty times as many as are served at once."""
LOOK_SECONDS = 0.2
SETTLED_LOOKS = 5
SECONDS = 60.0


def read_anonymous_bytes(pid: int) -> int:
    """Return what a process has of memory that no file stands behind."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"process {pid} has ended")


def wait_until_settled(pid: int) -> int:
    """Return what a process has of memory once it takes no more."""
    most, looks, deadline = 0, 0, time.monotonic() + SECONDS
    while looks < SETTLED_LOOKS:
        assert time.monotonic() < deadline
        time.sleep(LOOK_SECONDS)
        now = read_anonymous_bytes(pid)
        looks = looks + 1 if now <= most else 0
        most = max(most, now)
    return most


@contextmanager
def start_silent_reader(daemon: Daemon) -> Iterator[Program]:
    """Have a client that asks and does not read; see silent_reader.py."""
    program = Program(NOBODY.command([sys.executable, str(READER), str(daemon.socket_path)]))
    try:
        program.read()
        yield program
    finally:
        program.kill()


def ask(program: Program, **order: int) -> None:
    """Have a silent reader ask so much more."""
    program.write(order)
    assert program.read()["open"]


@contextmanager
def fill_a_worker(daemon: Daemon, other: Caller, **order: int) -> Iterator[int]:
    """Have a silent reader ask so much; yield how many bytes its worker then takes.

    `other` is a caller with a worker of its own, and is served throughout.
    """
    other.get_server_info()
    [of_other] = daemon.tree().workers
    with start_silent_reader(daemon) as program:
        ask(program, connections=1, calls=0)
        [worker] = {*daemon.settled_tree(openers=2, workers=2).workers} - {of_other}
        idle = wait_until_settled(worker)
        ask(program, **order)
        yield wait_until_settled(worker) - idle
        assert other.get_server_info().caller.uid == GAMES.uid


def test_unread_answers_are_bounded(start_daemon: StartDaemon, start_caller: StartCaller) -> None:
    """Seen to fail on grpcio 1.51.1 with ANSWERS_UNREAD at 10,000: it runs into RLIMIT_DATA."""
    daemon = start_daemon()
    other = start_caller(GAMES, daemon.socket_path)
    order = {"connections": CONNECTIONS_PER_UID - 1, "calls": MANY_CALLS}
    with fill_a_worker(daemon, other, **order) as taken:
        assert taken > LARGEST_ANSWER_BYTES * ANSWERS_UNREAD / 2  # it is what is looked at
        assert taken < BOUND_BYTES


@pytest.mark.parametrize("kind", STREAM_BYTES)
def test_unread_streams_are_bounded(
    start_daemon: StartDaemon, start_caller: StartCaller, kind: str
) -> None:
    """However many of their pages are read ahead; and each that is gone makes room for the next.

    Seen to fail with what is read ahead unbounded.
    """
    daemon = start_daemon()
    other = start_caller(GAMES, daemon.socket_path)
    order = {"connections": FEW_CONNECTIONS, "calls": FEW_CALLS, kind: True}
    with fill_a_worker(daemon, other, **order) as taken:
        assert taken > LARGEST_ANSWER_BYTES * CALLS_PER_WORKER  # it is what is looked at
        assert taken < CALLS_PER_WORKER * STREAM_BYTES[kind] + FEW_CONNECTIONS * CONNECTION_BYTES
    same = start_caller(NOBODY, daemon.socket_path)
    assert same.get_server_info().caller.uid == NOBODY.uid


def test_unread_answers_hold_up_a_restart_for_a_moment_alone(start_daemon: StartDaemon) -> None:
    """And not for as long as calls are worked on. Seen to fail with one deadline for both."""
    daemon = start_daemon()
    with start_silent_reader(daemon) as program:
        ask(program, connections=2, calls=2)
        [worker] = daemon.settled_tree(openers=1, workers=1).workers
        wait_until_settled(worker)
        started = time.monotonic()
        daemon.stop()
        assert time.monotonic() - started < DRAIN_SECONDS
