# SPDX-License-Identifier: Apache-2.0
"""Pages that are paged out: of anonymous memory, copies of a file's, and of shared memory.

Standard library only; runs as an unprivileged user, on a machine with swap space. Random contents,
so that no device finds a page to be all the same byte and keeps nothing.
"""

import mmap
import os

from kinds.files import open_scratch
from kinds.memory import (
    ABSENT,
    COPY,
    MADV_PAGEOUT,
    PAGE_BYTES,
    SWAPPED,
    Described,
    advise,
    describe,
    fill_pages,
    map_pages,
    page_out,
    read_page,
    read_smaps,
    wait_until,
    write_page,
)


def map_swapped(directory: str) -> tuple[int, int]:
    """Return where two pages of anonymous memory and two copies of a file's are swapped out."""
    anonymous = map_pages(2)
    private = map_pages(2, mmap.MAP_PRIVATE, open_scratch(directory, 2))
    for address in (anonymous, private):
        fill_pages(address, 2)
        page_out(address, 2)
    return anonymous, private


def make_swapped(directory: str) -> Described:
    """Have written pages paged out: two of anonymous memory, two copies of a file's."""
    anonymous, private = map_swapped(directory)
    return {
        "pages": [
            *describe(anonymous, SWAPPED, SWAPPED),
            *describe(private, SWAPPED, SWAPPED, copied=True),
        ]
    }


def make_swapped_back(directory: str) -> Described:
    """Have pages paged out, then read one of each kind and write to the other.

    Whether one that was only read is exclusive is the kernel's affair: its copy on the device is
    a second user of it.
    """
    anonymous, private = map_swapped(directory)
    for address in (anonymous, private):
        read_page(address, 0)
        write_page(address, 1)
    read = {**COPY, "attributes_set": []}
    return {
        "pages": [
            *describe(anonymous, read, COPY),
            *describe(private, {**read, "copied": True}, {**COPY, "copied": True}),
        ]
    }


def make_swapped_shared() -> Described:
    """Have shared memory paged out: where its page went is known to the file, not to pagemap."""
    descriptor = os.memfd_create("subject")
    os.ftruncate(descriptor, 2 * PAGE_BYTES)
    shared = map_pages(2, mmap.MAP_SHARED, descriptor)
    fill_pages(shared, 2)

    def is_out() -> bool:
        advise(shared, 2, MADV_PAGEOUT)
        # It is unmapped at once, and in memory until it is written to the swap space.
        return read_smaps(shared, "Swap") == 2 * PAGE_BYTES

    wait_until(is_out, "the kernel does not page out: is there swap space?")
    return {"pages": describe(shared, ABSENT, ABSENT, mapping="SHARED_FILE")}
