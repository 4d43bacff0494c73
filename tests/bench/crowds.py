# SPDX-License-Identifier: Apache-2.0
"""What many callers cost, and what they cost each other. `make bench` runs it.

Runs as root, for the private daemon that it starts and to be many users. A caller is a child of
this process that takes on a user's ids and then connects.
"""

import gc
import os
import signal
import socket
import statistics
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import cowd
import grpc  # noqa: F401 - once, here: a child that imports it alone would be timed for that

sys.path.append(str(Path(__file__).parents[1]))
from harness.daemon import Daemon
from harness.programs import GAMES, NOBODY, User

CALLS = 300
CONNECTIONS = 1_000
CREDENTIALS = 1_000
GROUPS = tuple(range(70_000, 70_300))
FIRST_GID = 100_000


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


def hold_connections(path: Path, count: int) -> int:
    """Start a process of GAMES that connects so often and stays; return its pid."""
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
    with open(reader, "rb") as file:
        assert file.read(1) == b"x"
    return pid


def read_pss_bytes(pids: Sequence[int]) -> int:
    """Return what these processes take of memory, shared pages divided by their users."""
    pss_bytes = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                pss_bytes += int(line.split()[1]) * 1024
    return pss_bytes


def describe(daemon: Daemon) -> str:
    """Return how many processes the daemon has and what they take."""
    tree = daemon.tree()
    mebibytes = read_pss_bytes(tree.pids) / 2**20
    return f"{len(tree.workers)} workers, {len(tree.openers)} openers, {mebibytes:.0f} MiB"


def main() -> None:
    """Print the figures."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory, ExitStack() as stack:
        daemon = Daemon(Path(directory))
        stack.callback(daemon.stop)
        path = daemon.socket_path
        gc.freeze()

        def say(what: str, first: float, then: float) -> None:
            print(f"{what:<44} {first * 1e3:7.1f} {then * 1e3:7.2f}  {describe(daemon)}")

        print(f"{'CALLER':<44} {'FIRST':>7} {'THEN':>7}  DAEMON        (ms; memory: PSS)")
        say("one alone", *run_as(NOBODY, lambda: time_calls(path, CALLS)))
        many = NOBODY._replace(groups=GROUPS)
        say(f"of {len(GROUPS)} groups", *run_as(many, lambda: time_calls(path, CALLS)))
        holder = hold_connections(path, CONNECTIONS)
        name = f"another, beside {CONNECTIONS} connections of one uid"
        say(name, *run_as(NOBODY, lambda: time_calls(path, CALLS)))
        os.kill(holder, signal.SIGKILL)
        os.waitpid(holder, 0)
        firsts, most = [], 0
        for gid in range(FIRST_GID, FIRST_GID + CREDENTIALS):
            user = User("", gid, gid)  # another uid each time, too
            firsts += run_as(user, lambda: time_calls(path, 1))[:1]
            most = max(most, len(daemon.tree().workers))
        median, slowest = statistics.median(firsts) * 1e3, max(firsts) * 1e3
        print(
            f"{CREDENTIALS} credentials, one after another: first call {median:.1f} ms median, "
            f"{slowest:.0f} ms slowest"
        )
        print(f"(at most {most} workers; at the end {describe(daemon)})")


if __name__ == "__main__":
    main()
