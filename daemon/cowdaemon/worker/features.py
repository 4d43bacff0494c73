# SPDX-License-Identifier: Apache-2.0
"""What the running kernel can tell about pages, found by trying it on our own.

Root, in the zygote before it gives up its privileges: swap types show only to CAP_SYS_ADMIN. A
kernel version is never asked for. Whatever fails counts as not there.
"""

import ctypes
import errno
import fcntl
import mmap
import os
import struct
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cowdaemon.worker.page_scan import PAGEMAP_SCAN, PAGEMAP_SCAN_ARGUMENT
from cowdaemon.worker.page_states import EntryLayout, Kpageflags

__all__ = ["KernelFeatures", "probe_features"]

_libc: Final = ctypes.CDLL(None, use_errno=True)

_MADV_GUARD_INSTALL: Final = 102  # asm-generic/mman-common.h, Linux 6.13

_FRAME_MASK: Final = (1 << 55) - 1
_SOFT_DIRTY: Final = 1 << 55
_GUARD: Final = 1 << 58
_SWAPPED: Final = 1 << 62
_PRESENT: Final = 1 << 63
_SWAP_TYPE_MASK: Final = 0x1F
_COLOURED_PAGES: Final = 512
"""More consecutive pages than any machine has pages of zeros."""
_HUGE_PAGE_BYTES: Final = Path("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size")


@dataclass(frozen=True, slots=True)
class KernelFeatures:
    """What there is; see cowd.v1.KernelFeatures."""

    layout: EntryLayout
    has_guard_regions: bool
    has_pagemap_scan: bool
    has_page_copiers: bool = False


def probe_features() -> KernelFeatures:
    """Try everything once."""
    with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
        guard = _read_guard_entry(pagemap.fileno())
        marker = guard if guard is not None and guard & _SWAPPED else None
        if marker is None:
            marker = _read_uffd_marker_entry(pagemap.fileno())
        layout = EntryLayout(
            marker_type=None if marker is None else marker & _SWAP_TYPE_MASK,
            has_soft_dirty=_has_soft_dirty(pagemap.fileno()),
            zero_frames=_find_zero_frames(pagemap.fileno()),
            huge_page_pages=_read_huge_page_pages(),
        )
        return KernelFeatures(
            layout=layout,
            has_guard_regions=guard is not None
            and (bool(guard & _GUARD) or layout.marker_type is not None),
            has_pagemap_scan=_has_pagemap_scan(pagemap.fileno()),
            has_page_copiers=_has_page_copiers(pagemap.fileno()),
        )


def _address(memory: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


def _read_entry(pagemap: int, address: int) -> int:
    entry = os.pread(pagemap, 8, address // mmap.PAGESIZE * 8)
    return int.from_bytes(entry, sys.byteorder)


def _read_guard_entry(pagemap: int) -> int | None:
    with mmap.mmap(-1, mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        try:
            memory.madvise(_MADV_GUARD_INSTALL)
        except OSError:
            return None
        return _read_entry(pagemap, _address(memory))


def _has_soft_dirty(pagemap: int) -> bool:
    """A page that was just made and written is soft-dirty wherever anything is."""
    with mmap.mmap(-1, mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory[0] = 1
        return bool(_read_entry(pagemap, _address(memory)) & _SOFT_DIRTY)


def _has_pagemap_scan(pagemap: int) -> bool:
    argument = PAGEMAP_SCAN_ARGUMENT.pack(PAGEMAP_SCAN_ARGUMENT.size, *[0] * 11)
    try:
        fcntl.ioctl(pagemap, PAGEMAP_SCAN, argument)
    except OSError as error:
        return error.errno != errno.ENOTTY
    return True


def _read_kpageflags(entry: int) -> int:
    """Return the flags of a page's frame; 0 if that does not show, or nothing is present."""
    if not entry & _PRESENT or not entry & _FRAME_MASK:
        return 0
    try:
        with open("/proc/kpageflags", "rb", buffering=0) as kpageflags:
            word = os.pread(kpageflags.fileno(), 8, (entry & _FRAME_MASK) * 8)
    except OSError:
        return 0
    return int.from_bytes(word, sys.byteorder)


def _find_zero_frames(pagemap: int) -> tuple[int, ...]:
    """Return the frames of the small page of zeros: one, or several by colour (s390, MIPS)."""
    with mmap.mmap(
        -1, _COLOURED_PAGES * mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    ) as memory:
        try:
            memory.madvise(mmap.MADV_NOHUGEPAGE)
        except OSError:
            pass  # there are no huge pages
        addresses = range(_address(memory), _address(memory) + len(memory), mmap.PAGESIZE)
        for offset in range(0, len(memory), mmap.PAGESIZE):
            memory[offset]  # a fault for reading
        entries = {_read_entry(pagemap, address) for address in addresses}
    found = {
        entry & _FRAME_MASK for entry in entries if _read_kpageflags(entry) & Kpageflags.ZERO_PAGE
    }
    return tuple(sorted(found))


def _read_huge_page_pages() -> int:
    """Return how many pages a transparent huge page has, which is what a page directory maps.

    The file is Linux commit 49920d28781d ("mm: make transparent hugepage size public") (in v4.10).
    """
    try:
        return int(_HUGE_PAGE_BYTES.read_text()) // mmap.PAGESIZE
    except (OSError, ValueError):
        return 0


def _has_page_copiers(pagemap: int) -> bool:
    """Tell whether flags say of an anonymous page that it is one process's alone to write to.

    Linux commit 6c287605fd56 ("mm: remember exclusively mapped anonymous pages with
    PG_anon_exclusive") (in v5.19).
    """
    with mmap.mmap(-1, mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory[0] = 1
        flags = _read_kpageflags(_read_entry(pagemap, _address(memory)))
    return bool(flags & Kpageflags.ANON and flags & Kpageflags.OWNER_2)


# userfaultfd, linux/userfaultfd.h.
_SYS_USERFAULTFD: Final = {"x86_64": 323, "aarch64": 282, "riscv64": 282}
_UFFDIO_API: Final = 0xC018AA3F
_UFFDIO_REGISTER: Final = 0xC020AA00
_UFFDIO_WRITEPROTECT: Final = 0xC018AA06
_UFFD_API: Final = 0xAA
_UFFD_FEATURE_WP_HUGETLBFS_SHMEM: Final = 1 << 12
_UFFDIO_REGISTER_MODE_WP: Final = 2
_UFFDIO_WRITEPROTECT_MODE_WP: Final = 1


def _read_uffd_marker_entry(pagemap: int) -> int | None:
    """Write-protect a page of shared memory that is not there: a marker stands in its place."""
    number = _SYS_USERFAULTFD.get(os.uname().machine)
    if number is None:
        return None
    uffd = _libc.syscall(number, os.O_CLOEXEC)
    if uffd < 0:
        return None
    try:
        with mmap.mmap(-1, mmap.PAGESIZE, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS) as memory:
            address, length = _address(memory), mmap.PAGESIZE
            api = struct.pack("=3Q", _UFFD_API, _UFFD_FEATURE_WP_HUGETLBFS_SHMEM, 0)
            fcntl.ioctl(uffd, _UFFDIO_API, api)
            register = struct.pack("=4Q", address, length, _UFFDIO_REGISTER_MODE_WP, 0)
            fcntl.ioctl(uffd, _UFFDIO_REGISTER, register)
            protect = struct.pack("=3Q", address, length, _UFFDIO_WRITEPROTECT_MODE_WP)
            fcntl.ioctl(uffd, _UFFDIO_WRITEPROTECT, protect)
            entry = _read_entry(pagemap, address)
            return entry if entry & _SWAPPED else None
    except OSError:
        return None
    finally:
        os.close(uffd)
