# SPDX-License-Identifier: Apache-2.0
"""A process that maps memory and does to it what it is told, again and again.

Standard library only; runs as an unprivileged user. Answers lines of JSON until there are no more:

    {"map": {"directory": TEXT or null, "private": BOOL, "pages": N, "populate": BOOL}}
        -> {"pid": N, "address": N}           of a fresh file there, or of a memfd ("memfd"),
                                              or of anonymous memory (null)
    {"do": [[ACTION, FIRST, COUNT], ...]}
        -> {"done": [BOOL, ...]}              whether the kernel did each; "fork" gives its pid
    {"clear": true}
        -> {}                                 nothing of it is left

An action is the name of a method of Hand, with "child-" before it if the last fork is to do it.

Usage: puppet.py
"""

import ctypes
import errno
import json
import mmap
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from kinds.files import (
    FALLOC_FL_KEEP_SIZE,
    FALLOC_FL_PUNCH_HOLE,
    MAP_POPULATE,
    open_scratch,
)
from kinds.memory import (
    MADV_FREE,
    MADV_GUARD_INSTALL,
    MADV_PAGEOUT,
    PAGE_BYTES,
    PRIVATE_ANONYMOUS,
    PROT_NONE,
    PROTECTION,
    advise,
    libc,
    map_pages,
    protect,
    read_page,
    unmap_pages,
    write_page,
)

MADV_POPULATE_READ = 22
MADV_POPULATE_WRITE = 23
MADV_GUARD_REMOVE = 103
REFUSALS = {errno.EINVAL, errno.EPERM, errno.EACCES, errno.EFAULT, errno.EIO, errno.EBADF}


class Hand:
    """What can be done to one mapping, `first` and `count` in pages. OSError if refused."""

    def __init__(self, descriptor: int, private: bool, pages: int, populate: bool) -> None:
        flags = mmap.MAP_PRIVATE if private else mmap.MAP_SHARED
        if descriptor < 0:
            flags = PRIVATE_ANONYMOUS
        self._descriptor = descriptor
        self._pages = pages
        self.address = map_pages(pages, flags | populate * MAP_POPULATE, descriptor)

    def close(self) -> None:
        """Unmap it and let the file go."""
        unmap_pages(self.address, self._pages)
        if self._descriptor >= 0:
            os.close(self._descriptor)

    def _advise(self, first: int, count: int, advice: int) -> None:
        advise(self.address + first * PAGE_BYTES, count, advice)

    def store(self, first: int, count: int) -> None:
        """Store another byte."""
        for page in range(first, first + count):
            write_page(self.address, page, read_page(self.address, page) ^ 1)

    def store_same(self, first: int, count: int) -> None:
        """Store the byte that is there."""
        for page in range(first, first + count):
            write_page(self.address, page, read_page(self.address, page))

    def load(self, first: int, count: int) -> None:
        """Load a byte."""
        for page in range(first, first + count):
            read_page(self.address, page)

    def inject(self, first: int, count: int) -> None:
        """Store through /proc/self/mem, whatever the protection."""
        with Path("/proc/self/mem").open("r+b", buffering=0) as memory:
            for page in range(first, first + count):
                os.pwrite(memory.fileno(), b"\5", self.address + page * PAGE_BYTES)

    def drop(self, first: int, count: int) -> None:
        """Give up what is mapped."""
        self._advise(first, count, mmap.MADV_DONTNEED)

    def free(self, first: int, count: int) -> None:
        """Allow the kernel to take anonymous pages, and see to it that it has taken note."""
        for _ in range(2):  # the first call queues the pages, the second works the queue off
            self._advise(first, count, MADV_FREE)

    def page_out(self, first: int, count: int) -> None:
        """Ask the kernel to page out."""
        self._advise(first, count, MADV_PAGEOUT)

    def populate_read(self, first: int, count: int) -> None:
        """Have the kernel read."""
        self._advise(first, count, MADV_POPULATE_READ)

    def populate_write(self, first: int, count: int) -> None:
        """Have the kernel write nothing, and copy."""
        self._advise(first, count, MADV_POPULATE_WRITE)

    def guard(self, first: int, count: int) -> None:
        """Install guards."""
        self._advise(first, count, MADV_GUARD_INSTALL)

    def unguard(self, first: int, count: int) -> None:
        """Take guards away."""
        self._advise(first, count, MADV_GUARD_REMOVE)

    def forbid(self, first: int, count: int) -> None:
        """Forbid all access."""
        protect(self.address + first * PAGE_BYTES, count, PROT_NONE)

    def forbid_writing(self, first: int, count: int) -> None:
        """Forbid writing."""
        protect(self.address + first * PAGE_BYTES, count, mmap.PROT_READ)

    def allow(self, first: int, count: int) -> None:
        """Allow reading and writing."""
        protect(self.address + first * PAGE_BYTES, count, PROTECTION)

    def punch(self, first: int, count: int) -> None:
        """Punch a hole into the file."""
        mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
        place, length = ctypes.c_long(first * PAGE_BYTES), ctypes.c_long(count * PAGE_BYTES)
        if libc.fallocate(self._descriptor, mode, place, length):
            raise OSError(ctypes.get_errno(), "fallocate")

    def cut(self, first: int, _: int) -> None:
        """Cut the file off, and make it as long as it was."""
        os.ftruncate(self._descriptor, first * PAGE_BYTES)
        os.ftruncate(self._descriptor, self._pages * PAGE_BYTES)


class Fork:
    """A fork of this process that acts on its own copy of the mapping."""

    def __init__(self, hand: Hand) -> None:
        hear, self._tell = os.pipe()
        self._hear, tell = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._tell)
            with open(hear) as orders, open(tell, "w") as answers:
                for line in orders:
                    print(json.dumps(act(hand, *json.loads(line))), file=answers, flush=True)
            os._exit(0)
        os.close(hear)
        os.close(tell)
        self._answers = open(self._hear)  # noqa: SIM115

    def act(self, action: str, first: int, count: int) -> bool:
        """Have it act."""
        os.write(self._tell, json.dumps([action, first, count]).encode() + b"\n")
        return bool(json.loads(self._answers.readline()))

    def close(self) -> None:
        """Have it exit, and collect it."""
        os.close(self._tell)
        self._answers.close()
        os.waitpid(self.pid, 0)


def act(hand: Hand, action: str, first: int, count: int) -> bool:
    """Do one thing; tell whether the kernel did."""
    try:
        getattr(hand, action)(first, count)
    except OSError as error:
        if error.errno not in REFUSALS:
            raise
        return False
    return True


def open_file(directory: str, pages: int) -> int:
    """Return a descriptor of a fresh file with contents."""
    if directory != "memfd":
        return open_scratch(directory, pages, written=True)
    descriptor = os.memfd_create("puppet")
    os.pwrite(descriptor, os.urandom(pages * PAGE_BYTES), 0)
    return descriptor


class Stage:
    """The mapping of the moment and, once it was forked, who has it too."""

    def __init__(self, directory: str | None, private: bool, pages: int, populate: bool) -> None:
        descriptor = -1 if directory is None else open_file(directory, pages)
        self.hand = Hand(descriptor, private, pages, populate)
        self._forks: list[Fork] = []

    def play(self, steps: Sequence[tuple[str, int, int]]) -> list[int]:
        """Do several things; return whether the kernel did each, or the pid of the fork."""
        done: list[int] = []
        for action, first, count in steps:
            if action == "fork":
                self._forks.append(Fork(self.hand))
                done.append(self._forks[-1].pid)
            elif self._forks and action.startswith("child-"):
                done.append(self._forks[-1].act(action.removeprefix("child-"), first, count))
            else:
                done.append(act(self.hand, action, first, count))
        return done

    def close(self) -> None:
        """Leave nothing."""
        for fork in reversed(self._forks):  # the later ones have the pipes of those before
            fork.close()
        self.hand.close()


def main() -> None:
    """Answer lines until there are no more."""
    # The kernel's queues of pages are a processor's: on one, nobody else decides when they move.
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    stage: Stage | None = None
    for line in sys.stdin:
        order = json.loads(line)
        answer: dict[str, object] = {}
        if "map" in order:
            stage = Stage(**order["map"])
            answer = {"pid": os.getpid(), "address": stage.hand.address}
        elif stage and "do" in order:
            answer = {"done": stage.play(order["do"])}
        elif stage:
            stage.close()
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
