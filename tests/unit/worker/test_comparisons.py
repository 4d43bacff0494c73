# SPDX-License-Identifier: Apache-2.0
"""Every row of what two processes may have at one address, by constructed entries and flags.

The bits are written down here once more, from Documentation/admin-guide/mm/pagemap.rst and
include/uapi/linux/kernel-page-flags.h.
"""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from cowdaemon.worker.comparisons import (
    Alike,
    Comparison,
    Copier,
    add_up,
    close,
    compare,
    find_comparisons,
    find_copiers,
    find_moved,
    is_migrating,
    is_open,
    tell_unsettled,
)
from cowdaemon.worker.page_states import Bytes, PageState
from cowproto.v1 import pageflags_pb2
from hypothesis import given
from hypothesis import strategies as st

PRESENT, SWAPPED, FILE_BIT, GUARD_BIT = 1 << 63, 1 << 62, 1 << 61, 1 << 58
UFFD_WP, EXCLUSIVE_BIT, SOFT_DIRTY = 1 << 57, 1 << 56, 1 << 55
ABSENT, FILE, ANON, ANON_SWAPPED, ZERO, GUARD, UNKNOWN = PageState
SAME, DIFFERENT, ONLY_FIRST, ONLY_SECOND, NEITHER, UNTOLD = Comparison
NOBODY, FIRST, SECOND, BOTH = Copier

HERE: dict[PageState, int] = {
    ABSENT: 0,
    FILE: PRESENT | FILE_BIT | 0x11,
    ANON: PRESENT | 0x12,
    ANON_SWAPPED: SWAPPED | 0x13 << 5 | 1,
    ZERO: PRESENT | 0x1,
    GUARD: GUARD_BIT,
    UNKNOWN: PRESENT | 0x14,
}
"""The entry of a page in each state."""
THERE: dict[PageState, int] = {
    **HERE,
    FILE: PRESENT | FILE_BIT | 0x21,
    ANON: PRESENT | 0x22,
    ANON_SWAPPED: SWAPPED | 0x23 << 5 | 1,
    UNKNOWN: PRESENT | 0x24,
}
"""The same, in another process that shares nothing with the first."""
NO_PAGES = {ABSENT, ZERO, GUARD}
PAGES = {FILE, ANON, ANON_SWAPPED, UNKNOWN}

OPEN = "open"
UNSHARED: dict[tuple[PageState, PageState], object] = {
    **{(state, other): (NEITHER, NOBODY) for state in NO_PAGES for other in NO_PAGES},
    **{(state, other): (ONLY_FIRST, NOBODY) for state in PAGES for other in NO_PAGES},
    **{(state, other): (ONLY_SECOND, NOBODY) for state in NO_PAGES for other in PAGES},
    (FILE, FILE): (DIFFERENT, NOBODY),
    (FILE, ANON): (DIFFERENT, SECOND),
    (FILE, ANON_SWAPPED): (DIFFERENT, SECOND),
    (ANON, FILE): (DIFFERENT, FIRST),
    (ANON_SWAPPED, FILE): (DIFFERENT, FIRST),
    (ANON_SWAPPED, ANON_SWAPPED): (DIFFERENT, NOBODY),
    (ANON, ANON): OPEN,
    (ANON, ANON_SWAPPED): OPEN,
    (ANON_SWAPPED, ANON): OPEN,
    **{(UNKNOWN, other): (UNTOLD, NOBODY) for other in PageState},
    **{(state, UNKNOWN): (UNTOLD, NOBODY) for state in PageState},
}
"""What is said of two pages of which none is the other's."""

ANON_FLAG, SWAPCACHE, HEAD, TAIL, HUGE, KSM, THP, ALONE = (
    1 << bit for bit in (12, 13, 15, 16, 17, 21, 22, 34)
)


def words(*values: int) -> Any:
    return np.array(values, np.uint64)


def states_of(*values: int) -> Bytes:
    return np.array(values, np.uint8)


def compare_one(
    entry: int, other_entry: int, state: int, other_state: int, with_copiers: bool = True
) -> object:
    """Return what is said of one page, or that it is open."""
    sides = words(entry), words(other_entry), states_of(state), states_of(other_state)
    findings = compare(*sides, with_copiers)
    if is_open(findings)[0]:
        return OPEN
    return tell(findings)


def tell(findings: Bytes) -> tuple[int, int]:
    [comparison], [copier] = find_comparisons(findings), find_copiers(findings)
    return Comparison(comparison), Copier(copier)


def close_one(
    flags: int, other_flags: int, with_copiers: bool = True, entry_bits: int = EXCLUSIVE_BIT
) -> object:
    """Return what is said of pages that are present where they have flags."""
    entries = [
        HERE[ANON] | entry_bits if each else HERE[ANON_SWAPPED] for each in (flags, other_flags)
    ]
    sides = words(entries[0]), words(entries[1]), words(flags), words(other_flags)
    return tell(close(*sides, with_copiers))


def test_values_are_those_of_the_contract() -> None:
    for ours, theirs in (
        (Comparison, pageflags_pb2.PageComparison),
        (Copier, pageflags_pb2.PageCopier),
    ):
        prefix = {Comparison: "PAGE_COMPARISON_", Copier: "PAGE_COPIER_"}[ours]
        named = {f"{prefix}{each.name}": each.value for each in ours}
        assert named.items() <= dict(theirs.items()).items()
        assert len(theirs.items()) - len(named) == (ours is Comparison)  # its UNSPECIFIED


@pytest.mark.parametrize("state", PageState)
@pytest.mark.parametrize("other_state", PageState)
def test_pages_of_each_its_own(state: PageState, other_state: PageState) -> None:
    told = compare_one(HERE[state], THERE[other_state], state, other_state)
    assert told == UNSHARED[state, other_state]


@pytest.mark.parametrize("state", PageState)
@pytest.mark.parametrize("other_state", PageState)
def test_flags_are_for_what_is_swapped_if_nobody_asks_who_copied(
    state: PageState, other_state: PageState
) -> None:
    """All else is told as it would be. Seen to fail with the table of who asks."""
    entries = HERE[state], THERE[other_state]
    due = compare_one(*entries, state, other_state)
    if (state, other_state) == (ANON, ANON):
        due = DIFFERENT, NOBODY
    elif isinstance(due, tuple):
        due = due[0], NOBODY
    assert compare_one(*entries, state, other_state, with_copiers=False) == due


@pytest.mark.parametrize("state", PageState)
@pytest.mark.parametrize("with_copiers", [False, True])
def test_one_page_of_both(state: PageState, with_copiers: bool) -> None:
    """One frame, or one swap entry; but no page stays none, though all share the page of zeros."""
    due = (NEITHER if state in NO_PAGES else SAME), NOBODY
    assert compare_one(HERE[state], HERE[state], state, state, with_copiers) == due


@pytest.mark.parametrize("bits", [EXCLUSIVE_BIT, SOFT_DIRTY, UFFD_WP, FILE_BIT])
def test_what_makes_no_other_page(bits: int) -> None:
    """Seen to fail with entries compared whole."""
    for state in (FILE, ANON, ANON_SWAPPED):
        assert compare_one(HERE[state] | bits, HERE[state] & ~FILE_BIT, state, state) == (
            SAME,
            NOBODY,
        )


def test_frame_and_swap_entry_of_one_number_are_two_pages() -> None:
    """Seen to fail with frame numbers compared alone."""
    entry, other_entry = PRESENT | 0x123, SWAPPED | 0x123
    assert compare_one(entry, other_entry, ANON, ANON_SWAPPED) == OPEN
    assert compare_one(other_entry, entry, ANON_SWAPPED, ANON) == OPEN


def test_same_offset_on_two_swap_devices() -> None:
    told = compare_one(SWAPPED | 7 << 5 | 1, SWAPPED | 7 << 5 | 2, ANON_SWAPPED, ANON_SWAPPED)
    assert told == (DIFFERENT, NOBODY)


@pytest.mark.parametrize(
    ("flags", "other_flags", "due"),
    [
        (ANON_FLAG | ALONE, ANON_FLAG, (DIFFERENT, FIRST)),
        (ANON_FLAG, ANON_FLAG | ALONE, (DIFFERENT, SECOND)),
        (ANON_FLAG | ALONE, ANON_FLAG | ALONE, (DIFFERENT, BOTH)),
        (ANON_FLAG, ANON_FLAG, (DIFFERENT, NOBODY)),
        (ANON_FLAG | SWAPCACHE, ANON_FLAG | SWAPCACHE | ALONE, (DIFFERENT, SECOND)),
        # Of a large folio the flag is the head's.
        (ANON_FLAG | ALONE | TAIL, ANON_FLAG, (DIFFERENT, NOBODY)),
        (ANON_FLAG | ALONE | TAIL, ANON_FLAG | ALONE | HEAD, (DIFFERENT, NOBODY)),
        # It is no copy, so the small page is.
        (ANON_FLAG | HEAD, ANON_FLAG | ALONE, (DIFFERENT, SECOND)),
        (ANON_FLAG | ALONE, ANON_FLAG | ALONE | TAIL, (DIFFERENT, FIRST)),
        # But hugetlb's are whole.
        (ANON_FLAG | HUGE | TAIL, ANON_FLAG | ALONE | HUGE | HEAD, (DIFFERENT, SECOND)),
        # A merged page is nobody's.
        (ANON_FLAG | ALONE, ANON_FLAG | KSM, (DIFFERENT, NOBODY)),
        (ANON_FLAG | KSM, ANON_FLAG | ALONE, (DIFFERENT, NOBODY)),
        # A frame that is no anonymous page's now says nothing.
        (ALONE, ANON_FLAG, (DIFFERENT, NOBODY)),
        # One is swapped out.
        (ANON_FLAG | ALONE, 0, (DIFFERENT, NOBODY)),
        (0, ANON_FLAG | ALONE, (DIFFERENT, NOBODY)),
        (ANON_FLAG | SWAPCACHE, 0, (UNTOLD, NOBODY)),
        (0, ANON_FLAG | SWAPCACHE | ALONE, (UNTOLD, NOBODY)),
    ],
)
def test_what_flags_decide(flags: int, other_flags: int, due: tuple[int, int]) -> None:
    assert close_one(flags, other_flags) == due
    assert close_one(flags, other_flags, with_copiers=False) == (due[0], NOBODY)


@pytest.mark.parametrize("cached", [0, SWAPCACHE])
@pytest.mark.parametrize(("entry_bits", "flags"), [(0, 0), (EXCLUSIVE_BIT, THP)])
def test_swap_cache_is_not_told_of_pages_that_others_may_share(
    cached: int, entry_bits: int, flags: int
) -> None:
    """They move it. Seen to fail with all pages taken for private, and with huge ones."""
    flags |= ANON_FLAG | cached
    assert close_one(flags, 0, entry_bits=entry_bits) == (UNTOLD, NOBODY)
    assert close_one(0, flags, entry_bits=entry_bits) == (UNTOLD, NOBODY)


@pytest.mark.parametrize(
    ("entry", "again", "moved"),
    [
        (HERE[ANON], HERE[ANON], False),
        (HERE[ANON], HERE[ANON] | EXCLUSIVE_BIT | SOFT_DIRTY | UFFD_WP, False),
        (HERE[ANON], THERE[ANON], True),
        (HERE[ANON], HERE[ANON] | FILE_BIT, True),
        (HERE[ANON], 0, True),
        (0, HERE[ANON], True),
        (0, GUARD_BIT, True),
        (HERE[ANON_SWAPPED], THERE[ANON_SWAPPED], True),
        (PRESENT | 0x12, SWAPPED | 0x12, True),
        (HERE[FILE], HERE[FILE], False),
    ],
)
def test_what_counts_as_moved(entry: int, again: int, moved: bool) -> None:
    """Not what changes while the page stays."""
    assert find_moved(words(entry), words(again)).tolist() == [moved]


def test_page_of_a_file_that_is_being_migrated() -> None:
    """A swap entry of a file's page; others are of pages that are swapped out, or present."""
    entries = SWAPPED | FILE_BIT | 0x12, HERE[ANON_SWAPPED], HERE[FILE], 0
    assert is_migrating(words(*entries)).tolist() == [True, False, False, False]


def test_page_that_never_settled_is_unknown_on_the_side_that_moved() -> None:
    entries, other_entries = words(HERE[ANON], HERE[FILE]), words(HERE[ANON], THERE[ANON])
    findings = compare(entries, other_entries, *[states_of(ANON, FILE)] * 2, with_copiers=True)
    states, other_states = states_of(ANON, FILE), states_of(ANON, ANON)
    moved, other_moved = np.array([False, True]), np.array([False, False])
    tell_unsettled(findings, states, other_states, moved, other_moved)
    assert find_comparisons(findings).tolist() == [SAME, UNTOLD]
    assert find_copiers(findings).tolist() == [NOBODY, NOBODY]
    assert states.tolist() == [ANON, UNKNOWN]
    assert other_states.tolist() == [ANON, ANON]


found = st.builds(
    lambda comparison, copier: comparison | copier << 3, *map(st.sampled_from, (Comparison, Copier))
)
pages = st.tuples(found, st.sampled_from(PageState), st.sampled_from(PageState))


@given(st.lists(pages), st.integers(0, 1 << 40))
def test_totals_are_what_the_lists_count(listed: list[tuple[int, int, int]], others: int) -> None:
    """Seen to fail with two of the four parts of a code laid upon each other."""
    columns = [states_of(*(page[number] for page in listed)) for number in range(3)]
    due = Counter(
        (found & 7, state, other_state, found >> 3) for found, state, other_state in listed
    )
    due[NEITHER, ABSENT, ABSENT, NOBODY] += others
    totals = add_up(*columns, unlisted_page_count=others)
    assert {each[:-1]: each.page_count for each in totals} == {
        alike: count for alike, count in due.items() if count
    }
    assert all(isinstance(each, Alike) and each.page_count for each in totals)
