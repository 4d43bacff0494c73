# SPDX-License-Identifier: Apache-2.0
"""Pages that a fork shares: before and after either side writes, and after one has exited.

Standard library only; runs as an unprivileged user.
"""

import ctypes
import mmap
import os

from kinds.anonymous import MADV_MERGEABLE, PAGEMAP_EXCLUSIVE
from kinds.files import map_private, open_scratch
from kinds.memory import (
    COPY,
    FILE,
    PAGE_BYTES,
    SHARED_COPY,
    UNCOPIED,
    Child,
    Described,
    advise,
    describe,
    fork_waiting,
    map_pages,
    read_entries,
    read_page,
    wait_until,
    write_page,
)

EITHER: Described = {**COPY, "attributes_set": []}
"""What the side that did not write has: the kernel knows that it is alone, or not."""


def make_fork() -> Described:
    """Write two pages, fork, and have the child write the second one again."""
    address = map_pages(2)
    write_page(address, 0)
    write_page(address, 1)
    child = fork_waiting(lambda: write_page(address, 1))
    return {
        "pages": [
            *describe(address, SHARED_COPY, EITHER),
            *describe(address, {**SHARED_COPY, "pid": child}, {**COPY, "pid": child}),
        ]
    }


def make_fork_parent() -> Described:
    """Write two pages, fork, and write the second one again."""
    address = map_pages(2)
    write_page(address, 0)
    write_page(address, 1)
    child = fork_waiting(lambda: None)
    write_page(address, 1)
    return {
        "pages": [
            *describe(address, SHARED_COPY, COPY),
            *describe(address, {**SHARED_COPY, "pid": child}, {**EITHER, "pid": child}),
        ]
    }


def make_fork_merged() -> Described:
    """Have a child and its parent write the same, and the kernel merge it into one page (KSM)."""
    address = map_pages(1)
    advise(address, 1, MADV_MERGEABLE)
    content = os.urandom(PAGE_BYTES)
    child = fork_waiting(lambda: ctypes.memmove(address, content, PAGE_BYTES))
    ctypes.memmove(address, content, PAGE_BYTES)
    wait_until(
        lambda: not read_entries(address, 1)[0] & PAGEMAP_EXCLUSIVE,
        "the kernel merges no pages: is KSM running?",
    )
    return {
        "pages": [
            *describe(address, SHARED_COPY),
            *describe(address, {**SHARED_COPY, "pid": child}),
        ]
    }


def make_fork_file(directory: str) -> Described:
    """Copy page 0 of a file, fork, and have the child copy page 1."""
    address = map_pages(2, mmap.MAP_PRIVATE, open_scratch(directory, 2))
    write_page(address, 0)
    child = fork_waiting(lambda: write_page(address, 1))
    shared = {**SHARED_COPY, "copied": True}
    original = {**UNCOPIED, "copied": False}
    copy = {**COPY, "copied": True}
    return {
        "pages": [
            *describe(address, shared, original),
            *describe(address, {**shared, "pid": child}, {**copy, "pid": child}),
        ]
    }


def fork_reading(address: int) -> Child:
    """Copy page 0 of a mapping, and read page 1 of it, in this process and in a child."""
    write_page(address, 0)

    def read_both() -> None:
        read_page(address, 0)
        read_page(address, 1)

    child = Child(read_both)
    read_page(address, 1)
    child.act()
    return child


def make_fork_alive(directory: str) -> Described:
    """Share a copy and a page of the file with a child: neither is exclusive."""
    address = map_private(directory, 2)
    child = fork_reading(address)
    copy = {**SHARED_COPY, "copied": True}
    read = {**FILE, "copied": False, "attributes_clear": SHARED_COPY["attributes_clear"]}
    return {
        "pages": [
            *describe(address, copy, read),
            *describe(address, {**copy, "pid": child.pid}, {**read, "pid": child.pid}),
        ]
    }


def make_fork_exited(directory: str) -> Described:
    """The same, and the child exits: both become exclusive, and only one is copied."""
    address = map_private(directory, 2)
    fork_reading(address).end()
    copy = {**COPY, "copied": True}
    read = {**FILE, "copied": False, "attributes_set": ["EXCLUSIVE"]}
    return {"pages": describe(address, copy, read)}
