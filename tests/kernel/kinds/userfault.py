# SPDX-License-Identifier: Apache-2.0
"""Pages that userfaultfd write-protects or poisons: present, swapped out, and markers.

Standard library only; runs as an unprivileged user, which may have a userfaultfd for faults of user
mode alone (Linux commit 37cd0575b8510 ("userfaultfd: add UFFD_USER_MODE_ONLY") (in v5.11)). A
marker stands in a page table where there is no page, and looks like one that is swapped out.
"""

import ctypes
import errno
import fcntl
import mmap
import os
import struct

from kinds.files import open_scratch
from kinds.memory import (
    ABSENT,
    COPY,
    FILE,
    PAGE_BYTES,
    SWAPPED,
    ZERO,
    Described,
    UnavailableError,
    describe,
    fill_pages,
    libc,
    map_pages,
    page_out,
    read_page,
    write_page,
)

# linux/userfaultfd.h
SYSTEM_CALLS = {"x86_64": 323, "aarch64": 282, "riscv64": 282}
USER_MODE_ONLY = 1
UFFD_API = 0xAA
UFFDIO_API = 0xC018AA3F
UFFDIO_REGISTER = 0xC020AA00
UFFDIO_WRITEPROTECT = 0xC018AA06
UFFDIO_POISON = 0xC020AA08
REGISTER_MISSING, REGISTER_WP = 1, 2
WRITEPROTECT_WP = 1
FEATURE_WP_HUGETLBFS_SHMEM = 1 << 12
FEATURE_WP_UNPOPULATED = 1 << 13
FEATURE_POISON = 1 << 14


def protected(page: Described) -> Described:
    """Return the description of a page with that of its write-protection."""
    return {
        **page,
        "attributes_set": [*page.get("attributes_set", []), "UFFD_WP"],
        "attributes_clear": [name for name in page["attributes_clear"] if name != "UFFD_WP"],
    }


MARKER: Described = {**protected(ABSENT), "marker": True}
POISON: Described = {**ABSENT, "marker": True}


class Userfault:
    """A userfaultfd that stays open as long as the process lives."""

    def __init__(self, features: int) -> None:
        """Open it.

        Raises:
            UnavailableError: the kernel lacks a feature, or forbids it to users.
        """
        number = SYSTEM_CALLS.get(os.uname().machine)
        if number is None:
            raise UnavailableError("the number of the system call is not known here")
        self._descriptor = libc.syscall(number, os.O_CLOEXEC | USER_MODE_ONLY)
        if self._descriptor < 0:
            raise UnavailableError(f"userfaultfd: {os.strerror(ctypes.get_errno())}")
        try:
            self._call(UFFDIO_API, "=3Q", UFFD_API, features, 0)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            raise UnavailableError(f"userfaultfd lacks one of the features {features:#x}") from None

    def _call(self, request: int, layout: str, *words: int) -> None:
        fcntl.ioctl(self._descriptor, request, struct.pack(layout, *words))

    def register(self, address: int, pages: int, mode: int = REGISTER_WP) -> None:
        """Have the faults of some pages."""
        self._call(UFFDIO_REGISTER, "=4Q", address, pages * PAGE_BYTES, mode, 0)

    def write_protect(self, address: int, pages: int) -> None:
        """Write-protect some pages, whether they are there or not."""
        self._call(UFFDIO_WRITEPROTECT, "=3Q", address, pages * PAGE_BYTES, WRITEPROTECT_WP)

    def poison(self, address: int, pages: int) -> None:
        """Have whoever touches some pages killed, as if the memory were broken."""
        self._call(UFFDIO_POISON, "=4Q", address, pages * PAGE_BYTES, 0, 0)


def make_uffd() -> Described:
    """Write-protect anonymous memory: a written page, a read one, and one that is not there."""
    userfault = Userfault(FEATURE_WP_UNPOPULATED)
    address = map_pages(4)
    write_page(address, 0)
    read_page(address, 1)
    write_page(address, 3)
    userfault.register(address, 4)
    userfault.write_protect(address, 3)
    return {
        "pages": describe(address, protected(COPY), protected(ZERO), MARKER, COPY),
    }


def make_uffd_populated() -> Described:
    """The same, without markers in anonymous memory: what is not there is not protected."""
    userfault = Userfault(0)
    address = map_pages(2)
    write_page(address, 0)
    userfault.register(address, 2)
    userfault.write_protect(address, 2)
    return {"pages": describe(address, protected(COPY), ABSENT)}


def make_uffd_file() -> Described:
    """Write-protect a memfd, private and shared: a page that is not there gets a marker."""
    userfault = Userfault(FEATURE_WP_HUGETLBFS_SHMEM)
    descriptor = os.memfd_create("subject")
    os.ftruncate(descriptor, 4 * PAGE_BYTES)
    private = map_pages(4, mmap.MAP_PRIVATE, descriptor)
    shared = map_pages(4, mmap.MAP_SHARED, descriptor)
    write_page(private, 0)
    write_page(shared, 1)
    read_page(private, 1)
    for address in (private, shared):
        userfault.register(address, 4)
        userfault.write_protect(address, 3)
    return {
        "pages": [
            *describe(
                private,
                {**protected(COPY), "copied": True},
                {**protected(FILE), "copied": False},
                {**MARKER, "copied": False},
                {**ABSENT, "copied": False},
            ),
            *describe(
                shared + PAGE_BYTES,
                protected(FILE),
                MARKER,
                ABSENT,
                mapping="SHARED_FILE",
            ),
        ]
    }


def make_uffd_swapped(directory: str) -> Described:
    """Write-protect anonymous memory, and page it out: protected and swapped.

    The copies of a file beside it are paged out only, for comparison.
    """
    userfault = Userfault(0)
    address = map_pages(2)
    copies = map_pages(2, mmap.MAP_PRIVATE, open_scratch(directory, 2))
    fill_pages(address, 2)
    fill_pages(copies, 2)
    userfault.register(address, 2)
    userfault.write_protect(address, 2)
    page_out(address, 2)
    page_out(copies, 2)
    return {
        "pages": [
            *describe(address, protected(SWAPPED), protected(SWAPPED)),
            *describe(copies, SWAPPED, SWAPPED, copied=True),
        ]
    }


def make_uffd_poisoned() -> Described:
    """Poison pages of anonymous memory and of a private mapping of a memfd."""
    userfault = Userfault(FEATURE_POISON)
    descriptor = os.memfd_create("subject")
    os.ftruncate(descriptor, 3 * PAGE_BYTES)
    anonymous = map_pages(3)
    private = map_pages(3, mmap.MAP_PRIVATE, descriptor)
    for address in (anonymous, private):
        write_page(address, 0)
        userfault.register(address, 3, REGISTER_MISSING)
        userfault.poison(address + PAGE_BYTES, 1)
    copy, poison = {**COPY, "copied": True}, {**POISON, "copied": False}
    return {
        "pages": [
            *describe(anonymous, COPY, POISON, ABSENT),
            *describe(private, copy, poison, {**ABSENT, "copied": False}),
        ]
    }
