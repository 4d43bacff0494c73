# SPDX-License-Identifier: Apache-2.0
"""Pages of files that a process maps: on a disk, on tmpfs, in a memfd, private and shared.

Standard library only; runs as an unprivileged user.
"""

import ctypes
import mmap
import os
from pathlib import Path

from kinds.memory import (
    ABSENT,
    COPY,
    FILE,
    GUARD,
    MADV_NOHUGEPAGE,
    PAGE_BYTES,
    PROT_NONE,
    UNCOPIED,
    ZERO,
    Described,
    advise,
    describe,
    install_guards,
    libc,
    map_pages,
    protect,
    read_page,
    write_page,
)

MAP_POPULATE = 0x8000  # asm-generic/mman-common.h
FALLOC_FL_KEEP_SIZE = 1
FALLOC_FL_PUNCH_HOLE = 2
AROUND_PAGES = 32
"""More than a read fault maps around itself (fault_around_bytes, 64 KiB)."""
FRESH_PAGES = 64
FRESH_COPIES = 16


def open_scratch(directory: str, pages: int = 0, written: bool = False) -> int:
    """Return a descriptor of a fresh file in `directory`, which nobody can name any more.

    Args:
        directory: where.
        pages: how long it is.
        written: whether its pages have contents, and so are in the page cache.
    """
    path = Path(directory) / f"subject-{os.getpid()}-{os.urandom(4).hex()}"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    path.unlink()
    os.ftruncate(descriptor, pages * PAGE_BYTES)
    if written:
        os.pwrite(descriptor, os.urandom(pages * PAGE_BYTES), 0)
    return descriptor


def map_private(
    directory: str, pages: int, flags: int = 0, protection: int = mmap.PROT_READ | mmap.PROT_WRITE
) -> int:
    """Return where a fresh file with contents is mapped, private."""
    descriptor = open_scratch(directory, pages, written=True)
    return map_pages(pages, mmap.MAP_PRIVATE | flags, descriptor, protection)


def map_author_pages(descriptor: int, swap_backed: bool) -> Described:
    """Map four pages of a file as the author did: 0 and 2 written, 3 read, 1 not touched."""
    os.ftruncate(descriptor, 4 * PAGE_BYTES)
    address = map_pages(4, mmap.MAP_PRIVATE, descriptor)
    write_page(address, 0)
    write_page(address, 2)
    read_page(address, 3)
    backing = "flags_set" if swap_backed else "flags_clear"
    read = {**FILE, "copied": False}
    read[backing] = [*read[backing], "swapbacked"]
    untouched = {**UNCOPIED, "copied": False}
    copy = {**COPY, "copied": True}
    return {"pages": describe(address, copy, untouched, copy, read)}


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
    """Write to and read from a shared mapping: the pages are the file's, nothing is copied."""
    address = map_pages(3, mmap.MAP_SHARED, open_scratch(directory, 3))
    write_page(address, 0)
    read_page(address, 2)
    untouched = {**UNCOPIED, "copied": None}
    return {"pages": describe(address, FILE, untouched, FILE, mapping="SHARED_FILE")}


def make_shared_memfd() -> Described:
    """Write to a shared mapping of a memfd, and leave a page of it alone."""
    descriptor = os.memfd_create("subject")
    os.ftruncate(descriptor, 2 * PAGE_BYTES)
    address = map_pages(2, mmap.MAP_SHARED, descriptor)
    write_page(address, 0)
    page = {**FILE, "flags_set": [*FILE["flags_set"], "swapbacked"]}
    return {"pages": describe(address, page, ABSENT, mapping="SHARED_FILE")}


def make_shared_anonymous() -> Described:
    """Write to shared memory without a name: the kernel gives it a file of its own."""
    address = map_pages(2, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)
    write_page(address, 0)
    return {"pages": describe(address, FILE, ABSENT, mapping="SHARED_FILE")}


def make_dropped(directory: str) -> Described:
    """Copy a page of a file and give the copy up."""
    address = map_pages(2, mmap.MAP_PRIVATE, open_scratch(directory, 2))
    write_page(address, 0)
    write_page(address, 1)
    advise(address, 1, mmap.MADV_DONTNEED)
    return {"pages": describe(address, {**UNCOPIED, "copied": False}, {**COPY, "copied": True})}


def make_same_byte(directory: str) -> Described:
    """Store into a page the byte that it has: that copies it as any store does."""
    address = map_private(directory, 2)
    write_page(address, 0, read_page(address, 0))
    read_page(address, 1)
    return {"pages": describe(address, {**COPY, "copied": True}, {**FILE, "copied": False})}


def make_populated(directory: str) -> Described:
    """Have the kernel populate a writable mapping, which copies every page, and a read-only one."""
    writable = map_private(directory, 3, MAP_POPULATE)
    readable = map_private(directory, 3, MAP_POPULATE, mmap.PROT_READ)
    return {
        "pages": [
            *describe(writable, *[COPY] * 3, copied=True),
            *describe(readable, *[FILE] * 3, copied=False),
        ]
    }


def make_locked(directory: str) -> Described:
    """Have the kernel lock a writable mapping, which copies every page, and a read-only one."""
    writable = map_private(directory, 3)
    readable = map_private(directory, 3, protection=mmap.PROT_READ)
    for address in (writable, readable):
        if libc.mlock(address, 3 * PAGE_BYTES):
            raise OSError(ctypes.get_errno(), "mlock")
    return {
        "pages": [
            *describe(writable, *[COPY] * 3, copied=True),
            *describe(readable, *[FILE] * 3, copied=False),
        ]
    }


def make_injected(directory: str) -> Described:
    """Write through /proc/self/mem into a mapping that may only be read, as debuggers do."""
    address = map_private(directory, 2, protection=mmap.PROT_READ)
    read_page(address, 1)
    with Path("/proc/self/mem").open("r+b", buffering=0) as memory:
        memory.seek(address)
        memory.write(b"\1")
    return {"pages": describe(address, {**COPY, "copied": True}, {**FILE, "copied": False})}


def make_forbidden(directory: str) -> Described:
    """Copy a page, read another, and forbid access to both: they stay what they are."""
    address = map_private(directory, 2)
    write_page(address, 0)
    read_page(address, 1)
    protect(address, 2, PROT_NONE)
    return {"pages": describe(address, {**COPY, "copied": True}, {**FILE, "copied": False})}


def make_truncated(directory: str) -> Described:
    """Copy four pages and cut the file in the middle of the second: the last two are dropped."""
    descriptor = open_scratch(directory, 4, written=True)
    address = map_pages(4, mmap.MAP_PRIVATE, descriptor)
    for page in range(4):
        write_page(address, page)
    os.ftruncate(descriptor, 2 * PAGE_BYTES - PAGE_BYTES // 2)
    kept, gone = {**COPY, "copied": True}, {**ABSENT, "copied": False}
    return {"pages": describe(address, kept, kept, gone, gone)}


def make_punched(directory: str) -> Described:
    """Copy a page, read another, and punch both out of the file: the copy stays."""
    descriptor = open_scratch(directory, 2, written=True)
    address = map_pages(2, mmap.MAP_PRIVATE, descriptor)
    write_page(address, 0)
    read_page(address, 1)
    mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
    length = ctypes.c_long(2 * PAGE_BYTES)
    if libc.fallocate(descriptor, mode, ctypes.c_long(0), length):
        raise OSError(ctypes.get_errno(), "fallocate")
    return {"pages": describe(address, {**COPY, "copied": True}, {**ABSENT, "copied": False})}


def make_fault_around(directory: str) -> Described:
    """Read one page of many that are in memory: the kernel may map neighbours, none is copied."""
    address = map_private(directory, AROUND_PAGES)
    read_page(address, AROUND_PAGES // 2)
    pages = [UNCOPIED] * AROUND_PAGES
    pages[AROUND_PAGES // 2] = FILE
    return {"pages": describe(address, *pages, copied=False)}


def make_fresh(directory: str) -> Described:
    """Copy the first pages of a file that was just written, and read the others."""
    address = map_private(directory, FRESH_PAGES)
    for page in range(FRESH_PAGES):
        read_page(address, page)
    for page in range(FRESH_COPIES):
        write_page(address, page)
    copies = [{**COPY, "copied": True}] * FRESH_COPIES
    others = [{**FILE, "copied": False}] * (FRESH_PAGES - FRESH_COPIES)
    return {"pages": describe(address, *copies, *others)}


def make_guard_file(directory: str) -> Described:
    """Install a guard over a copied page and an untouched one: the copy is gone."""
    address = map_private(directory, 4)
    write_page(address, 0)
    write_page(address, 1)
    read_page(address, 3)
    install_guards(address + PAGE_BYTES, 2)
    guard = {**GUARD, "copied": False}
    copy, read = {**COPY, "copied": True}, {**FILE, "copied": False}
    return {"pages": describe(address, copy, guard, guard, read)}


def make_device_zero() -> Described:
    """Map /dev/zero, private: a file by name, anonymous memory to the kernel, and so to cowd."""
    descriptor = os.open("/dev/zero", os.O_RDWR)
    address = map_pages(3, mmap.MAP_PRIVATE, descriptor)
    advise(address, 3, MADV_NOHUGEPAGE)
    write_page(address, 0)
    read_page(address, 1)
    return {"pages": describe(address, COPY, ZERO, ABSENT, mapping="ANONYMOUS")}
