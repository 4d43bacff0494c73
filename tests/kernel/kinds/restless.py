# SPDX-License-Identifier: Apache-2.0
"""Memory that a thread never leaves alone, beside memory that nobody touches.

Standard library only; runs as an unprivileged user.
"""

import itertools
import mmap
import os
import threading

from kinds.memory import (
    COPY,
    PAGE_BYTES,
    PRIVATE_ANONYMOUS,
    Described,
    advise,
    describe,
    fork_waiting,
    map_pages,
    read_page,
    unmap_pages,
    write_page,
)

MAP_FIXED = 0x10
STEP_PAGES = 8_000
RESTLESS_PAGES = 16
"""Of each step, the last ones."""
TURNS_PER_FORK = 20
"""A fork makes every page shared, and its end makes it this process's own again: two changes."""


def make_restless_fork(steps: str) -> Described:
    """Have pages by fours, and a child: one stays, one it writes, one was read, one not touched.

    A thread of the parent never leaves the last pages of each step alone, as below.
    """
    pages = int(steps) * STEP_PAGES
    address = map_pages(pages)
    for page in range(0, pages, 4):
        write_page(address, page)
        write_page(address, page + 1)
        read_page(address, page + 2)

    def write_second() -> None:
        for page in range(1, pages, 4):
            write_page(address, page)

    child = fork_waiting(write_second)
    threading.Thread(target=churn, args=(address, pages), daemon=True).start()
    return {"pages": describe(address, {"state": "ANON"}), "count": pages, "child": child}


def make_restless_neighbours(steps: str) -> Described:
    """Have pages by fours: two written, one read, one not touched; but the last ones of each step.

    A thread writes those and gives them up, unmaps and maps them, and forks now and then.
    """
    pages = int(steps) * STEP_PAGES
    address = map_pages(pages)
    for page in range(0, pages, 4):
        write_page(address, page)
        write_page(address, page + 1)
        read_page(address, page + 2)
    threading.Thread(target=churn, args=(address, pages), daemon=True).start()
    return {"pages": describe(address, COPY), "count": pages}


def churn(address: int, pages: int) -> None:
    """Write the last pages of each step, give them up, unmap and map them; fork now and then."""
    restless = range(STEP_PAGES - RESTLESS_PAGES, pages, STEP_PAGES)
    for turn in itertools.count():
        for first in restless:
            at = address + first * PAGE_BYTES
            unmap_pages(at, RESTLESS_PAGES)
            map_pages(RESTLESS_PAGES, PRIVATE_ANONYMOUS | MAP_FIXED, at=at)
            for page in range(RESTLESS_PAGES):
                write_page(at, page)
            advise(at, RESTLESS_PAGES // 2, mmap.MADV_DONTNEED)
        if turn % TURNS_PER_FORK == 0:
            child = os.fork()
            if child == 0:
                os._exit(0)
            os.waitpid(child, 0)
