# SPDX-License-Identifier: Apache-2.0
"""What the ioctl PAGEMAP_SCAN tells anybody: pages of zeros, and where anything is at all.

Linux commit 52526ca7fdb9 ("fs/proc/task_mmu: implement IOCTL to get and optionally clear info about
PTEs") (in v6.7). It runs with the caller's own rights, and fails with OSError: ENOTTY where there
is no such ioctl, and as some kernels have it, ESRCH for a process that has gone. Others find
nothing then: ask afterwards whether it lives.
"""

import errno
import fcntl
import functools
import os
import struct
from array import array
from collections.abc import Iterator
from typing import Final

from cowd._pages import PAGES_PER_PART

__all__ = ["has_pagemap_scan", "iter_populated", "iter_zero_pages"]

_PAGE_SIZE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
# include/uapi/linux/fs.h
_PAGEMAP_SCAN: Final = 0xC0606610
_PAGE_IS_PRESENT: Final = 1 << 3
_PAGE_IS_SWAPPED: Final = 1 << 4
_PAGE_IS_PFNZERO: Final = 1 << 5
_SCAN_ARGUMENT: Final = struct.Struct("=12Q")
_SCAN_END_INDEX: Final = 4  # walk_end
_REGION_WORDS: Final = 3  # struct page_region: start, end, categories
_REGIONS: Final = 512
"""Told of at once: as many as the kernel collects before it lets go of the process's lock."""
_NEAR_BYTES: Final = 128 * _PAGE_SIZE_BYTES
"""So much of nothing is read sooner than a stretch is begun anew."""
_LONG_BYTES: Final = PAGES_PER_PART * _PAGE_SIZE_BYTES


def has_pagemap_scan() -> bool:
    """Return whether the kernel tells the page of zeros without a privilege."""
    try:
        return _try_pagemap_scan()
    except OSError:  # not remembered: another time there may be descriptors left
        return False


@functools.cache
def _try_pagemap_scan() -> bool:
    try:
        with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
            _scan(pagemap.fileno(), 0, 0, array("Q"), _PAGE_IS_PFNZERO)
    except OSError as error:
        if error.errno in (errno.ENOTTY, errno.EINVAL):
            return False
        raise
    return True


def iter_zero_pages(pagemap: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the stretches between two addresses that are the kernel's page of zeros.

    Args:
        pagemap: descriptor of /proc/PID/pagemap.
        start: address of the first page, in bytes.
        end: address after the last page, in bytes.

    Yields:
        First address and address after the last, in bytes, ascending.
    """
    for starts, ends in _iter_regions(pagemap, start, end, _PAGE_IS_PFNZERO):
        yield from zip(starts, ends, strict=True)


def iter_populated(pagemap: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the stretches where pages, swapped ones or markers are; elsewhere nothing is.

    What is neither present nor empty is swapped to the ioctl, guards and other markers included
    (pagemap_page_category, fs/proc/task_mmu.c). Where they lie close to each other, one stretch has
    several of them and what is between.

    Args and what is yielded are those of `iter_zero_pages`.
    """
    if end - start <= _NEAR_BYTES:
        yield start, end
        return
    first = last = start
    for starts, ends in _iter_regions(pagemap, start, end, _PAGE_IS_PRESENT | _PAGE_IS_SWAPPED):
        # Every other page may be there: then none is looked at one by one.
        empty_bytes = ends[-1] - starts[0] - (sum(ends) - sum(starts))
        is_dense = empty_bytes <= (len(starts) - 1) * _NEAR_BYTES
        regions = [(starts[0], ends[-1])] if is_dense else zip(starts, ends, strict=True)
        for region_start, region_end in regions:
            if region_start - last > _NEAR_BYTES or last - first >= _LONG_BYTES:
                if last > first:
                    yield first, last
                first = region_start
            last = region_end
    if last > first:
        yield first, last


def _iter_regions(
    pagemap: int, start: int, end: int, categories: int
) -> Iterator[tuple["array[int]", "array[int]"]]:
    """Yield the first addresses of some regions, and those after their last, until all are told."""
    regions = array("Q", bytes(_REGIONS * _REGION_WORDS * 8))
    while start < end:
        count, start = _scan(pagemap, start, end, regions, categories)
        if count:
            told = regions[: count * _REGION_WORDS]
            yield told[::_REGION_WORDS], told[1::_REGION_WORDS]


def _scan(
    pagemap: int, start: int, end: int, regions: "array[int]", categories: int
) -> tuple[int, int]:
    """Fill `regions` with pages of any of these; return how many, and where the kernel stopped.

    Raises:
        OSError: ENOTTY if there is no such ioctl.
    """
    room, words = regions.buffer_info()
    argument = bytearray(
        _SCAN_ARGUMENT.pack(
            _SCAN_ARGUMENT.size,
            0,  # flags
            start,
            end,
            0,  # walk_end: out
            room,
            words // _REGION_WORDS,
            PAGES_PER_PART,  # max_pages: a step is short
            0,  # category_inverted
            0,  # category_mask
            categories,  # category_anyof_mask
            0,  # return_mask
        )
    )
    count = fcntl.ioctl(pagemap, _PAGEMAP_SCAN, argument)
    return count, _SCAN_ARGUMENT.unpack(argument)[_SCAN_END_INDEX]
