# SPDX-License-Identifier: Apache-2.0
"""Pages of hugetlb, which an administrator sets aside: private, shared, of files, after a fork.

Standard library only; runs as an unprivileged user. There must be enough of them free
(/proc/sys/vm/nr_hugepages), or UnavailableError.
"""

import errno
import mmap
import os

from kinds.memory import (
    ABSENT,
    COPY,
    FILE,
    HUGE_PAGES,
    MAP_HUGETLB,
    PRIVATE_ANONYMOUS,
    SHARED_COPY,
    Described,
    UnavailableError,
    describe,
    fork_waiting,
    map_pages,
    read_page,
    write_page,
)

MFD_HUGETLB = 4
HUGE_COPY: Described = {
    **COPY,
    "flags_set": ["uptodate", "mmap", "anonymous", "huge"],
    "flags_clear": ["ksm", "thp", "zero_page", "swapbacked"],
}
HUGE_SHARED_COPY: Described = {
    **HUGE_COPY,
    "attributes_set": [],
    "attributes_clear": SHARED_COPY["attributes_clear"],
}
HUGE_FILE: Described = {
    **FILE,
    "flags_set": [*FILE["flags_set"], "huge"],
    "flags_clear": ["anonymous", "ksm", "zero_page", "thp"],
}


def map_hugetlb(count: int, flags: int, descriptor: int = -1) -> int:
    """Map `count` huge pages."""
    try:
        return map_pages(count * HUGE_PAGES, flags, descriptor)
    except OSError as error:
        if error.errno != errno.ENOMEM:
            raise
        raise UnavailableError("too few hugetlb pages: raise vm.nr_hugepages") from error


def open_hugetlb(count: int) -> int:
    """Return a descriptor of a file of huge pages, none of them there yet."""
    descriptor = os.memfd_create("subject", MFD_HUGETLB)
    os.ftruncate(descriptor, count * HUGE_PAGES * os.sysconf("SC_PAGE_SIZE"))
    return descriptor


def describe_huge(address: int, *pages: Described, **options: object) -> list[Described]:
    """Return the pages that huge pages consist of."""
    every = [page for page in pages for _ in range(HUGE_PAGES)]
    return describe(address, *every, **options)


def make_hugetlb() -> Described:
    """Write to anonymous huge memory, read some, and leave a huge page alone.

    Nobody has these pages but us, so reading makes one that is ours: there is no huge page of
    zeros here.
    """
    address = map_hugetlb(3, PRIVATE_ANONYMOUS | MAP_HUGETLB)
    write_page(address, 5)
    read_page(address, HUGE_PAGES)
    return {"pages": describe_huge(address, HUGE_COPY, HUGE_COPY, ABSENT)}


def make_hugetlb_file() -> Described:
    """Map a file of huge pages, private: one written, one read, one that is not there.

    The file has the first two. The fourth is read, too, but the file does not have it: what the
    kernel gives for reading is a copy of nothing, and ours.
    """
    descriptor = open_hugetlb(4)
    shared = map_hugetlb(4, mmap.MAP_SHARED, descriptor)
    write_page(shared, 0)
    write_page(shared, HUGE_PAGES)
    address = map_hugetlb(4, mmap.MAP_PRIVATE, descriptor)
    write_page(address, 5)
    read_page(address, HUGE_PAGES)
    read_page(address, 3 * HUGE_PAGES)
    return {
        "pages": [
            *describe_huge(
                address,
                {**HUGE_COPY, "copied": True},
                {**HUGE_FILE, "copied": False},
                {**ABSENT, "copied": False},
                {**HUGE_COPY, "copied": True},
            ),
            *describe_huge(shared, HUGE_FILE, HUGE_FILE, ABSENT, ABSENT, mapping="SHARED_FILE"),
        ]
    }


def make_hugetlb_shared() -> Described:
    """Write to shared huge memory without a name."""
    address = map_hugetlb(2, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | MAP_HUGETLB)
    write_page(address, 5)
    return {"pages": describe_huge(address, HUGE_FILE, ABSENT, mapping="SHARED_FILE")}


def make_hugetlb_fork() -> Described:
    """Share private huge pages with a child; the child copies the second one."""
    address = map_hugetlb(2, PRIVATE_ANONYMOUS | MAP_HUGETLB)
    write_page(address, 0)
    write_page(address, HUGE_PAGES)
    child = fork_waiting(lambda: write_page(address, HUGE_PAGES))
    either = {**HUGE_COPY, "attributes_set": []}
    return {
        "pages": [
            *describe_huge(address, HUGE_SHARED_COPY, either),
            *describe_huge(
                address, {**HUGE_SHARED_COPY, "pid": child}, {**HUGE_COPY, "pid": child}
            ),
        ]
    }
