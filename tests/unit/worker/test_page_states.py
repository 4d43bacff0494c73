# SPDX-License-Identifier: Apache-2.0
"""Every row of the truth table of page states, by constructed entries; names and numbers of bits.

An entry's bits are written down here once more, from Documentation/admin-guide/mm/pagemap.rst.
"""

import re
from enum import IntEnum, IntFlag
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cowdaemon.worker import page_states
from cowdaemon.worker.disclosure import SAFE
from cowdaemon.worker.page_states import (
    Attribute,
    EntryLayout,
    Kpageflags,
    PageState,
    classify,
    encode,
    frames,
    is_certainly_private,
    is_contradictory,
    is_present,
)
from cowproto.v1 import pageflags_pb2
from hypothesis import given
from hypothesis import strategies as st

PRESENT = 1 << 63
SWAPPED = 1 << 62
FILE = 1 << 61
GUARD = 1 << 58
UFFD_WP = 1 << 57
EXCLUSIVE = 1 << 56
SOFT_DIRTY = 1 << 55
FRAME = 0x1234

# As Linux 6.18 on x86-64 has them: swap type 31, and what the marker says as its offset.
MARKER_TYPE = 31
GUARD_MARKER = SWAPPED | 4 << 5 | MARKER_TYPE
POISON_MARKER = SWAPPED | 2 << 5 | MARKER_TYPE
UFFD_MARKER = SWAPPED | 1 << 5 | MARKER_TYPE
MIGRATION = SWAPPED | 0x5678 << 5 | 29
SWAP = SWAPPED | 0x5678 << 5 | 1

LAYOUT = EntryLayout(marker_type=MARKER_TYPE)
TRACKED = EntryLayout(marker_type=MARKER_TYPE, has_soft_dirty=True)
UNKNOWN_MARKERS = EntryLayout()

K = Kpageflags
ANON_FLAGS = K.ANON | K.SWAPBACKED | K.MMAP | K.UPTODATE
FILE_FLAGS = K.MMAP | K.UPTODATE | K.LRU
NONE = Attribute(0)

HEADER = Path("/usr/include/linux/kernel-page-flags.h")

# What it is, entry, flags, state, attributes.
ROWS: list[tuple[str, int, int, PageState, Attribute]] = [
    ("frame without information", PRESENT | FRAME, 0, PageState.UNKNOWN, NONE),
    ("hole in memory", PRESENT | FRAME, K.NOPAGE, PageState.UNKNOWN, NONE),
    ("freed: buddy", PRESENT | FRAME, K.BUDDY, PageState.UNKNOWN, NONE),
    ("freed: page table", PRESENT | FRAME, K.PGTABLE | K.MMAP, PageState.UNKNOWN, NONE),
    ("freed: slab", PRESENT | FRAME, K.SLAB, PageState.UNKNOWN, NONE),
    ("freed: slab of 6.18", PRESENT | FRAME, K.SLAB | K.ANON | K.KSM, PageState.UNKNOWN, NONE),
    ("freed: zero and nopage", PRESENT, K.ZERO_PAGE | K.NOPAGE, PageState.UNKNOWN, NONE),
    (
        "freed, exclusive",
        PRESENT | EXCLUSIVE | UFFD_WP,
        K.BUDDY,
        PageState.UNKNOWN,
        Attribute.EXCLUSIVE | Attribute.UFFD_WP,
    ),
    ("guard by bit 58", GUARD, 0, PageState.GUARD, NONE),
    ("guard by bit 58 and swapped", GUARD | SWAPPED | 0x80, 0, PageState.GUARD, NONE),
    ("guard by bit 58 and marker", GUARD | GUARD_MARKER, 0, PageState.GUARD, NONE),
    ("guard by marker", GUARD_MARKER, 0, PageState.GUARD, NONE),
    (
        "guard and uffd-wp in one marker",
        GUARD_MARKER | UFFD_MARKER,
        0,
        PageState.GUARD,
        Attribute.UFFD_WP,
    ),
    ("uffd-wp marker", UFFD_MARKER, 0, PageState.ABSENT, Attribute.UFFD_WP),
    ("uffd-wp marker, bit 57", UFFD_MARKER | UFFD_WP, 0, PageState.ABSENT, Attribute.UFFD_WP),
    ("uffd-wp marker of a file", UFFD_MARKER | FILE, 0, PageState.ABSENT, Attribute.UFFD_WP),
    ("poison marker", POISON_MARKER, 0, PageState.ABSENT, NONE),
    ("zero page", PRESENT | FRAME, K.ZERO_PAGE, PageState.ZERO, NONE),
    ("huge zero page", PRESENT | FILE | FRAME, K.ZERO_PAGE | K.THP, PageState.ZERO, NONE),
    ("zero page that says anon", PRESENT, K.ZERO_PAGE | ANON_FLAGS, PageState.ZERO, NONE),
    ("anonymous", PRESENT | FRAME, ANON_FLAGS, PageState.ANON, NONE),
    (
        "anonymous, exclusive",
        PRESENT | EXCLUSIVE,
        ANON_FLAGS,
        PageState.ANON,
        Attribute.EXCLUSIVE,
    ),
    ("anonymous, merged", PRESENT, ANON_FLAGS | K.KSM, PageState.ANON, NONE),
    ("anonymous, given up", PRESENT, K.ANON | K.MMAP, PageState.ANON, Attribute.LAZYFREE),
    ("anonymous, hugetlb", PRESENT, K.ANON | K.HUGE, PageState.ANON, NONE),
    ("anonymous, bit 61", PRESENT | FILE, ANON_FLAGS, PageState.ANON, NONE),
    ("anonymous, bit 62", PRESENT | SWAPPED, ANON_FLAGS, PageState.ANON, NONE),
    ("anonymous, like a marker", PRESENT | GUARD_MARKER, ANON_FLAGS, PageState.ANON, NONE),
    ("write-protected", PRESENT | UFFD_WP, ANON_FLAGS, PageState.ANON, Attribute.UFFD_WP),
    ("file", PRESENT | FILE | FRAME, FILE_FLAGS, PageState.FILE, NONE),
    (
        "file, exclusive",
        PRESENT | FILE | EXCLUSIVE,
        FILE_FLAGS,
        PageState.FILE,
        Attribute.EXCLUSIVE,
    ),
    ("tmpfs", PRESENT | FILE, FILE_FLAGS | K.SWAPBACKED, PageState.FILE, NONE),
    ("file, bit 62", PRESENT | FILE | SWAPPED, FILE_FLAGS, PageState.FILE, NONE),
    ("migrating page of a file", MIGRATION | FILE, 0, PageState.FILE, NONE),
    ("swapped", SWAP, 0, PageState.ANON_SWAPPED, NONE),
    ("swapped, bit 57", SWAP | UFFD_WP, 0, PageState.ANON_SWAPPED, Attribute.UFFD_WP),
    ("swapped, bit 56", SWAP | EXCLUSIVE, 0, PageState.ANON_SWAPPED, NONE),
    ("swapped, offset like a guard's", SWAPPED | 4 << 5 | 1, 0, PageState.ANON_SWAPPED, NONE),
    ("migrating anonymous page", MIGRATION, 0, PageState.ANON_SWAPPED, NONE),
    ("nothing", 0, 0, PageState.ABSENT, NONE),
    ("nothing, bit 61", FILE, 0, PageState.ABSENT, NONE),
    ("nothing, bit 57", UFFD_WP, 0, PageState.ABSENT, Attribute.UFFD_WP),
    ("nothing, like a marker", GUARD_MARKER & ~SWAPPED, 0, PageState.ABSENT, NONE),
]


def words(*values: int) -> Any:
    return np.array(values, np.uint64)


def classify_one(
    entry: int, flags: int, layout: EntryLayout = LAYOUT
) -> tuple[PageState, Attribute]:
    states, attributes = classify(words(entry), words(flags), layout)
    assert (states.dtype, attributes.dtype) == (np.uint8, np.uint8)
    return PageState(states[0]), Attribute(int(attributes[0]))


@pytest.mark.parametrize(
    ("entry", "flags", "state", "attributes"),
    [row[1:] for row in ROWS],
    ids=[row[0] for row in ROWS],
)
def test_page_is_what_the_table_says(
    entry: int, flags: int, state: PageState, attributes: Attribute
) -> None:
    assert classify_one(entry, flags) == (state, attributes)


def test_every_state_is_in_the_table() -> None:
    assert {row[3] for row in ROWS} == set(PageState)


def test_pages_of_an_array_are_decided_one_by_one() -> None:
    rows = ROWS[::-1]
    states, attributes = classify(
        words(*(row[1] for row in rows)), words(*(row[2] for row in rows)), LAYOUT
    )
    assert states.tolist() == [row[3] for row in rows]
    assert attributes.tolist() == [row[4] for row in rows]


@pytest.mark.parametrize("entry", [GUARD_MARKER, POISON_MARKER, UFFD_MARKER])
def test_marker_of_unknown_type_is_taken_for_a_swapped_page(entry: int) -> None:
    """No better can be said where probing found no marker; GetServerInfo tells that it is so."""
    assert classify_one(entry, 0, UNKNOWN_MARKERS) == (PageState.ANON_SWAPPED, NONE)


def test_guard_bit_needs_no_known_marker() -> None:
    assert classify_one(GUARD_MARKER | GUARD, 0, UNKNOWN_MARKERS)[0] == PageState.GUARD


def test_marker_type_is_the_layouts() -> None:
    layout = EntryLayout(marker_type=1)
    assert classify_one(SWAPPED | 4 << 5 | 1, 0, layout)[0] == PageState.GUARD
    assert classify_one(GUARD_MARKER, 0, layout)[0] == PageState.ANON_SWAPPED


def test_marker_of_type_zero_is_known() -> None:
    assert classify_one(SWAPPED | 4 << 5, 0, EntryLayout(marker_type=0))[0] == PageState.GUARD


@pytest.mark.parametrize("entry", [PRESENT, SWAP, GUARD, GUARD_MARKER, MIGRATION | FILE])
def test_soft_dirty_is_told_only_where_the_kernel_tracks_it(entry: int) -> None:
    assert Attribute.SOFT_DIRTY not in classify_one(entry | SOFT_DIRTY, ANON_FLAGS, LAYOUT)[1]
    assert Attribute.SOFT_DIRTY in classify_one(entry | SOFT_DIRTY, ANON_FLAGS, TRACKED)[1]
    assert Attribute.SOFT_DIRTY not in classify_one(entry, ANON_FLAGS, TRACKED)[1]


@pytest.mark.parametrize("entry", [0, FILE, UFFD_MARKER, POISON_MARKER | UFFD_WP])
def test_soft_dirty_is_not_told_of_what_is_absent(entry: int) -> None:
    state, attributes = classify_one(entry | SOFT_DIRTY, 0, TRACKED)
    assert state == PageState.ABSENT
    assert Attribute.SOFT_DIRTY not in attributes


def decide(entry: int, flags: int) -> PageState:
    """The truth table, read from the top: the first match wins."""
    present, swapped = entry & PRESENT, not entry & PRESENT and entry & SWAPPED
    is_marker = swapped and entry & 31 == MARKER_TYPE
    decided = PageState.ABSENT
    if present and (not flags or flags & (K.NOPAGE | K.SLAB | K.BUDDY | K.PGTABLE)):
        decided = PageState.UNKNOWN
    elif entry & GUARD or (is_marker and entry & 4 << 5):
        decided = PageState.GUARD
    elif is_marker:
        decided = PageState.ABSENT
    elif present and flags & K.ZERO_PAGE:
        decided = PageState.ZERO
    elif present and flags & K.ANON:
        decided = PageState.ANON
    elif present or (swapped and entry & FILE):
        decided = PageState.FILE
    elif swapped:
        decided = PageState.ANON_SWAPPED
    return decided


def or_all(bits: list[int]) -> int:
    return sum(set(bits))


# The kernel sets bit 58 of no page that is present (pte_to_pagemap_entry, fs/proc/task_mmu.c).
ENTRIES = st.lists(
    st.sampled_from([PRESENT, SWAPPED, FILE, UFFD_WP, EXCLUSIVE, SOFT_DIRTY, GUARD])
    | st.integers(0, 8).map(lambda bit: 1 << bit)
).map(lambda bits: or_all([bit for bit in bits if not (PRESENT in bits and bit == GUARD)]))
FLAG_WORDS = st.lists(st.sampled_from(list(Kpageflags))).map(or_all)


@given(st.lists(st.tuples(ENTRIES | st.sampled_from([row[1] for row in ROWS]), FLAG_WORDS)))
def test_first_row_that_matches_wins(pages: list[tuple[int, int]]) -> None:
    entries, flags = words(*(entry for entry, _ in pages)), words(*(flags for _, flags in pages))
    states, attributes = classify(entries, flags, LAYOUT)
    assert states.tolist() == [decide(*page) for page in pages]
    for (entry, word), found in zip(pages, attributes.tolist(), strict=True):
        is_marker = not entry & PRESENT and entry & (SWAPPED | 31) == SWAPPED | MARKER_TYPE
        lazyfree = (
            entry & PRESENT
            and word & K.ANON
            and not word & (K.SWAPBACKED | K.HUGE)
            and decide(entry, word) != PageState.UNKNOWN
        )
        expected = NONE
        expected |= Attribute.EXCLUSIVE if entry & PRESENT and entry & EXCLUSIVE else NONE
        expected |= Attribute.LAZYFREE if lazyfree else NONE
        uffd = entry & UFFD_WP or (is_marker and entry & 1 << 5)
        expected |= Attribute.UFFD_WP if uffd else NONE
        assert found == expected, (hex(entry), hex(word))


# All that the rules look at of flags, and what they do not: a bit of each half, and one beyond.
FLAGS_THAT_MATTER = K.SLAB, K.BUDDY, K.PGTABLE, K.NOPAGE, K.ANON, K.ZERO_PAGE, K.SWAPBACKED, K.HUGE
OTHER_FLAGS = 0, K.MMAP | K.UPTODATE, K.KSM, K.MLOCKED
LOW_BITS = [0, 1, MARKER_TYPE, *(kind << 5 | MARKER_TYPE for kind in range(1, 8)), 4 << 5 | 1]


@pytest.mark.parametrize("layout", [LAYOUT, TRACKED, UNKNOWN_MARKERS, EntryLayout(1, True)])
@pytest.mark.parametrize("low_bits", LOW_BITS)
def test_tables_say_what_the_rules_say(layout: EntryLayout, low_bits: int) -> None:
    """Of everything that an entry and flags may be together. Seen to fail without the fold."""
    chosen = [
        sum(flag for place, flag in enumerate(FLAGS_THAT_MATTER) if number >> place & 1)
        for number in range(1 << len(FLAGS_THAT_MATTER))
    ]
    all_flags = words(*{flags | other for flags in chosen for other in (*OTHER_FLAGS, K.THP)})
    high_bits = np.arange(1 << 9, dtype=np.uint64) << np.uint64(55)
    entries = np.repeat(high_bits | np.uint64(low_bits), len(all_flags))
    flags = np.tile(all_flags, len(high_bits))
    found, said = classify(entries, flags, layout), page_states._judge(entries, flags, layout)
    assert np.array_equal(found, said)
    assert np.array_equal(is_contradictory(entries, flags), page_states._contradict(entries, flags))
    shown = SAFE.apply(entries, flags)
    assert np.array_equal(shown, flags & SAFE._choose(entries, flags))


def test_known_codes_spare_the_second_look() -> None:
    entries, flags = words(*(row[1] for row in ROWS)), words(*(row[2] for row in ROWS))
    codes = encode(entries, flags)
    assert np.array_equal(
        classify(entries, flags, TRACKED, codes), classify(entries, flags, TRACKED)
    )
    assert np.array_equal(is_contradictory(entries, flags, codes), is_contradictory(entries, flags))
    assert np.array_equal(SAFE.apply(entries, flags, codes), SAFE.apply(entries, flags))


@pytest.mark.parametrize(
    ("entry", "flags", "contradictory"),
    [
        pytest.param(PRESENT, ANON_FLAGS, False, id="anonymous"),
        pytest.param(PRESENT | FILE, FILE_FLAGS, False, id="file"),
        pytest.param(PRESENT, K.ZERO_PAGE, False, id="zero page"),
        pytest.param(PRESENT | FILE, K.ZERO_PAGE | K.THP, False, id="huge zero page"),
        pytest.param(PRESENT | FILE, ANON_FLAGS, True, id="file, flags of an anonymous page"),
        pytest.param(PRESENT, FILE_FLAGS, True, id="anonymous, flags of a file's page"),
        pytest.param(PRESENT, 0, True, id="anonymous, no flags"),
        pytest.param(PRESENT, ANON_FLAGS | K.SLAB, True, id="frame became slab"),
        pytest.param(PRESENT | FILE, FILE_FLAGS | K.BUDDY, True, id="frame was freed"),
        pytest.param(PRESENT | FILE, K.PGTABLE, True, id="frame became a page table"),
        pytest.param(PRESENT | FILE, K.NOPAGE, True, id="frame went away"),
        pytest.param(PRESENT, K.ZERO_PAGE | K.BUDDY, True, id="zero page that was freed"),
        pytest.param(MIGRATION | FILE, 0, True, id="migrating page of a file"),
        pytest.param(MIGRATION, 0, False, id="migrating anonymous page"),
        pytest.param(SWAP, 0, False, id="swapped"),
        pytest.param(FILE, 0, False, id="bit 61 alone"),
        pytest.param(0, 0, False, id="nothing"),
    ],
)
def test_contradiction_between_entry_and_flags(entry: int, flags: int, contradictory: bool) -> None:
    assert is_contradictory(words(entry), words(flags)).tolist() == [contradictory]


def test_certainly_private_takes_presence_exclusiveness_and_no_file() -> None:
    entries = [0, PRESENT, EXCLUSIVE, PRESENT | EXCLUSIVE, PRESENT | EXCLUSIVE | FILE]
    assert is_certainly_private(words(*entries)).tolist() == [False, False, False, True, False]


@given(st.integers(0, 2**64 - 1))
def test_parts_of_an_entry(entry: int) -> None:
    assert frames(words(entry)).tolist() == [entry % 2**55]
    assert is_present(words(entry)).tolist() == [entry >= PRESENT]


@pytest.mark.parametrize(
    ("ours", "contract", "prefix"),
    [
        (PageState, pageflags_pb2.PageState, "PAGE_STATE_"),
        (Attribute, pageflags_pb2.PageAttribute, "PAGE_ATTRIBUTE_"),
    ],
)
def test_values_are_those_of_the_contract(
    ours: type[IntEnum] | type[IntFlag], contract: Any, prefix: str
) -> None:
    named = {f"{prefix}{member.name}": member.value for member in ours}
    assert {f"{prefix}UNSPECIFIED": 0, **named} == dict(contract.items())
    assert all(0 < member.value < 128 for member in ours)  # one byte each, packed


def test_kpageflags_are_the_headers() -> None:
    if not HEADER.exists():
        pytest.skip(f"{HEADER} is missing: apt install linux-libc-dev")
    defined = re.findall(r"^#define KPF_(\w+)\s+(\d+)$", HEADER.read_text(), re.MULTILINE)
    bits = {name: 1 << int(bit) for name, bit in defined}
    exported = {flag.name: flag.value for flag in Kpageflags if flag < 1 << 32}
    assert exported.items() <= bits.items()


def test_kernels_own_kpageflags_are_those_of_its_page_types_tool() -> None:
    """They are in no exported header: include/linux/kernel-page-flags.h."""
    own = {flag.name: flag.value for flag in Kpageflags if flag >= 1 << 32}
    assert own == {"MLOCKED": 1 << 33, "OWNER_2": 1 << 34}
