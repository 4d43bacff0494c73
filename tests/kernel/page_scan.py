# SPDX-License-Identifier: Apache-2.0
"""What the ioctl PAGEMAP_SCAN tells a process of its own pages: a second source without privilege.

Standard library only; runs as an unprivileged user. The ioctl is Linux commit 52526ca7fdb9
("fs/proc/task_mmu: implement IOCTL to get and optionally clear info about PTEs") (in v6.7).
"""

import ctypes
import errno
import fcntl
import os
import struct
from pathlib import Path

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
# linux/fs.h
PAGEMAP_SCAN = 0xC0606610
ARGUMENT = struct.Struct("=12Q")
REGION_WORDS = 3
FILE, PRESENT, SWAPPED, PFNZERO, GUARD = 4, 8, 16, 32, 256
OLD_CATEGORIES = FILE | PRESENT | SWAPPED | PFNZERO
"""GUARD came later, with Linux commit a516403787e0 ("fs/proc: extend the PAGEMAP_SCAN ioctl to
report guard regions") (in v6.16)."""


def scan_pages(address: int, count: int) -> dict[str, object]:
    """Return {"scan": categories of each page}, or {"unavailable": why} without the ioctl."""
    try:
        return {"scan": scan_categories(address, count, OLD_CATEGORIES | GUARD)}
    except OSError as error:
        if error.errno == errno.ENOTTY:
            return {"unavailable": "the kernel has no PAGEMAP_SCAN (it is in 6.7)"}
        if error.errno != errno.EINVAL:
            raise
    return {"scan": scan_categories(address, count, OLD_CATEGORIES)}


def scan_categories(address: int, count: int, categories: int) -> list[int]:
    """Return which of `categories` each page has; 0 where nothing is."""
    regions = (ctypes.c_uint64 * (REGION_WORDS * count))()
    end = address + count * PAGE_BYTES
    argument = ARGUMENT.pack(
        *(ARGUMENT.size, 0, address, end, 0),
        *(ctypes.addressof(regions), count, 0),
        *(0, 0, categories, categories),  # inverted, all of, any of, returned
    )
    with Path("/proc/self/pagemap").open("rb") as pagemap:
        found = fcntl.ioctl(pagemap, PAGEMAP_SCAN, bytearray(argument))
    told = [0] * count
    for number in range(found):
        start, stop, region = regions[REGION_WORDS * number : REGION_WORDS * (number + 1)]
        for page in range((start - address) // PAGE_BYTES, (stop - address) // PAGE_BYTES):
            told[page] = region
    return told
