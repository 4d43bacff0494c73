# SPDX-License-Identifier: Apache-2.0
"""What an entry of pagemap says without its frame number, bit by bit."""

import struct

import pytest
from cowd import PageAttributes, PageState
from cowd._pagemap import (
    MAYBE_ZERO,
    STATES,
    STATES_OF_ANONYMOUS_MEMORY,
    attributes_of,
    has_any,
    high_bytes,
)

SOFT_DIRTY, EXCLUSIVE, UFFD_WP, GUARD = 1 << 55, 1 << 56, 1 << 57, 1 << 58
FILE, SWAPPED, PRESENT = 1 << 61, 1 << 62, 1 << 63
FRAME = 0x7FFFFFFFFFFFFF
"""What CAP_SYS_ADMIN sees in the lower bits: it must not matter."""

ENTRIES = [
    # entry, state, state in anonymous memory of an older kernel, may be the page of zeros
    (0, "ABSENT", "ABSENT", False),
    (PRESENT | FILE, "FILE", "ZERO", True),
    (PRESENT | FILE | EXCLUSIVE, "FILE", "ZERO", False),
    (PRESENT, "ANON", "UNKNOWN", True),
    (PRESENT | UFFD_WP, "ANON", "UNKNOWN", True),
    (PRESENT | EXCLUSIVE, "ANON", "ANON", False),
    (PRESENT | EXCLUSIVE | UFFD_WP, "ANON", "ANON", False),
    (SWAPPED, "ANON_SWAPPED", "ANON_SWAPPED", False),
    (SWAPPED | FILE, "FILE", "FILE", False),
    (SWAPPED | UFFD_WP, "UNKNOWN", "UNKNOWN", False),
    (SWAPPED | GUARD, "GUARD", "GUARD", False),
    (GUARD, "GUARD", "GUARD", False),
]


def pack(*entries):
    return struct.pack(f"={len(entries)}Q", *entries)


@pytest.mark.parametrize("frame", [0, FRAME])
@pytest.mark.parametrize(("entry", "state", "anonymous", "maybe_zero"), ENTRIES)
def test_state(entry, state, anonymous, maybe_zero, frame):
    high = high_bytes(pack(entry | frame))
    assert PageState(high.translate(STATES)[0]).name == state
    assert PageState(high.translate(STATES_OF_ANONYMOUS_MEMORY)[0]).name == anonymous
    assert has_any(high, MAYBE_ZERO) is maybe_zero


@pytest.mark.parametrize("frame", [0, FRAME])
@pytest.mark.parametrize(
    ("entry", "attributes"),
    [
        (0, 0),
        (PRESENT | EXCLUSIVE, PageAttributes.EXCLUSIVE),
        (SWAPPED | EXCLUSIVE, 0),
        (PRESENT | UFFD_WP, PageAttributes.UFFD_WP),
        (SWAPPED | UFFD_WP, PageAttributes.UFFD_WP),
        (SOFT_DIRTY, 0),
        (SOFT_DIRTY | UFFD_WP, PageAttributes.UFFD_WP),
        (SOFT_DIRTY | SWAPPED, PageAttributes.SOFT_DIRTY),
        (SOFT_DIRTY | GUARD, PageAttributes.SOFT_DIRTY),
        (SOFT_DIRTY | PRESENT | FILE, PageAttributes.SOFT_DIRTY),
        (
            PRESENT | SOFT_DIRTY | EXCLUSIVE,
            PageAttributes.SOFT_DIRTY | PageAttributes.EXCLUSIVE,
        ),
    ],
)
def test_attributes(entry, attributes, frame):
    assert attributes_of(pack(entry | frame))[0] == attributes


def test_every_page_has_its_own_place():
    entries = pack(PRESENT | EXCLUSIVE, SOFT_DIRTY, PRESENT | FILE | SOFT_DIRTY, SWAPPED)
    assert [PageState(state).name for state in high_bytes(entries).translate(STATES)] == [
        "ANON",
        "ABSENT",
        "FILE",
        "ANON_SWAPPED",
    ]
    assert list(attributes_of(entries)) == [1, 0, 2, 0]


def test_no_entries():
    assert (high_bytes(b""), attributes_of(b"")) == (b"", b"")
    assert not has_any(b"", MAYBE_ZERO)
