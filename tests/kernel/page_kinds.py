# SPDX-License-Identifier: Apache-2.0
"""Pages of every kind, made in the process that runs this: what they are is known by construction.

Standard library only; runs as an unprivileged user. Each `make_*` returns {"pages": [PAGE, ...]}
as subjects.py describes it. Neither DIRTY nor LRU is expected anywhere: the kernel does not promise
them.
"""

import ctypes
import mmap
import os
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
HUGE_BYTES = 2 << 20
"""Size of a transparent huge page: of x86-64, and of arm64 with pages of 4 KiB."""
PROT_NONE = 0  # not in the module mmap
PROTECTION = mmap.PROT_READ | mmap.PROT_WRITE
PRIVATE_ANONYMOUS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
MADV_FREE = 8
MADV_HUGEPAGE = 14
MADV_NOHUGEPAGE = 15
MADV_PAGEOUT = 21
MADV_GUARD_INSTALL = 102  # linux/mman.h, since 6.13
PAGEMAP_SWAPPED = 1 << 62
SWAP_ATTEMPTS = 10_000

Described = dict[str, Any]

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]

COPY: Described = {
    "state": "ANON",
    "flags_set": ["uptodate", "mmap", "anonymous", "swapbacked"],
    "flags_clear": ["ksm", "thp", "zero_page", "huge"],
    "attributes_set": ["EXCLUSIVE"],
    "attributes_clear": ["LAZYFREE", "UNSTABLE", "UFFD_WP"],
}
"""A small anonymous page that one process maps."""
ABSENT: Described = {"state": "ABSENT", "attributes_clear": ["EXCLUSIVE", "LAZYFREE", "UNSTABLE"]}
FILE_FLAGS_CLEAR = ["anonymous", "ksm", "zero_page", "huge"]


class UnavailableError(Exception):
    """This machine cannot have such pages."""


def map_pages(
    pages: int, flags: int = PRIVATE_ANONYMOUS, descriptor: int = -1, at: int | None = None
) -> int:
    """Map readable and writable pages that stay for the life of the process; return where."""
    address = libc.mmap(at, pages * PAGE_BYTES, PROTECTION, flags, descriptor, 0)
    if address == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), "mmap")
    if flags & mmap.MAP_ANONYMOUS:
        advise(address, pages, MADV_NOHUGEPAGE)
    return int(address)


def advise(address: int, pages: int, advice: int) -> None:
    """Call madvise."""
    if libc.madvise(address, pages * PAGE_BYTES, advice):
        raise OSError(ctypes.get_errno(), f"madvise {advice}")


def write_page(address: int, page: int, value: int = 1) -> None:
    """Store one byte in a page."""
    ctypes.c_ubyte.from_address(address + page * PAGE_BYTES).value = value


def read_page(address: int, page: int) -> int:
    """Load one byte of a page."""
    return ctypes.c_ubyte.from_address(address + page * PAGE_BYTES).value


def read_entries(address: int, pages: int) -> tuple[int, ...]:
    """Return this process's own pagemap entries."""
    with Path("/proc/self/pagemap").open("rb") as pagemap:
        entries = os.pread(pagemap.fileno(), pages * 8, address // PAGE_BYTES * 8)
    return struct.unpack(f"={pages}Q", entries)


def describe(address: int, *pages: Described, copied: bool | None = None) -> list[Described]:
    """Return pages that follow each other, with their addresses."""
    return [
        {"address": address + number * PAGE_BYTES, "copied": copied, **page}
        for number, page in enumerate(pages)
    ]


def map_author_pages(descriptor: int, swap_backed: bool) -> Described:
    """Map four pages of a file as the author did: 0 and 2 written, 3 read, 1 not touched."""
    os.ftruncate(descriptor, 4 * PAGE_BYTES)
    address = map_pages(4, mmap.MAP_PRIVATE, descriptor)
    write_page(address, 0)
    write_page(address, 2)
    read_page(address, 3)
    original = {"copied": False, "flags_clear": FILE_FLAGS_CLEAR, "attributes_clear": ["LAZYFREE"]}
    backing = "flags_set" if swap_backed else "flags_clear"
    read = {**original, "state": "FILE", "flags_set": ["uptodate", "mmap"]}
    read[backing] = [*read[backing], "swapbacked"]
    untouched = {**original, "state": "FILE|ABSENT"}  # a read fault maps neighbours, too
    copy = {**COPY, "copied": True}
    return {"pages": describe(address, copy, untouched, copy, read)}


def open_scratch(directory: str) -> int:
    """Return a descriptor of a fresh file in `directory`, which nobody can name any more."""
    path = Path(directory) / f"subject-{os.getpid()}-{os.urandom(4).hex()}"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    path.unlink()
    return descriptor


def make_file(directory: str) -> Described:
    """Make the author's pages on a file system with a disk."""
    return map_author_pages(open_scratch(directory), swap_backed=False)


def make_tmpfs(directory: str) -> Described:
    """Make the author's pages on tmpfs, where uncopied pages are SWAPBACKED, too."""
    return map_author_pages(open_scratch(directory), swap_backed=True)


def make_memfd() -> Described:
    """Make the author's pages on a memfd."""
    return map_author_pages(os.memfd_create("subject"), swap_backed=True)


def make_shared_file(directory: str) -> Described:
    """Write to a shared mapping: the page is the file's, nothing is copied."""
    descriptor = open_scratch(directory)
    os.ftruncate(descriptor, 2 * PAGE_BYTES)
    address = map_pages(2, mmap.MAP_SHARED, descriptor)
    write_page(address, 0)
    written = {"state": "FILE", "flags_set": ["uptodate", "mmap"], "flags_clear": FILE_FLAGS_CLEAR}
    return {"pages": describe(address, written)}


def make_dropped(directory: str) -> Described:
    """Copy a page of a file and give the copy up."""
    descriptor = open_scratch(directory)
    os.ftruncate(descriptor, 2 * PAGE_BYTES)
    address = map_pages(2, mmap.MAP_PRIVATE, descriptor)
    write_page(address, 0)
    write_page(address, 1)
    advise(address, 1, mmap.MADV_DONTNEED)
    dropped = {"state": "FILE|ABSENT", "copied": False, "flags_clear": FILE_FLAGS_CLEAR}
    return {"pages": describe(address, dropped, {**COPY, "copied": True})}


def make_anonymous() -> Described:
    """Write to anonymous memory; leave a page of it alone; forbid access to a written one."""
    address = map_pages(3)
    write_page(address, 0)
    write_page(address, 2)
    if libc.mprotect(address + 2 * PAGE_BYTES, PAGE_BYTES, PROT_NONE):
        raise OSError(ctypes.get_errno(), "mprotect")
    return {"pages": describe(address, COPY, ABSENT, COPY)}


def make_zero() -> Described:
    """Read anonymous memory that was never written."""
    address = map_pages(2)
    read_page(address, 0)
    zero = {
        "state": "ZERO",
        "flags_set": ["zero_page"],
        "flags_clear": ["anonymous", "ksm"],
        "attributes_clear": ["EXCLUSIVE", "LAZYFREE", "UNSTABLE"],
    }
    return {"pages": describe(address, zero, ABSENT)}


def map_huge() -> int:
    """Map one huge page's worth of memory where a huge page can be."""
    pages = HUGE_BYTES // PAGE_BYTES
    spare = map_pages(2 * pages, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    address = -(-spare // HUGE_BYTES) * HUGE_BYTES
    advise(address, pages, MADV_HUGEPAGE)
    return address


def verify_huge(address: int, field: str) -> None:
    """Raise UnavailableError unless smaps calls the mapping at `address` a huge page."""
    sections = re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text(), flags=8)
    section = next(part for part in sections if part.startswith(f"{address:x}-"))
    if f"{HUGE_BYTES // 1024} kB" not in re.findall(rf"^{field}: +(.*)$", section, re.MULTILINE):
        raise UnavailableError("the kernel gave no transparent huge page")


def make_thp() -> Described:
    """Write one byte of a transparent huge page: all of it is anonymous, head and tails."""
    address = map_huge()
    write_page(address, 5)
    verify_huge(address, "AnonHugePages")
    page = {**COPY, "flags_set": [*COPY["flags_set"], "thp"]}
    page["flags_clear"] = ["ksm", "zero_page", "huge"]
    return {"pages": describe(address, *[page] * (HUGE_BYTES // PAGE_BYTES))}


def make_huge_zero() -> Described:
    """Read a transparent huge page: the huge page of zeros, which calls itself a file's."""
    address = map_huge()
    read_page(address, 5)
    if not all(entry >> 63 for entry in read_entries(address, HUGE_BYTES // PAGE_BYTES)):
        raise UnavailableError("the kernel gave no huge page of zeros")
    page = {"state": "ZERO", "flags_set": ["zero_page"], "flags_clear": ["anonymous", "thp"]}
    return {"pages": describe(address, *[page] * (HUGE_BYTES // PAGE_BYTES))}


def make_fork() -> Described:
    """Write two pages, fork, and have the child write the second one again."""
    address = map_pages(2)
    write_page(address, 0)
    write_page(address, 1)
    child = fork_waiting(lambda: write_page(address, 1))
    shared = {**COPY, "attributes_set": [], "attributes_clear": ["EXCLUSIVE", "UNSTABLE"]}
    either = {**COPY, "attributes_set": []}
    return {
        "pages": [
            *describe(address, shared, either),
            *describe(address, {**shared, "pid": child}, {**COPY, "pid": child}),
        ]
    }


def make_fork_file(directory: str) -> Described:
    """Copy page 0 of a file, fork, and have the child copy page 1."""
    descriptor = open_scratch(directory)
    os.ftruncate(descriptor, 2 * PAGE_BYTES)
    address = map_pages(2, mmap.MAP_PRIVATE, descriptor)
    write_page(address, 0)
    child = fork_waiting(lambda: write_page(address, 1))
    shared = {**COPY, "copied": True, "attributes_set": [], "attributes_clear": ["EXCLUSIVE"]}
    original = {"state": "FILE|ABSENT", "copied": False, "flags_clear": FILE_FLAGS_CLEAR}
    copy = {**COPY, "copied": True}
    return {
        "pages": [
            *describe(address, shared, original),
            *describe(address, {**shared, "pid": child}, {**copy, "pid": child}),
        ]
    }


def fork_waiting(act: Callable[[], None]) -> int:
    """Return the pid of a child that has done `act` and now lives as long as its parent."""
    mine, theirs = os.pipe()
    stay, leave = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(leave)
        act()
        os.write(theirs, b".")
        os.read(stay, 1)
        os._exit(0)
    os.close(theirs)
    if os.read(mine, 1) != b".":
        raise ChildProcessError("the child died")
    return child


def make_swapped(directory: str) -> Described:
    """Have written pages paged out: two of anonymous memory, two copies of a file's."""
    descriptor = open_scratch(directory)
    os.ftruncate(descriptor, 2 * PAGE_BYTES)
    anonymous = map_pages(2)
    private = map_pages(2, mmap.MAP_PRIVATE, descriptor)
    swapped = {"state": "ANON_SWAPPED", "attributes_clear": ["EXCLUSIVE", "UNSTABLE"]}
    for address in (anonymous, private):
        ctypes.memmove(address, os.urandom(2 * PAGE_BYTES), 2 * PAGE_BYTES)
        for _ in range(SWAP_ATTEMPTS):
            advise(address, 2, MADV_PAGEOUT)
            if all(entry & PAGEMAP_SWAPPED for entry in read_entries(address, 2)):
                break
            os.sched_yield()
        else:
            raise UnavailableError("the kernel does not page out: is there swap space?")
    return {
        "pages": [
            *describe(anonymous, swapped, swapped),
            *describe(private, swapped, swapped, copied=True),
        ]
    }


def make_guard() -> Described:
    """Install guards between written pages, over a written one and over an untouched one."""
    address = map_pages(4)
    write_page(address, 0)
    write_page(address, 1)
    write_page(address, 3)
    try:
        advise(address + PAGE_BYTES, 2, MADV_GUARD_INSTALL)
    except OSError as error:
        raise UnavailableError("the kernel has no guard regions (they are in 6.13)") from error
    guard = {"state": "GUARD", "attributes_clear": ["EXCLUSIVE", "LAZYFREE", "UNSTABLE"]}
    return {"pages": describe(address, COPY, guard, guard, COPY)}


def make_lazyfree() -> Described:
    """Give written pages up with MADV_FREE: still ANON, no longer SWAPBACKED."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # the batches below are one cpu's
    address = map_pages(4)
    for page in range(4):
        write_page(address, page)
    for _ in range(2):  # the first call queues the pages, the second works the queue off
        advise(address, 3, MADV_FREE)
    freed = {**COPY, "flags_set": ["mmap", "anonymous"]}
    freed["flags_clear"] = [*COPY["flags_clear"], "swapbacked"]
    freed["attributes_set"] = ["EXCLUSIVE", "LAZYFREE"]
    freed["attributes_clear"] = ["UNSTABLE"]
    return {"pages": describe(address, freed, freed, freed, COPY)}


def make_special() -> Described:
    """Find the kernel's own mapping of frames that no page structure tells about."""
    maps = Path("/proc/self/maps").read_text()
    found = re.search(r"^([0-9a-f]+)-.* \[vvar\]$", maps, re.MULTILINE)
    if not found:
        raise UnavailableError("no [vvar]")
    return {"pages": describe(int(found[1], 16), ABSENT)}
