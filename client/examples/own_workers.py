# SPDX-License-Identifier: Apache-2.0
"""What the workers of cowd itself share with the zygote that they were forked from. Runs as root.

Usage: own_workers.py

cowd answers nobody about its own processes, so it takes two of them, which live as long as this
program: the first gets callers of several users, each of whom has a worker of their own; the second
is asked about the first's.
"""

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import cowd

CALLS = {
    "who they are": "client.get_server_info()",
    "4 pages": "client.get_page_flags(os.getpid(), page, 4)",
    "32,768 pages": "all(client.stream_page_flags(os.getpid(), [(page, 32_768)]))",
}
CALLER = """
import mmap, os, sys
import cowd, numpy as np

memory = np.ones((32_768 + 1) * mmap.PAGESIZE, dtype="u1")
page = cowd.pages(memory[:1], backend="local").span.address + mmap.PAGESIZE
with cowd.Client() as client:
    {call}
    print(flush=True)
    sys.stdin.read()
"""
FIRST_UID = 60_000
"""Of the callers, who need not exist."""
START_SECONDS = 20.0
"""A daemon that is not ready by then has said why."""
MEBIBYTE = 1 << 20


@contextmanager
def running_daemon(directory: Path) -> Iterator[tuple[int, str]]:
    """Have a cowd in a directory that exists; return its pid and where it listens."""
    path = str(directory / "cowd.sock")
    config = directory / "cowd.toml"  # empty: the defaults, whatever this machine's cowd has
    config.touch(mode=0o644)
    cowd_command = [sys.executable, "-m", "cowdaemon.main", "--socket", path]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notices:
        notices.bind(str(directory / "notify"))
        notices.settimeout(START_SECONDS)
        daemon = subprocess.Popen(
            ["setpriv", "--pdeathsig=TERM", *cowd_command, "--config", config, "--user", "daemon"],
            env=os.environ | {"NOTIFY_SOCKET": notices.getsockname()},
        )
        try:
            while b"READY=1" not in notices.recv(4096).splitlines():
                pass
            yield daemon.pid, path
        finally:
            daemon.terminate()
            daemon.wait()


@contextmanager
def running_caller(uid: int, call: str, address: str) -> Iterator[None]:
    """Have somebody make a call, and stay connected until standard input ends."""
    with subprocess.Popen(
        [sys.executable, "-c", CALLER.format(call=call)],
        env=os.environ | {"COWD_SOCKET": address},
        user=uid,
        group=uid,
        extra_groups=[],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as caller:
        if not caller.stdout or not caller.stdout.readline():
            sys.exit("own_workers: a caller failed")
        yield


def read_children(pid: int, name: str | None = None) -> list[int]:
    """Return the children of a process that has one thread: all of them, or those of a name."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [
        int(child)
        for child in children
        if name is None or Path(f"/proc/{child}/comm").read_text().rstrip() == name
    ]


def count_shared_anonymous(child: cowd.Child) -> int:
    """Return how many pages a process shares with its parent that are no file's.

    Those of files it would share with everybody, however it was started.
    """
    return sum(
        each.page_count
        for each in child.comparison.totals
        if each.comparison is cowd.PageComparison.SAME and each.state is cowd.PageState.ANON
    )


def main() -> None:
    """Start two daemons, call the first, and ask the second."""
    if os.geteuid() != 0:
        sys.exit("own_workers: the daemon needs root, to read /proc/kpageflags: run it as root")
    with ExitStack() as stack:
        daemons = []
        for _ in range(2):
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/run")))
            directory.chmod(0o755)
            daemons.append(stack.enter_context(running_daemon(directory)))
        (pid, address), (_, other_address) = daemons
        [zygote] = read_children(pid, "cowd-zygote")
        calls: dict[int, str] = {}
        for number, (name, call) in enumerate(CALLS.items()):
            stack.enter_context(running_caller(FIRST_UID + number, call, address))
            [worker] = set(read_children(zygote)) - set(calls)
            calls[worker] = name
        family = cowd.family(zygote, address=other_address)

    print("WORKER WAS ASKED SHARED   ANON COPIED BY-PARENT    OWN (MiB)")
    for each in family.children:
        total = each.total
        copied = total.copied_by_child + total.both + total.different
        pages = [total.shared, count_shared_anonymous(each), copied]
        pages += [total.copied_by_parent, total.own]
        row = [f"{calls[each.pid]:16}"]
        for count, width in zip(pages, (6, 6, 6, 9, 6), strict=True):
            row.append(f"{count * family.page_size_bytes / MEBIBYTE:{width}.1f}")
        print(*row)


if __name__ == "__main__":
    main()
