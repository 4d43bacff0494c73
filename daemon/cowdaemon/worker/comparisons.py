# SPDX-License-Identifier: Apache-2.0
"""What two processes have at the same addresses, from what is known of each. Pure, on whole arrays.

Arrays are one-dimensional with one element a page: entries of pagemap and flags of kpageflags of
uint64, states (PageState) of uint8. What is found of a page is one byte: a comparison, who made the
page, and which of the two is open until the flags of both frames are known.
"""

from enum import IntEnum
from typing import Final, NamedTuple

import numpy as np

from cowdaemon.worker.page_states import (
    Bytes,
    Kpageflags,
    Mask,
    PageState,
    Words,
    is_certainly_private,
)

__all__ = [
    "Alike",
    "Comparison",
    "Copier",
    "add_up",
    "close",
    "compare",
    "find_comparisons",
    "find_copiers",
    "find_copies",
    "find_moved",
    "is_migrating",
    "is_open",
    "tell_unsettled",
]


class Comparison(IntEnum):
    """cowd.v1.PageComparison."""

    SAME = 1
    DIFFERENT = 2
    ONLY_FIRST = 3
    ONLY_SECOND = 4
    NEITHER = 5
    UNKNOWN = 6


class Copier(IntEnum):
    """cowd.v1.PageCopier."""

    UNSPECIFIED = 0
    FIRST = 1
    SECOND = 2
    BOTH = 3


class Alike(NamedTuple):
    """How many pages are alike in all of this; see cowd.v1.ComparedPages."""

    comparison: int
    state: int
    other_state: int
    copied_by: int
    page_count: int


# Bits of a pagemap entry (Documentation/admin-guide/mm/pagemap.rst).
_PRESENT: Final = np.uint64(1 << 63)
_SWAPPED: Final = np.uint64(1 << 62)
_FILE: Final = np.uint64(1 << 61)
_PLACE: Final = np.uint64((1 << 55) - 1) | _PRESENT | _SWAPPED
"""Which frame, or which swap entry."""
_TRACKED: Final = np.uint64(7 << 55)
"""Soft-dirty, exclusive, write-protected: they change while the page stays."""

_ANON: Final = np.uint64(Kpageflags.ANON)
_SWAPCACHE: Final = np.uint64(Kpageflags.SWAPCACHE)
_THP: Final = np.uint64(Kpageflags.THP)
_EXCLUSIVE: Final = np.uint64(Kpageflags.OWNER_2)
_LARGE: Final = np.uint64(Kpageflags.COMPOUND_HEAD | Kpageflags.COMPOUND_TAIL)
_HUGE: Final = np.uint64(Kpageflags.HUGE)
_KSM: Final = np.uint64(Kpageflags.KSM)

# A finding: three bits of Comparison, two of Copier, and for each a bit if it is up to the flags.
_COPIER_SHIFT: Final = 3
_COMPARISON_MASK: Final = 7
_COPIER_MASK: Final = 3
_COPIER_OPEN: Final = 64
_COMPARISON_OPEN: Final = 128
_STATE_SHIFT: Final = 3
_STATES: Final = 1 << _STATE_SHIFT
_CODES: Final = 1 << 5 + 2 * _STATE_SHIFT
"""A finding that is not open, and the two states."""

_NO_PAGE: Final = (PageState.ABSENT, PageState.ZERO, PageState.GUARD)
_ANONYMOUS: Final = (PageState.ANON, PageState.ANON_SWAPPED)


def compare(
    entries: Words, other_entries: Words, states: Bytes, other_states: Bytes, with_copiers: bool
) -> Bytes:
    """Return a finding of every page; some may be open.

    Args:
        entries: of pagemap, of the first process.
        other_entries: of the second.
        states: what the pages are, in the first process.
        other_states: in the second.
        with_copiers: whether to find who made a page: then more are open.
    """
    pairs = states << _STATE_SHIFT
    pairs |= other_states
    is_one = ((entries ^ other_entries) & _PLACE) == 0
    pairs |= is_one.view(np.uint8) << 2 * _STATE_SHIFT
    return (_FINDINGS if with_copiers else _FINDINGS_WITHOUT_COPIERS).take(pairs)


def is_open(findings: Bytes) -> Mask:
    """Return where the flags of both frames decide."""
    mask: Mask = findings >= _COPIER_OPEN
    return mask


def close(
    entries: Words, other_entries: Words, flags: Words, other_flags: Words, with_copiers: bool
) -> Bytes:
    """Return the findings of pages that were open.

    Each process has an anonymous page there. Where one of the two is swapped out, its flags are 0,
    and the other page may be what it was: it is, as long as the swap cache has both. Whether that
    has a page which is not certainly private is moved by others, and told to nobody.

    Of two that are present, whoever alone may write to his made it. Of a fork, that is a copy, and
    who has not written shares what he has, or shared it when he last looked at it. The flag is kept
    for each small page; of a large folio kpageflags shows the head's. But a large folio is no copy:
    the kernel copies for a fork page by page, from Linux 5.8 on (commit 3917c83281e5 ("thp: change
    CoW semantics for anon-THP")), so that the small page beside it is. A merged page (KSM) is
    nobody's, whoever wrote to it.

    Args:
        entries: of pagemap, of the first process.
        other_entries: of the second.
        flags: of kpageflags, of the first process; 0 where a page is swapped out.
        other_flags: of the second.
        with_copiers: whether to find who made a page, as bit 34 says who may write to it.
    """
    is_swapped = (flags == 0) | (other_flags == 0)
    may_be_one = _may_be_in_cache(entries, flags) | _may_be_in_cache(other_entries, other_flags)
    findings = np.full(len(flags), Comparison.DIFFERENT, np.uint8)
    findings[is_swapped & may_be_one] = Comparison.UNKNOWN
    if with_copiers:
        is_known = ~is_swapped & _may_be_copied(flags) & _may_be_copied(other_flags)
        copiers = _is_alone(flags) * np.uint8(Copier.FIRST)
        copiers |= _is_alone(other_flags) * np.uint8(Copier.SECOND)
        findings |= (copiers * is_known) << _COPIER_SHIFT
    return findings


def _may_be_in_cache(entries: Words, flags: Words) -> Mask:
    """Return where a present page is in the swap cache, or where nobody is told: see disclosure."""
    may_be: Mask = (flags & (_SWAPCACHE | _THP)) != 0
    may_be |= ~is_certainly_private(entries)
    may_be &= flags != 0
    return may_be


def _may_be_copied(flags: Words) -> Mask:
    may_be: Mask = (flags & (_ANON | _KSM)) == _ANON
    return may_be


def _is_alone(flags: Words) -> Mask:
    """Return where one process alone may write to a page, for certain."""
    is_large = ((flags & _LARGE) != 0) & ((flags & _HUGE) == 0)
    is_alone: Mask = ((flags & _EXCLUSIVE) != 0) & ~is_large
    return is_alone


def find_moved(entries: Words, again: Words) -> Mask:
    """Return where a page did not stay what it was between two looks at its entry."""
    moved: Mask = ((entries ^ again) & ~_TRACKED) != 0
    return moved


def find_copies(entries: Words, other_entries: Words) -> Mask:
    """Return where each process has an anonymous page of its own, or one of zeros; both present."""
    are_two: Mask = ((entries ^ other_entries) & _PLACE) != 0
    are_two &= (entries & other_entries & _PRESENT) != 0
    are_two &= ((entries | other_entries) & _FILE) == 0
    return are_two


def is_migrating(entries: Words) -> Mask:
    """Return where a file's page is being migrated: such an entry is gone a moment later."""
    mask: Mask = (entries & (_PRESENT | _SWAPPED | _FILE)) == (_SWAPPED | _FILE)
    return mask


def tell_unsettled(
    findings: Bytes, states: Bytes, other_states: Bytes, moved: Mask, other_moved: Mask
) -> None:
    """Make pages that never settled unknown, in place."""
    findings[moved | other_moved] = Comparison.UNKNOWN
    states[moved] = PageState.UNKNOWN
    other_states[other_moved] = PageState.UNKNOWN


def find_comparisons(findings: Bytes) -> Bytes:
    """Return the comparison (Comparison) of every page."""
    comparisons: Bytes = findings & np.uint8(_COMPARISON_MASK)
    return comparisons


def find_copiers(findings: Bytes) -> Bytes:
    """Return who made the page (Copier), of every page."""
    copiers: Bytes = findings >> np.uint8(_COPIER_SHIFT) & np.uint8(_COPIER_MASK)
    return copiers


def add_up(
    findings: Bytes, states: Bytes, other_states: Bytes, unlisted_page_count: int
) -> list[Alike]:
    """Return how many pages there are of each sort.

    Args:
        findings: of pages that are listed; none is open.
        states: what these are, in the first process.
        other_states: in the second.
        unlisted_page_count: how many more there are, which are absent in both processes.
    """
    codes = findings.astype(np.uint16)
    codes <<= _STATE_SHIFT
    codes |= states
    codes <<= _STATE_SHIFT
    codes |= other_states
    counts = np.bincount(codes, minlength=_CODES)
    counts[_ABSENT_IN_BOTH] += unlisted_page_count
    totals = []
    for code in counts.nonzero()[0].tolist():
        finding, pair = divmod(code, _STATES * _STATES)
        state, other_state = divmod(pair, _STATES)
        copied_by, comparison = divmod(finding, 1 << _COPIER_SHIFT)
        totals.append(Alike(comparison, state, other_state, copied_by, int(counts[code])))
    return totals


def _find(state: PageState, other_state: PageState, is_one: bool) -> int:
    """Return the finding of two states, and of whether both entries name one frame or swap entry.

    The table of the rules.
    """
    if state in _NO_PAGE and other_state in _NO_PAGE:
        return Comparison.NEITHER
    if is_one and state not in _NO_PAGE and other_state not in _NO_PAGE:
        return Comparison.SAME  # whatever is not known of the frame, it is one
    if PageState.UNKNOWN in (state, other_state):
        return Comparison.UNKNOWN
    if other_state in _NO_PAGE:
        return Comparison.ONLY_FIRST
    if state in _NO_PAGE:
        return Comparison.ONLY_SECOND
    if state in _ANONYMOUS and other_state is PageState.FILE:
        return Comparison.DIFFERENT | Copier.FIRST << _COPIER_SHIFT
    if state is PageState.FILE and other_state in _ANONYMOUS:
        return Comparison.DIFFERENT | Copier.SECOND << _COPIER_SHIFT
    if state is other_state is PageState.ANON:
        return Comparison.DIFFERENT | _COPIER_OPEN
    if PageState.ANON in (state, other_state):
        return Comparison.DIFFERENT | _COMPARISON_OPEN
    return Comparison.DIFFERENT  # of two files, or two that are swapped out


def _tabulate() -> Bytes:
    findings = np.zeros(2 * _STATES * _STATES, np.uint8)  # state 0 is none
    for number in range(len(findings)):
        is_one, pair = divmod(number, _STATES * _STATES)
        state, other_state = divmod(pair, _STATES)
        if state and other_state:
            findings[number] = _find(PageState(state), PageState(other_state), bool(is_one))
    return findings


_FINDINGS: Final = _tabulate()
_FINDINGS_WITHOUT_COPIERS: Final = _FINDINGS & np.uint8(_COMPARISON_OPEN | _COMPARISON_MASK)
_ABSENT_IN_BOTH: Final = (
    Comparison.NEITHER << _STATE_SHIFT | PageState.ABSENT
) << _STATE_SHIFT | PageState.ABSENT
