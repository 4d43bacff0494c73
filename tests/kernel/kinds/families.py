# SPDX-License-Identifier: Apache-2.0
"""A parent and three children that have written, given up and read here and there since the fork.

Standard library only; runs as an unprivileged user. The children stop themselves when they are
done, and end with their parent.
"""

import ctypes
import mmap
import os
import signal
from collections.abc import Callable, Sequence

from kinds.files import map_private
from kinds.huge import map_huge_written
from kinds.memory import (
    HUGE_PAGES,
    PAGE_BYTES,
    Described,
    advise,
    libc,
    map_pages,
    page_out,
    read_page,
    unmap_pages,
    write_page,
)

PR_SET_PDEATHSIG = 1
CHILDREN = 3
HEAP_PAGES = 4
SWAPPED_PAGES = 2
# What the parent and a child have at one address; names are those of cowd.Shares.
SHARED, CHILDS, PARENTS, BOTH = "shared", "copied_by_child", "copied_by_parent", "both"
OWN, PARENT_ONLY, FILE_ONLY, NEITHER = "own", "parent_only", "file_only", "neither"
Due = dict[str, tuple[int, Sequence[Sequence[str]]]]
"""By region: its address and, for each page, what the parent has together with each child."""

libc.sbrk.restype = ctypes.c_void_p
libc.sbrk.argtypes = [ctypes.c_ssize_t]


def make_family(directory: str) -> Described:
    """Make memory of all kinds, fork three children, and have all four act on it."""
    anonymous = map_pages(10)
    for page in range(8):
        write_page(anonymous, page)
    read_page(anonymous, 8)  # the page of zeros; 9 stays untouched
    file = map_private(directory, 8)
    write_page(file, 0)
    for page in range(8):
        read_page(file, page)
    shared = map_pages(3, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)
    for page in (0, 2):
        write_page(shared, page)
    heap = extend_heap()
    huge = map_huge_written()
    swapped = map_pages(SWAPPED_PAGES)
    for page in range(SWAPPED_PAGES):
        write_page(swapped, page)
    page_out(swapped, SWAPPED_PAGES)

    def act_first() -> None:
        write_all(anonymous, 0, 1, 6, 7)
        write_all(file, 1, 3)
        write_all(shared, 1, 2)
        write_page(huge, 3)

    def act_second() -> None:
        write_all(anonymous, 1, 2, 6, 7, 8)
        drop(file, 4)
        write_page(file, 5)
        write_page(heap, 0)
        write_page(map_pages(2), 0)

    def act_third() -> None:
        write_all(anonymous, 6, 7, 9)
        drop(anonymous, 3)

    children = [fork_stopping(act) for act in (act_first, act_second, act_third)]
    write_all(anonymous, 1, 4, 7)
    drop(anonymous, 5)
    write_all(file, 2, 3)
    drop(file, 5)
    unmap_pages(file + 7 * PAGE_BYTES, 1)
    write_page(heap, 1)
    write_page(huge, 5)

    everywhere = (SHARED,) * CHILDREN
    due: Due = {
        "anonymous": (
            anonymous,
            [
                (CHILDS, SHARED, SHARED),
                (BOTH, BOTH, PARENTS),
                (SHARED, CHILDS, SHARED),
                (SHARED, SHARED, PARENT_ONLY),
                (PARENTS,) * CHILDREN,
                (OWN,) * CHILDREN,
                (CHILDS,) * CHILDREN,
                (BOTH,) * CHILDREN,  # the parent had it alone by then, and copied nothing
                (NEITHER, OWN, NEITHER),
                (NEITHER, NEITHER, OWN),
            ],
        ),
        "file": (
            file,
            [
                everywhere,
                (CHILDS, SHARED, SHARED),
                (PARENTS,) * CHILDREN,
                (BOTH, PARENTS, PARENTS),
                (SHARED, FILE_ONLY, SHARED),
                (FILE_ONLY, OWN, FILE_ONLY),
                everywhere,
                (FILE_ONLY,) * CHILDREN,
            ],
        ),
        # Of shared memory a fork copies no page table. (And reading it would map neighbours, too.)
        "shared": (
            shared,
            [
                (FILE_ONLY,) * CHILDREN,
                (FILE_ONLY, NEITHER, NEITHER),
                (SHARED, FILE_ONLY, FILE_ONLY),
            ],
        ),
        "heap": (
            heap,
            [(SHARED, CHILDS, SHARED), (PARENTS,) * CHILDREN, *[everywhere] * (HEAP_PAGES - 2)],
        ),
        # Who wrote has a small page, the others a part of the huge one.
        "huge": (
            huge,
            [
                *[everywhere] * 3,
                (CHILDS, SHARED, SHARED),
                everywhere,
                (PARENTS,) * CHILDREN,
                *[everywhere] * (HUGE_PAGES - 6),
            ],
        ),
        "swapped": (swapped, [everywhere] * SWAPPED_PAGES),
    }
    return {"pages": [], "children": children, "due": due}


def extend_heap() -> int:
    """Return where pages are that were added to the heap, and written."""
    end = libc.sbrk(0)
    libc.sbrk(-end % PAGE_BYTES)
    address: int = libc.sbrk(HEAP_PAGES * PAGE_BYTES)
    write_all(address, *range(HEAP_PAGES))
    return address


def write_all(address: int, *pages: int) -> None:
    """Store one byte in each of some pages."""
    for page in pages:
        write_page(address, page, 2)


def drop(address: int, page: int) -> None:
    """Give a page up."""
    advise(address + page * PAGE_BYTES, 1, mmap.MADV_DONTNEED)


def fork_stopping(act: Callable[[], None]) -> int:
    """Return the pid of a child that has done `act` and stopped."""
    pid = os.fork()
    if pid == 0:
        try:
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            act()
            os.kill(os.getpid(), signal.SIGSTOP)
        finally:
            os._exit(1)
    _, status = os.waitpid(pid, os.WUNTRACED)
    if not os.WIFSTOPPED(status):
        raise ChildProcessError("a child died")
    return pid
