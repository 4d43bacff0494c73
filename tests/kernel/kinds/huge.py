# SPDX-License-Identifier: Apache-2.0
"""Transparent huge pages: whole, split, shared by a fork, of zeros, and of the page cache.

Standard library only; runs as an unprivileged user. Flags belong to the whole huge page, and the
flag "thp" is shown of anonymous ones only.
"""

import mmap
import os

from kinds.files import open_scratch
from kinds.memory import (
    ABSENT,
    COPY,
    FILE,
    HUGE_BYTES,
    HUGE_PAGES,
    MADV_HUGEPAGE,
    MADV_NOHUGEPAGE,
    PAGE_BYTES,
    PAGEMAP_PRESENT,
    ZERO,
    Described,
    UnavailableError,
    advise,
    describe,
    fork_waiting,
    map_pages,
    protect,
    read_entries,
    read_page,
    read_smaps,
    unmap_pages,
    write_page,
)

PART = slice(3, 5)
"""The pages of a huge page that are treated differently from the others."""
PART_PAGES = PART.stop - PART.start
WRITTEN = 7
HUGE_COPY: Described = {
    **COPY,
    "flags_set": [*COPY["flags_set"], "thp"],
    "flags_clear": ["ksm", "zero_page", "huge"],
}


def map_huge() -> int:
    """Map one huge page's worth of memory where a huge page can be."""
    spare = map_pages(2 * HUGE_PAGES)
    address = -(-spare // HUGE_BYTES) * HUGE_BYTES
    advise(address, HUGE_PAGES, MADV_HUGEPAGE)
    return address


def map_huge_written() -> int:
    """Return where a transparent huge page of anonymous memory is."""
    address = map_huge()
    write_page(address, 5)
    if read_smaps(address, "AnonHugePages") != HUGE_BYTES:
        raise UnavailableError("the kernel gave no transparent huge page")
    # Or khugepaged makes a huge page again of what is split, and fills what was given up.
    advise(address, HUGE_PAGES, MADV_NOHUGEPAGE)
    return address


def make_thp() -> Described:
    """Write one byte of a transparent huge page: all of it is anonymous, head and tails."""
    return {"pages": describe(map_huge_written(), *[HUGE_COPY] * HUGE_PAGES)}


def make_thp_dropped() -> Described:
    """Give a part of a huge page up: the rest is mapped page by page, and stays."""
    address = map_huge_written()
    advise(address + PART.start * PAGE_BYTES, PART_PAGES, mmap.MADV_DONTNEED)
    pages = [HUGE_COPY] * HUGE_PAGES
    pages[PART] = [ABSENT] * PART_PAGES
    return {"pages": describe(address, *pages)}


def make_thp_protected() -> Described:
    """Forbid writing to a part of a huge page: mapped page by page, all of it stays."""
    address = map_huge_written()
    protect(address + PART.start * PAGE_BYTES, PART_PAGES, mmap.PROT_READ)
    return {"pages": describe(address, *[HUGE_COPY] * HUGE_PAGES)}


def make_thp_unmapped() -> Described:
    """Unmap the second half of a huge page."""
    address = map_huge_written()
    half = HUGE_PAGES // 2
    unmap_pages(address + half * PAGE_BYTES, HUGE_PAGES - half)
    return {"pages": describe(address, *[HUGE_COPY] * half)}


def describe_forked(address: int, child: int, child_wrote: bool) -> Described:
    """Describe a huge page that a fork shares, of which one side has copied one page."""
    shared = {
        **HUGE_COPY,
        "attributes_set": [],
        "attributes_clear": ["EXCLUSIVE", "LAZYFREE", "UNSTABLE"],
    }
    left = {**HUGE_COPY, "attributes_set": []}  # the other side has it alone now, or may not know
    writer = [shared] * HUGE_PAGES
    writer[WRITTEN] = COPY
    other = [shared] * HUGE_PAGES
    other[WRITTEN] = left
    mine, theirs = (other, writer) if child_wrote else (writer, other)
    return {
        "pages": [
            *describe(address, *mine),
            *describe(address, *[{**page, "pid": child} for page in theirs]),
        ]
    }


def make_thp_forked() -> Described:
    """Share a huge page with a child and have the child copy one page of it."""
    address = map_huge_written()
    child = fork_waiting(lambda: write_page(address, WRITTEN))
    return describe_forked(address, child, child_wrote=True)


def make_thp_forked_parent() -> Described:
    """Share a huge page with a child and copy one page of it oneself."""
    address = map_huge_written()
    child = fork_waiting(lambda: None)
    write_page(address, WRITTEN)
    return describe_forked(address, child, child_wrote=False)


def make_huge_zero() -> Described:
    """Read a transparent huge page: the huge page of zeros, which calls itself a file's."""
    address = map_huge()
    read_page(address, 5)
    if not all(entry & PAGEMAP_PRESENT for entry in read_entries(address, HUGE_PAGES)):
        raise UnavailableError("the kernel gave no huge page of zeros")
    return {"pages": describe(address, *[ZERO] * HUGE_PAGES)}


def make_large_folio(directory: str) -> Described:
    """Map a file that the page cache holds in pieces larger than a page, and copy one page.

    Nothing here shows whether the page cache does: root sees it by the flag "thp".
    """
    descriptor = open_scratch(directory)
    os.pwrite(descriptor, os.urandom(HUGE_BYTES), 0)
    address = map_pages(HUGE_PAGES, mmap.MAP_PRIVATE, descriptor)
    advise(address, HUGE_PAGES, MADV_NOHUGEPAGE)  # as above; the page cache does not ask for it
    write_page(address, WRITTEN)  # first: to copy from a huge mapping undoes it
    for page in range(HUGE_PAGES):
        read_page(address, page)
    pages = [{**FILE, "copied": False}] * HUGE_PAGES
    pages[WRITTEN] = {**COPY, "copied": True}
    return {"pages": describe(address, *pages)}
