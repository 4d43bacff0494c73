# SPDX-License-Identifier: Apache-2.0
"""A terabyte of which next to nothing is there.

Standard library only; runs as an unprivileged user.
"""

import random

from kinds.memory import (
    COPY,
    GUARD,
    PAGE_BYTES,
    PRIVATE_ANONYMOUS,
    ZERO,
    Described,
    UnavailableError,
    describe,
    install_guards,
    map_pages,
    read_page,
    write_page,
)
from kinds.userfault import FEATURE_WP_UNPOPULATED, MARKER, Userfault

MAP_NORESERVE = 0x4000  # asm-generic/mman-common.h
RESERVED_PAGES = (1 << 40) // PAGE_BYTES
CLUSTERS = 20


def reserve() -> int:
    """Map memory that nothing is set aside for."""
    try:
        return map_pages(RESERVED_PAGES, PRIVATE_ANONYMOUS | MAP_NORESERVE)
    except OSError as error:
        raise UnavailableError(f"no room for {RESERVED_PAGES} pages: {error}") from error


def make_reserved() -> Described:
    """Write, read and guard pages here and there, the first and the last among them."""
    address = reserve()
    steps = random.Random(0)
    places = sorted({0, RESERVED_PAGES - 4, *steps.sample(range(RESERVED_PAGES // 8), CLUSTERS)})
    pages = []
    for number, page in enumerate(places):
        write_page(address, page)
        read_page(address, page + 1)
        write_page(address, page + 3)
        made = [COPY, ZERO]
        if number % 3 == 0:
            install_guards(address + (page + 2) * PAGE_BYTES, 1)
            made.append(GUARD)
        pages += describe(address + page * PAGE_BYTES, *made)
        pages += describe(address + (page + 3) * PAGE_BYTES, COPY)
    return {"pages": pages, "count": RESERVED_PAGES}


def make_reserved_markers() -> Described:
    """Have markers of userfaultfd alone, far apart."""
    userfault = Userfault(FEATURE_WP_UNPOPULATED)
    address = reserve()
    pages = []
    for page in (0, RESERVED_PAGES // 3, RESERVED_PAGES - 2):
        userfault.register(address + page * PAGE_BYTES, 2)
        userfault.write_protect(address + page * PAGE_BYTES, 1)
        pages += describe(address + page * PAGE_BYTES, MARKER)
    return {"pages": pages, "count": RESERVED_PAGES}


def make_reserved_alternating(count: str) -> Described:
    """Write every second page, so many of them, in the middle."""
    address = reserve()
    first = RESERVED_PAGES // 2
    for page in range(first, first + 2 * int(count), 2):
        write_page(address, page)
    return {
        "pages": describe(address + first * PAGE_BYTES, COPY),
        "start": address,
        "count": RESERVED_PAGES,
    }


def make_reserved_empty() -> Described:
    """Touch nothing."""
    return {"pages": describe(reserve(), {"state": "ABSENT"}), "count": RESERVED_PAGES}
