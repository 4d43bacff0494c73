# SPDX-License-Identifier: Apache-2.0
"""Processes as /proc shows them: who is whose child, what one may do, and when one has ended.

Runs as root in the test process. A process that ends while it is looked at is left out.
"""

import os
import select
import signal
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple, NoReturn

LISTENING = 0x10000
"""__SO_ACCEPTCON in /proc/net/unix."""


class Process(NamedTuple):
    """A process and the name the kernel has for it (`struct task_struct.comm`)."""

    pid: int
    name: str


class Tree(NamedTuple):
    """The processes of one daemon."""

    broker: int
    zygotes: tuple[int, ...]
    openers: tuple[int, ...]
    workers: tuple[int, ...]

    @property
    def pids(self) -> tuple[int, ...]:
        """Every process of the daemon, the broker first."""
        return (self.broker, *self.zygotes, *self.openers, *self.workers)


def read_children(pid: int) -> list[Process]:
    """Return the children of `pid`, which may have ended and not been waited for."""
    children = []
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in map(int, (task / "children").read_text().split()):
                children.append(Process(child, Path(f"/proc/{child}/comm").read_text().strip()))
    except (FileNotFoundError, ProcessLookupError):
        return []
    return children


def read_tree(broker: int) -> Tree:
    """Return the daemon whose broker is `broker`, by the names of its children."""
    children = read_children(broker)
    zygotes = tuple(child.pid for child in children if child.name == "cowd-zygote")
    return Tree(
        broker,
        zygotes,
        tuple(child.pid for child in children if child.name == "cowd-opener"),
        tuple(child.pid for zygote in zygotes for child in read_children(zygote)),
    )


def read_status(pid: int) -> dict[str, str]:
    """Return the fields of /proc/PID/status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def read_socket_inodes(pid: int) -> set[int]:
    """Return the inode numbers of the sockets that `pid` holds."""
    inodes = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        target = os.readlink(entry)
        if target.startswith("socket:["):
            inodes.add(int(target[len("socket:[") : -1]))
    return inodes


def wait_to_be_killed() -> NoReturn:
    """Do nothing, as a child that ends by a signal alone."""
    while True:
        signal.pause()


def read_listening_sockets() -> dict[int, str]:
    """Return the listening Unix sockets of this network namespace, with their names."""
    listening = {}
    for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
        _, _, _, flags, _, _, inode, *path = line.split(maxsplit=7)
        if int(flags, 16) & LISTENING:
            listening[int(inode)] = path[0] if path else ""
    return listening


class Departure:
    """Waits for processes to end; made while they live, so that no reused pid is taken for one."""

    def __init__(self, pids: Iterable[int]) -> None:
        self._pidfds = {}
        for pid in pids:
            try:
                self._pidfds[pid] = os.pidfd_open(pid)
            except ProcessLookupError:
                continue

    def wait(self, seconds: float) -> list[int]:
        """Return the pids that still live after `seconds`; at once when there are none."""
        deadline = time.monotonic() + seconds
        remaining = dict(self._pidfds)
        while remaining:
            poller = select.poll()
            for descriptor in remaining.values():
                poller.register(descriptor, select.POLLIN)
            ended = poller.poll(max(0.0, deadline - time.monotonic()) * 1000)
            if not ended:
                break
            gone = {descriptor for descriptor, _ in ended}
            remaining = {pid: fd for pid, fd in remaining.items() if fd not in gone}
        return sorted(remaining)

    def close(self) -> None:
        """Close the descriptors."""
        while self._pidfds:
            os.close(self._pidfds.popitem()[1])

    def __enter__(self) -> "Departure":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
