# SPDX-License-Identifier: Apache-2.0
"""What every page is, read one by one and decided by plain ifs: slow, and nothing of cowd's.

Runs as root in the test process, on the kernel's files alone. It is written from the kernel's
documentation (Documentation/admin-guide/mm/pagemap.rst), with the numbers written out; what kind of
swap entry a marker is, it learns from a guard region of its own. A page that changes while it is
read, or a process that has gone, raises AssertionError: ask about processes that hold still.
"""

import ctypes
import mmap
import os
from typing import NamedTuple

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
MADV_GUARD_INSTALL = 102


class ReferencePage(NamedTuple):
    """What one page is: names of PageState and PageAttribute without their prefixes."""

    state: str
    attributes: frozenset[str]


class Reference:
    """The reader; it holds a descriptor of kpageflags."""

    def __init__(self) -> None:
        self._kpageflags = open("/proc/kpageflags", "rb", buffering=0)  # noqa: SIM115
        self._marker_type = learn_marker_type()

    def close(self) -> None:
        """Close kpageflags."""
        self._kpageflags.close()

    def read_pages(self, pid: int, address: int, count: int) -> list[ReferencePage]:
        """Return what each of `count` pages from `address` of process `pid` is."""
        with open(f"/proc/{pid}/pagemap", "rb", buffering=0) as pagemap:
            return [
                self._read_page(pagemap.fileno(), address // PAGE_BYTES + page)
                for page in range(count)
            ]

    def _read_page(self, pagemap: int, page: int) -> ReferencePage:
        entry = read_word(pagemap, page)
        assert entry is not None, "the address space ends here, or is gone"
        flags = read_word(self._kpageflags.fileno(), entry & 2**55 - 1) if entry >> 63 else None
        assert read_word(pagemap, page) == entry, "a page did not hold still"
        return ReferencePage(self._decide(entry, flags), self._find_attributes(entry, flags))

    def _decide(self, entry: int, flags: int | None) -> str:
        present, swapped, file, guard = (entry >> bit & 1 for bit in (63, 62, 61, 58))
        if present:
            if not flags or flags >> 20 & 1:  # NOPAGE
                return "UNKNOWN"
            if flags >> 24 & 1:  # ZERO_PAGE
                return "ZERO"
            if flags >> 12 & 1:  # ANON
                assert not file, "pagemap and kpageflags contradict each other"
                return "ANON"
            return "FILE"
        if guard:
            return "GUARD"
        if swapped:
            if self._is_marker(entry):
                return "GUARD" if entry >> 5 & 4 else "ABSENT"
            return "FILE" if file else "ANON_SWAPPED"
        return "ABSENT"

    def _find_attributes(self, entry: int, flags: int | None) -> frozenset[str]:
        found = set()
        if entry >> 63 and entry >> 56 & 1:
            found.add("EXCLUSIVE")
        if entry >> 57 & 1:
            found.add("UFFD_WP")
        if not entry >> 63 and entry >> 62 & 1 and self._is_marker(entry) and entry >> 5 & 1:
            found.add("UFFD_WP")
        if flags and flags >> 12 & 1 and not flags >> 14 & 1 and not flags >> 17 & 1:
            found.add("LAZYFREE")  # anonymous, not swapbacked; hugetlb pages never are
        return frozenset(found)

    def _is_marker(self, entry: int) -> bool:
        return self._marker_type is not None and entry & 31 == self._marker_type


def read_word(file: int, index: int) -> int | None:
    """Return one word of a file of words; None past its end."""
    word = os.pread(file, 8, index * 8)
    return int.from_bytes(word, "little") if word else None


def learn_marker_type() -> int | None:
    """Return the swap type that a guard region of this process has, if there are such."""
    with mmap.mmap(-1, PAGE_BYTES, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        try:
            memory.madvise(MADV_GUARD_INSTALL)
        except OSError:
            return None
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
            entry = read_word(pagemap.fileno(), address // PAGE_BYTES)
    assert entry is not None
    return entry & 31 if entry >> 62 & 1 else None
