# SPDX-License-Identifier: Apache-2.0
"""What the kinds are made with: mapping, touching and describing pages of the process itself.

Standard library only; runs as an unprivileged user. A call that the kernel refuses raises OSError;
UnavailableError is for pages that this machine cannot have.
"""

import ctypes
import errno
import mmap
import os
import re
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
HUGE_BYTES = 2 << 20
"""Size of a huge page: of x86-64, and of arm64 with pages of 4 KiB."""
HUGE_PAGES = HUGE_BYTES // PAGE_BYTES
PROT_NONE = 0  # not in the module mmap
PROTECTION = mmap.PROT_READ | mmap.PROT_WRITE
PRIVATE_ANONYMOUS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
MAP_HUGETLB = 0x40000  # asm-generic/mman-common.h
MADV_FREE = 8
MADV_HUGEPAGE = 14
MADV_NOHUGEPAGE = 15
MADV_PAGEOUT = 21
MADV_GUARD_INSTALL = 102  # since 6.13
PAGEMAP_SWAPPED = 1 << 62
PAGEMAP_PRESENT = 1 << 63
WAIT_SECONDS = 20.0
"""How long the kernel may take for what it does by itself."""
LOOK_SECONDS = 0.001

Described = dict[str, Any]

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
libc.mlock.argtypes = [ctypes.c_void_p, ctypes.c_size_t]

COPY: Described = {
    "state": "ANON",
    "flags_set": ["uptodate", "mmap", "anonymous", "swapbacked"],
    "flags_clear": ["ksm", "thp", "zero_page", "huge"],
    "attributes_set": ["EXCLUSIVE"],
    "attributes_clear": ["LAZYFREE", "UNSTABLE", "UFFD_WP"],
}
"""A small anonymous page that one process maps."""
SHARED_COPY: Described = {
    **COPY,
    "attributes_set": [],
    "attributes_clear": ["EXCLUSIVE", "LAZYFREE", "UNSTABLE", "UFFD_WP"],
}
"""A small anonymous page that several processes map."""
ABSENT: Described = {
    "state": "ABSENT",
    "attributes_clear": ["EXCLUSIVE", "LAZYFREE", "UNSTABLE", "UFFD_WP"],
}
SWAPPED: Described = {**ABSENT, "state": "ANON_SWAPPED"}
GUARD: Described = {**ABSENT, "state": "GUARD"}
ZERO: Described = {
    "state": "ZERO",
    "flags_set": ["zero_page"],
    "flags_clear": ["anonymous", "ksm", "thp"],
    "attributes_clear": ["LAZYFREE", "UNSTABLE", "UFFD_WP"],
}
FILE_FLAGS_CLEAR = ["anonymous", "ksm", "zero_page", "huge", "thp"]
FILE: Described = {
    "state": "FILE",
    "flags_set": ["uptodate", "mmap"],
    "flags_clear": FILE_FLAGS_CLEAR,
    "attributes_clear": ["LAZYFREE", "UNSTABLE", "UFFD_WP"],
}
UNCOPIED: Described = {
    "state": "FILE|ABSENT",  # a read fault maps neighbours, too
    "flags_clear": FILE_FLAGS_CLEAR,
    "attributes_clear": ["LAZYFREE", "UNSTABLE", "UFFD_WP"],
}


class UnavailableError(Exception):
    """This machine cannot have such pages."""


def map_pages(
    pages: int,
    flags: int = PRIVATE_ANONYMOUS,
    descriptor: int = -1,
    protection: int = PROTECTION,
    at: int | None = None,
) -> int:
    """Map pages that stay for the life of the process; return where."""
    address = libc.mmap(at, pages * PAGE_BYTES, protection, flags, descriptor, 0)
    if address == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), "mmap")
    if flags & mmap.MAP_ANONYMOUS and not flags & MAP_HUGETLB:
        advise(address, pages, MADV_NOHUGEPAGE)
    return int(address)


def unmap_pages(address: int, pages: int) -> None:
    """Call munmap."""
    if libc.munmap(address, pages * PAGE_BYTES):
        raise OSError(ctypes.get_errno(), "munmap")


def advise(address: int, pages: int, advice: int) -> None:
    """Call madvise."""
    if libc.madvise(address, pages * PAGE_BYTES, advice):
        raise OSError(ctypes.get_errno(), f"madvise {advice}")


def protect(address: int, pages: int, protection: int) -> None:
    """Call mprotect."""
    if libc.mprotect(address, pages * PAGE_BYTES, protection):
        raise OSError(ctypes.get_errno(), "mprotect")


def install_guards(address: int, pages: int) -> None:
    """Call madvise for guard regions, or say that there are none here."""
    try:
        advise(address, pages, MADV_GUARD_INSTALL)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        raise UnavailableError("no guard regions here (anonymous 6.13, files 6.15)") from error


def write_page(address: int, page: int, value: int = 1) -> None:
    """Store one byte in a page."""
    ctypes.c_ubyte.from_address(address + page * PAGE_BYTES).value = value


def read_page(address: int, page: int) -> int:
    """Load one byte of a page."""
    return ctypes.c_ubyte.from_address(address + page * PAGE_BYTES).value


def fill_pages(address: int, pages: int) -> None:
    """Store random bytes all over some pages."""
    ctypes.memmove(address, os.urandom(pages * PAGE_BYTES), pages * PAGE_BYTES)


def read_entries(address: int, pages: int) -> tuple[int, ...]:
    """Return this process's own pagemap entries."""
    with Path("/proc/self/pagemap").open("rb") as pagemap:
        entries = os.pread(pagemap.fileno(), pages * 8, address // PAGE_BYTES * 8)
    return struct.unpack(f"={pages}Q", entries)


def read_smaps(address: int, field: str) -> int:
    """Return a field of the mapping that starts at `address`, in bytes."""
    sections = re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text(), flags=8)
    section = next(part for part in sections if part.startswith(f"{address:x}-"))
    values = re.findall(rf"^{field}: +(\d+) kB$", section, re.MULTILINE)
    return int(values[0]) << 10


def describe(
    address: int, *pages: Described, copied: bool | None = None, mapping: str | None = None
) -> list[Described]:
    """Return pages that follow each other, with their addresses.

    Args:
        address: of the first.
        pages: what is known of each; `copied` in one of them goes before the argument.
        copied: whether they have private copies; None outside private mappings of files.
        mapping: name of the MappingKind; by default anonymous memory or, where `copied` says
            something, a private mapping of a file.
    """
    described = []
    for number, page in enumerate(pages):
        one = {"address": address + number * PAGE_BYTES, "copied": copied, **page}
        default = "ANONYMOUS" if one["copied"] is None else "PRIVATE_FILE"
        described.append({"mapping": mapping or default, **one})
    return described


def wait_until(is_done: Callable[[], bool], what: str) -> None:
    """Return once the kernel has done what it does in its own time, and tells nobody.

    Raises:
        UnavailableError: it has not within WAIT_SECONDS.
    """
    deadline = time.monotonic() + WAIT_SECONDS
    while not is_done():
        if time.monotonic() > deadline:
            raise UnavailableError(what)
        time.sleep(LOOK_SECONDS)


def page_out(address: int, pages: int) -> None:
    """Have pages swapped out, all of them."""

    def is_out() -> bool:
        advise(address, pages, MADV_PAGEOUT)
        return all(entry & PAGEMAP_SWAPPED for entry in read_entries(address, pages))

    wait_until(is_out, "the kernel does not page out: is there swap space?")


class Child:
    """A fork of this process that does as it is told, and lives as long as its parent."""

    def __init__(self, *acts: Callable[[], None]) -> None:
        """Fork.

        Args:
            acts: what the child does, one of them at each call of `act`.
        """
        hear, self._tell = os.pipe()
        self._hear, tell = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.close(self._tell)
                for act in acts:
                    if not os.read(hear, 1):
                        break
                    act()
                    os.write(tell, b".")
                os.read(hear, 1)
            finally:
                os._exit(0)
        os.close(hear)
        os.close(tell)

    def act(self) -> None:
        """Have it do the next thing, and wait until it is done."""
        os.write(self._tell, b".")
        if os.read(self._hear, 1) != b".":
            raise ChildProcessError("the child died")

    def end(self) -> None:
        """Have it exit, and collect it."""
        os.close(self._tell)
        os.waitpid(self.pid, 0)


def fork_waiting(act: Callable[[], None]) -> int:
    """Return the pid of a child that has done `act` and now lives as long as its parent."""
    child = Child(act)
    child.act()
    return child.pid
