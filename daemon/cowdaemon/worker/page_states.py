# SPDX-License-Identifier: Apache-2.0
"""What a page is, decided from its pagemap entry and its frame's kpageflags. Pure, on whole arrays.

The bits of a pagemap entry are those of Documentation/admin-guide/mm/pagemap.rst and
fs/proc/task_mmu.c; those of kpageflags of include/uapi/linux/kernel-page-flags.h. Arrays are
one-dimensional with one element a page: `entries` and `flags` of uint64; `flags` is 0 where no page
is present or its frame has no information.

The rules are written down once, as comparisons of whole arrays. That takes dozens of passes, so it
is not what runs for every page: `encode` puts what matters of a page's two words into one small
number, and what the rules say of each such number is tabulated when this module is imported.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Attribute",
    "Bytes",
    "Codes",
    "EntryLayout",
    "Kpageflags",
    "Mask",
    "PageState",
    "Words",
    "classify",
    "classify_page",
    "encode",
    "encode_page",
    "frames",
    "is_certainly_private",
    "is_contradictory",
    "is_present",
    "is_swapped",
    "tabulate",
]

Words = NDArray[np.uint64]
"""One unsigned 64-bit word a page."""
Bytes = NDArray[np.uint8]
"""One byte a page."""
Mask = NDArray[np.bool_]
"""One truth value a page."""
Codes = NDArray[np.int64]
"""One number a page, for tables: see `encode`."""
_Table = TypeVar("_Table", bound=NDArray[Any])


class Kpageflags(IntFlag):
    """The bits of /proc/kpageflags that states, comparisons and disclosure depend on.

    OWNER_2 is PG_mappedtodisk of a file's page, and PG_anon_exclusive of an anonymous one: Linux
    commit 78fbe906cc90 ("mm/page-flags: reuse PG_mappedtodisk as PG_anon_exclusive for PageAnon()
    pages") (in v5.19).
    """

    LOCKED = 1 << 0
    REFERENCED = 1 << 2
    UPTODATE = 1 << 3
    DIRTY = 1 << 4
    LRU = 1 << 5
    ACTIVE = 1 << 6
    SLAB = 1 << 7
    WRITEBACK = 1 << 8
    BUDDY = 1 << 10
    MMAP = 1 << 11
    ANON = 1 << 12
    SWAPCACHE = 1 << 13
    SWAPBACKED = 1 << 14
    COMPOUND_HEAD = 1 << 15
    COMPOUND_TAIL = 1 << 16
    HUGE = 1 << 17
    UNEVICTABLE = 1 << 18
    HWPOISON = 1 << 19
    NOPAGE = 1 << 20
    KSM = 1 << 21
    THP = 1 << 22
    ZERO_PAGE = 1 << 24
    PGTABLE = 1 << 26
    MLOCKED = 1 << 33
    OWNER_2 = 1 << 34


class PageState(IntEnum):
    """cowd.v1.PageState."""

    ABSENT = 1
    FILE = 2
    ANON = 3
    ANON_SWAPPED = 4
    ZERO = 5
    GUARD = 6
    UNKNOWN = 7


class Attribute(IntFlag):
    """cowd.v1.PageAttribute."""

    EXCLUSIVE = 1
    SOFT_DIRTY = 2
    UFFD_WP = 4
    LAZYFREE = 8
    UNSTABLE = 16


# Bits of a pagemap entry.
_FRAME_MASK: Final = np.uint64((1 << 55) - 1)
_SOFT_DIRTY: Final = np.uint64(1 << 55)
_EXCLUSIVE: Final = np.uint64(1 << 56)
_UFFD_WP: Final = np.uint64(1 << 57)
_GUARD: Final = np.uint64(1 << 58)
_FILE: Final = np.uint64(1 << 61)
_SWAPPED: Final = np.uint64(1 << 62)
_PRESENT: Final = np.uint64(1 << 63)
# The rest of a swap entry, and what a marker's offset says (PTE_MARKER_*, include/linux/swapops.h).
_SWAP_TYPE_MASK: Final = np.uint64(0x1F)
_MARKER_UFFD_WP: Final = np.uint64(1 << 5)
_MARKER_GUARD: Final = np.uint64(4 << 5)

# A frame with one of these was not a user's page when its flags were read: it had been freed, and
# what the word says is of no page of the target. 6.18 shows slab pages as anonymous, too.
_NOT_A_USER_PAGE: Final = np.uint64(
    Kpageflags.SLAB | Kpageflags.BUDDY | Kpageflags.PGTABLE | Kpageflags.NOPAGE
)
_ANON: Final = np.uint64(Kpageflags.ANON)
_ZERO_PAGE: Final = np.uint64(Kpageflags.ZERO_PAGE)
_SWAPBACKED_OR_HUGE: Final = np.uint64(Kpageflags.SWAPBACKED | Kpageflags.HUGE)

# A code has the nine highest bits of the entry, and below them six bits of the flags: whether there
# are any, and any of each of these classes. A table of 16 bits tells the classes, once both halves
# of the lower 32 bits have been laid upon each other: no two classes meet there.
_CODES: Final = 1 << 15
_CODE_SHIFT: Final = np.uint64(49)
_CODE_OF_ENTRY: Final = np.uint64(0x1FF << 6)
_FOLD: Final = np.uint64(16)
_CLASSES: Final = (
    _NOT_A_USER_PAGE,
    _ANON,
    _ZERO_PAGE,
    _SWAPBACKED_OR_HUGE,
    np.uint64(Kpageflags.THP),
)
_ANY_FLAG: Final = np.uint64(Kpageflags.MMAP)
_TOLD: Final = np.bitwise_or.reduce(_CLASSES)


@dataclass(frozen=True, slots=True)
class EntryLayout:
    """What of a pagemap entry differs between kernels, as found by trying.

    Attributes:
        marker_type: the swap type of markers (SWP_PTE_MARKER, include/linux/swapops.h), or None if
            none is known.
        has_soft_dirty: whether bit 55 means anything.
        zero_frames: the frames of the small page of zeros, of which some machines have several;
            empty if they are not known.
        huge_page_pages: pages of a transparent huge page, a power of two; 0 if there are none.
    """

    marker_type: int | None = None
    has_soft_dirty: bool = False
    zero_frames: tuple[int, ...] = ()
    huge_page_pages: int = 0


def is_present(entries: Words) -> Mask:
    """Return where a page is present."""
    return _has(entries, _PRESENT)


def is_swapped(entries: Words) -> Mask:
    """Return where a page is swapped out, or an entry looks so: a marker, or one of a migration."""
    return ~is_present(entries) & _has(entries, _SWAPPED)


def frames(entries: Words) -> Words:
    """Return the frame numbers of present pages; other bits of other entries mean nothing."""
    return entries & _FRAME_MASK


def is_certainly_private(entries: Words) -> Mask:
    """Return where a present page is no file's and mapped by this process alone, for certain."""
    return _has(entries, _PRESENT) & _has(entries, _EXCLUSIVE) & ~_has(entries, _FILE)


def encode(entries: Words, flags: Words) -> Codes:
    """Return the code of every page: all of its entry and flags that the rules here look at.

    But for markers: which entries are some depends on the kernel, see `classify`.
    """
    told = flags & _TOLD
    told |= told >> _FOLD
    classes = _FLAG_CLASSES.take(told.astype(np.uint16))
    classes |= np.not_equal(flags, 0)
    codes = entries >> _CODE_SHIFT
    codes &= _CODE_OF_ENTRY
    codes |= classes
    return codes.view(np.int64)


def tabulate(rule: Callable[[Words, Words], _Table]) -> _Table:
    """Return what a rule says of each code.

    Args:
        rule: takes entries and flags, and looks at nothing that `encode` leaves out.
    """
    codes = np.arange(_CODES, dtype=np.uint64)
    flags = np.zeros(_CODES, np.uint64)
    for bit, sample in enumerate((_ANY_FLAG, *_CLASSES)):
        flags[_has(codes, np.uint64(1 << bit))] |= sample
    return rule((codes & _CODE_OF_ENTRY) << _CODE_SHIFT, flags)


def is_contradictory(entries: Words, flags: Words, codes: Codes | None = None) -> Mask:
    """Return where entry and flags cannot both be of one moment: the page is to be read again.

    `codes` as of `encode`, where they are known.
    """
    return _CONTRADICTORY[encode(entries, flags) if codes is None else codes]


def classify(
    entries: Words, flags: Words, layout: EntryLayout, codes: Codes | None = None
) -> tuple[Bytes, Bytes]:
    """Return the state (PageState) and the attributes (Attribute) of every page.

    `flags` are the kernel's own, before any disclosure mask; `codes` as of `encode`, where they are
    known.
    """
    findings = _FINDINGS[encode(entries, flags) if codes is None else codes]
    states = findings & _STATE_OF_FINDING
    attributes = findings >> _ATTRIBUTES_SHIFT
    attributes &= _ATTRIBUTES_TRACKED if layout.has_soft_dirty else _ATTRIBUTES_UNTRACKED
    if layout.marker_type is not None:
        swapped = (findings >= _SWAPPED_FINDING).nonzero()[0]
        markers = swapped[_has_marker_type(entries[swapped], layout)] if len(swapped) else swapped
        if len(markers):
            states[markers], attributes[markers] = _judge(entries[markers], flags[markers], layout)
    return states, attributes


def encode_page(entry: int, flags: int) -> int:
    """Return what `encode` does, of one page, without the price of numpy's calls."""
    told = flags & _TOLD_FLAGS
    of_flags = _FLAG_CLASSES_VIEW[(told | told >> 16) & 0xFFFF]
    return entry >> 49 & 0x1FF << 6 | of_flags | (flags != 0)


def classify_page(code: int, layout: EntryLayout) -> tuple[int, int] | None:
    """Return state and attributes of one page, given its code.

    None where that does not tell: of a swap entry, which may be a marker, and where entry and flags
    contradict each other.
    """
    finding = _FINDINGS_VIEW[code]
    if finding >= 128 or _CONTRADICTORY_VIEW[code]:
        return None
    attributes = finding >> 3
    return finding & 7, attributes if layout.has_soft_dirty else attributes & ~2


def _judge(entries: Words, flags: Words, layout: EntryLayout) -> tuple[Bytes, Bytes]:
    """Return what `classify` does: this is the truth table."""
    present = is_present(entries)
    swapped = is_swapped(entries)
    marker = swapped & _has_marker_type(entries, layout)
    guard = ~present & _has(entries, _GUARD) | marker & _has(entries, _MARKER_GUARD)
    known = (flags != 0) & ~_has(flags, _NOT_A_USER_PAGE)
    anonymous = _has(flags, _ANON)

    # The truth table from the bottom up: what stands above overrides.
    states = np.full(len(entries), PageState.ABSENT, np.uint8)
    states[swapped] = PageState.ANON_SWAPPED
    states[swapped & _has(entries, _FILE)] = PageState.FILE
    states[marker] = PageState.ABSENT
    states[guard] = PageState.GUARD
    states[present] = PageState.FILE
    states[present & anonymous] = PageState.ANON
    states[present & _has(flags, _ZERO_PAGE)] = PageState.ZERO
    states[present & ~known] = PageState.UNKNOWN

    attributes = np.zeros(len(entries), np.uint8)
    uffd_marker = marker & _has(entries, _MARKER_UFFD_WP)
    lazyfree = anonymous & ~_has(flags, _SWAPBACKED_OR_HUGE)  # hugetlb pages have no such bit
    attributes[present & _has(entries, _EXCLUSIVE)] |= np.uint8(Attribute.EXCLUSIVE)
    attributes[_has(entries, _UFFD_WP) | uffd_marker] |= np.uint8(Attribute.UFFD_WP)
    attributes[present & known & lazyfree] |= np.uint8(Attribute.LAZYFREE)
    if layout.has_soft_dirty:
        # Of what is not there it says that there was something: the contract has no such thing.
        attributes[_has(entries, _SOFT_DIRTY) & (states != PageState.ABSENT)] |= np.uint8(
            Attribute.SOFT_DIRTY
        )
    return states, attributes


def _contradict(entries: Words, flags: Words) -> Mask:
    """Return what `is_contradictory` does.

    pagemap says "file" (bit 61) of just those present pages that are not anonymous
    (pte_to_pagemap_entry), but of no zero page, save the huge one. A migration entry of a file's
    page, too, is gone a moment later.
    """
    is_file = _has(entries, _FILE)
    disagrees = ~_has(flags, _ZERO_PAGE) & (_has(flags, _ANON) == is_file)
    is_odd = disagrees | _has(flags, _NOT_A_USER_PAGE)
    return np.where(is_present(entries), is_odd, is_file & _has(entries, _SWAPPED))


def _has_marker_type(entries: Words, layout: EntryLayout) -> Mask:
    if layout.marker_type is None:
        return np.zeros(len(entries), np.bool_)
    is_marker: Mask = (entries & _SWAP_TYPE_MASK) == np.uint64(layout.marker_type)
    return is_marker


def _has(words: Words, bits: np.uint64) -> Mask:
    """Return where a word has any of `bits`."""
    has: Mask = (words & bits) != 0
    return has


def _find(entries: Words, flags: Words) -> Bytes:
    """Return state, attributes and whether it is a swap entry of every page, in one byte."""
    states, attributes = _judge(entries, flags, EntryLayout(has_soft_dirty=True))
    findings: Bytes = states | attributes << _ATTRIBUTES_SHIFT
    findings[is_swapped(entries)] |= _SWAPPED_FINDING
    return findings


def _classify_halves() -> Bytes:
    """Return the bits of a code for all that the two halves of a word of flags may be together."""
    halves = np.arange(1 << 16, dtype=np.uint64)
    classes = np.zeros(len(halves), np.uint8)
    for bit, flags in enumerate(_CLASSES, 1):
        classes[_has(halves, flags | flags >> _FOLD)] |= np.uint8(1 << bit)
    return classes


# A finding: three bits of state, four of attributes, and one for what may be a marker.
_STATE_OF_FINDING: Final = np.uint8(7)
_ATTRIBUTES_SHIFT: Final = np.uint8(3)
_ATTRIBUTES_TRACKED: Final = np.uint8(15)
_ATTRIBUTES_UNTRACKED: Final = np.uint8(15 & ~Attribute.SOFT_DIRTY)
_SWAPPED_FINDING: Final = np.uint8(128)

_FLAG_CLASSES: Final = _classify_halves()
_FINDINGS: Final = tabulate(_find)
_CONTRADICTORY: Final = tabulate(_contradict)

# For single pages: an element of these is an int.
_TOLD_FLAGS: Final = int(_TOLD)
_FLAG_CLASSES_VIEW: Final = _FLAG_CLASSES.data
_FINDINGS_VIEW: Final = _FINDINGS.data
_CONTRADICTORY_VIEW: Final = _CONTRADICTORY.data
