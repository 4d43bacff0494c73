# SPDX-License-Identifier: Apache-2.0
"""Where anything stands in a process's page tables, and what, without a read of every entry.

Worker, unprivileged, through a descriptor of pagemap. The ioctl PAGEMAP_SCAN is Linux commit
52526ca7fdb9 ("fs/proc/task_mmu: implement IOCTL to get and optionally clear info about PTEs") (in
v6.7). It calls every entry that is neither present nor empty swapped, guards and other markers
included (pagemap_page_category, fs/proc/task_mmu.c), so what it leaves out reads as absent.
"""

import fcntl
import os
import struct
from collections.abc import Iterator
from enum import IntFlag
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cowdaemon.limits import PAGES_PER_CALL
from cowdaemon.worker.pagemap import Stretches, join_stretches, read_entries

__all__ = [
    "PAGEMAP_SCAN",
    "PAGEMAP_SCAN_ARGUMENT",
    "Category",
    "Regions",
    "iter_populated",
    "iter_populated_by_reading",
    "iter_regions",
]

Regions = NDArray[np.int64]
"""Consecutive pages that are alike, a row of three for each: first page, page after the last, and
bits of Category. Ascending."""

_PAGE_SIZE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
# linux/fs.h: the ioctl and its struct pm_scan_arg.
PAGEMAP_SCAN: Final = 0xC0606610
PAGEMAP_SCAN_ARGUMENT: Final = struct.Struct("=12Q")
_WALK_END: Final = 4
_ANY_OF_A_PAGE: Final = np.uint64(0xFF << 56)
"""Every bit from "exclusive" on: whatever is there, one of them is set. Soft-dirty is not one."""
_STEP_PAGES: Final = 64
_REGIONS: Final = 4_096
"""Told of at once. The kernel collects 512 before it lets go of the process's lock, and a call
costs as much as some hundred."""


class Category(IntFlag):
    """What the ioctl says of pages (PAGE_IS_*, linux/fs.h); PFNZERO: one of zeros."""

    FILE = 1 << 2
    PRESENT = 1 << 3
    SWAPPED = 1 << 4
    PFNZERO = 1 << 5
    HUGE = 1 << 6


_NOTHING: Final = Category(0)
_OF_ANONYMOUS: Final = Category.PRESENT | Category.SWAPPED | Category.PFNZERO | Category.HUGE
_ALL: Final = Category.FILE | _OF_ANONYMOUS


def iter_populated(pagemap: int, first_page: int, end_page: int) -> Iterator[Stretches]:
    """Yield the stretches where pages, swapped ones or markers are; elsewhere nothing is.

    An address space that is gone has none, either: ask afterwards whether it lives.

    Args:
        pagemap: descriptor of /proc/PID/pagemap.
        first_page: number of the first page, its address by the page size.
        end_page: number of the page after the last, which is still in the address space.

    Yields:
        Stretches, ascending; at least one. They have no more than PAGES_PER_CALL pages.

    Raises:
        OSError: the kernel has no such ioctl, or the range is not in the address space.
    """
    for regions in _scan(pagemap, first_page, end_page, _NOTHING):
        yield regions[:, :2]


def iter_regions(
    pagemap: int, first_page: int, end_page: int, is_anonymous: bool = False
) -> Iterator[Regions]:
    """Yield what `iter_populated` does, cut where categories change, with these categories.

    Args and errors are those of `iter_populated`, and:
        is_anonymous: all of it lies in anonymous mappings. FILE is not asked for then, for which
            the kernel looks at the struct page of each page, somewhere in memory.
    """
    yield from _scan(pagemap, first_page, end_page, _OF_ANONYMOUS if is_anonymous else _ALL)


def _scan(pagemap: int, first_page: int, end_page: int, returned: Category) -> Iterator[Regions]:
    """Yield regions of pages that are alike in the categories to be returned."""
    regions = np.empty((_REGIONS, 3), np.uint64)  # struct page_region: start, end, categories
    start_address, end_address = first_page * _PAGE_SIZE_BYTES, end_page * _PAGE_SIZE_BYTES
    while start_address < end_address:
        argument = bytearray(
            PAGEMAP_SCAN_ARGUMENT.pack(
                *(PAGEMAP_SCAN_ARGUMENT.size, 0, start_address, end_address, 0),
                *(regions.ctypes.data, _REGIONS, PAGES_PER_CALL),
                *(0, 0, Category.PRESENT | Category.SWAPPED, returned),  # inverted, all of, any of
            )
        )
        try:
            count = fcntl.ioctl(pagemap, PAGEMAP_SCAN, argument)
        except ProcessLookupError:  # so say some kernels, others find nothing
            return
        start_address = PAGEMAP_SCAN_ARGUMENT.unpack(argument)[_WALK_END]
        if count:
            # In its last lot of 512 regions, 6.18 says that it ended before them: they came twice.
            start_address = max(start_address, int(regions[count - 1, 1]))
            found = regions[:count].astype(np.int64)
            found[:, :2] //= _PAGE_SIZE_BYTES
            yield found


def iter_populated_by_reading(pagemap: int, first_page: int, end_page: int) -> Iterator[Stretches]:
    """Do what `iter_populated` does on a kernel without the ioctl, by looking at every entry.

    Stretches start and end at multiples of 64 pages from the first one, so that pages here and
    there do not make more of them than they are worth.

    Raises:
        ShortReadError: the address space is gone, or does not reach that far.
    """
    for first in range(first_page, end_page, PAGES_PER_CALL):
        count = min(PAGES_PER_CALL, end_page - first)
        entries = read_entries(pagemap, first * _PAGE_SIZE_BYTES, count)
        # A page of a mapping that was just made may be soft-dirty before it is there.
        is_populated = np.zeros(-(-count // _STEP_PAGES) * _STEP_PAGES, np.bool_)
        is_populated[:count] = (entries & _ANY_OF_A_PAGE) != 0
        steps = np.flatnonzero(is_populated.reshape(-1, _STEP_PAGES).any(1))
        if len(steps):
            firsts = first + steps * _STEP_PAGES
            stretches = join_stretches(np.column_stack((firsts, firsts + _STEP_PAGES)))
            yield stretches.clip(max=end_page)
