# SPDX-License-Identifier: Apache-2.0
"""Anonymous memory: written, read, given up, guarded, merged.

Standard library only; runs as an unprivileged user.
"""

import ctypes
import mmap
import os

from kinds.files import open_scratch
from kinds.memory import (
    ABSENT,
    COPY,
    GUARD,
    MADV_FREE,
    PAGE_BYTES,
    PROT_NONE,
    SHARED_COPY,
    ZERO,
    Described,
    advise,
    describe,
    install_guards,
    map_pages,
    protect,
    read_entries,
    read_page,
    wait_until,
    write_page,
)

MADV_MERGEABLE = 12
PAGEMAP_EXCLUSIVE = 1 << 56
FREED: Described = {
    "state": "ANON",
    "flags_set": ["mmap", "anonymous"],
    "flags_clear": [*COPY["flags_clear"], "swapbacked"],
    "attributes_set": ["EXCLUSIVE", "LAZYFREE"],
    "attributes_clear": ["UNSTABLE", "UFFD_WP"],
}


def make_anonymous() -> Described:
    """Write to anonymous memory; leave a page of it alone; forbid access to a written one."""
    address = map_pages(3)
    write_page(address, 0)
    write_page(address, 2)
    protect(address + 2 * PAGE_BYTES, 1, PROT_NONE)
    return {"pages": describe(address, COPY, ABSENT, COPY)}


def make_zero() -> Described:
    """Read anonymous memory that was never written."""
    address = map_pages(2)
    read_page(address, 0)
    zero = {**ZERO, "attributes_clear": ["EXCLUSIVE", *ZERO["attributes_clear"]]}
    return {"pages": describe(address, zero, ABSENT)}


def make_guard() -> Described:
    """Install guards between written pages, over a written one and over an untouched one."""
    address = map_pages(4)
    write_page(address, 0)
    write_page(address, 1)
    write_page(address, 3)
    install_guards(address + PAGE_BYTES, 2)
    return {"pages": describe(address, COPY, GUARD, GUARD, COPY)}


def map_freed(pages: int, freed: int) -> int:
    """Map and write pages, and give the first of them up with MADV_FREE; return where."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # the batches below are one cpu's
    address = map_pages(pages)
    for page in range(pages):
        write_page(address, page)
    for _ in range(2):  # the first call queues the pages, the second works the queue off
        advise(address, freed, MADV_FREE)
    return address


def make_lazyfree() -> Described:
    """Give written pages up with MADV_FREE: still ANON, no longer SWAPBACKED."""
    return {"pages": describe(map_freed(4, 3), FREED, FREED, FREED, COPY)}


def make_taken_back() -> Described:
    """Give a written page up with MADV_FREE, and write to it again."""
    address = map_freed(1, 1)
    write_page(address, 0)
    return {"pages": describe(address, FREED)}


def map_merged(descriptor: int | None = None) -> int:
    """Return where two pages are that the kernel has merged into one (KSM)."""
    address = map_pages(2, mmap.MAP_PRIVATE, descriptor) if descriptor else map_pages(2)
    ctypes.memmove(address, os.urandom(PAGE_BYTES) * 2, 2 * PAGE_BYTES)
    advise(address, 2, MADV_MERGEABLE)
    wait_until(
        lambda: not any(entry & PAGEMAP_EXCLUSIVE for entry in read_entries(address, 2)),
        "the kernel merges no pages: is KSM running?",
    )
    return address


def make_merged(directory: str) -> Described:
    """Have equal pages merged, of anonymous memory and copies of a file's.

    Which pages are the same as another process's is no business of the caller's: where the merged
    page is mapped more than once, the flag is hidden.
    """
    anonymous = map_merged()
    private = map_merged(open_scratch(directory, 2, written=True))
    return {
        "pages": [
            *describe(anonymous, SHARED_COPY, SHARED_COPY),
            *describe(private, SHARED_COPY, SHARED_COPY, copied=True),
        ]
    }


def make_merged_alone() -> Described:
    """Have two equal pages merged and give one up: the other is ours alone, and still merged."""
    address = map_merged()
    advise(address + PAGE_BYTES, 1, mmap.MADV_DONTNEED)
    page = {**COPY, "flags_set": [*COPY["flags_set"], "ksm"]}
    page["flags_clear"] = ["thp", "zero_page", "huge"]
    return {"pages": describe(address, page, ABSENT)}
