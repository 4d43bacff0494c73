# SPDX-License-Identifier: Apache-2.0
"""What a page is, decided from its pagemap entry and its frame's kpageflags. Pure, on whole arrays.

The bits of a pagemap entry are those of Documentation/admin-guide/mm/pagemap.rst and
fs/proc/task_mmu.c; those of kpageflags of include/uapi/linux/kernel-page-flags.h. Arrays are
one-dimensional with one element a page: `entries` and `flags` of uint64; `flags` is 0 where no page
is present or its frame has no information.
"""

from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Attribute",
    "Bytes",
    "EntryLayout",
    "Kpageflags",
    "Mask",
    "PageState",
    "Words",
    "classify",
    "frames",
    "is_certainly_private",
    "is_contradictory",
    "is_present",
]

Words = NDArray[np.uint64]
"""One unsigned 64-bit word a page."""
Bytes = NDArray[np.uint8]
"""One byte a page."""
Mask = NDArray[np.bool_]
"""One truth value a page."""


class Kpageflags(IntFlag):
    """The bits of /proc/kpageflags that states and disclosure depend on."""

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
    HUGE = 1 << 17
    UNEVICTABLE = 1 << 18
    HWPOISON = 1 << 19
    NOPAGE = 1 << 20
    KSM = 1 << 21
    THP = 1 << 22
    ZERO_PAGE = 1 << 24
    PGTABLE = 1 << 26
    MLOCKED = 1 << 33


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


@dataclass(frozen=True, slots=True)
class EntryLayout:
    """What of a pagemap entry differs between kernels, as found by trying.

    `marker_type` is the swap type of markers (SWP_PTE_MARKER, include/linux/swapops.h), or None
    if none is known; `has_soft_dirty` whether bit 55 means anything.
    """

    marker_type: int | None = None
    has_soft_dirty: bool = False


def is_present(entries: Words) -> Mask:
    """Return where a page is present."""
    return _has(entries, _PRESENT)


def frames(entries: Words) -> Words:
    """Return the frame numbers of present pages; other bits of other entries mean nothing."""
    return entries & _FRAME_MASK


def is_certainly_private(entries: Words) -> Mask:
    """Return where a present page is no file's and mapped by this process alone, for certain."""
    return _has(entries, _PRESENT) & _has(entries, _EXCLUSIVE) & ~_has(entries, _FILE)


def is_contradictory(entries: Words, flags: Words) -> Mask:
    """Return where entry and flags cannot both be of one moment: the page is to be read again.

    pagemap says "file" (bit 61) of just those present pages that are not anonymous
    (pte_to_pagemap_entry), but of no zero page, save the huge one. A migration entry of a file's
    page, too, is gone a moment later.
    """
    is_file = _has(entries, _FILE)
    disagrees = ~_has(flags, _ZERO_PAGE) & (_has(flags, _ANON) == is_file)
    is_odd = disagrees | _has(flags, _NOT_A_USER_PAGE)
    return np.where(is_present(entries), is_odd, is_file & _has(entries, _SWAPPED))


def classify(entries: Words, flags: Words, layout: EntryLayout) -> tuple[Bytes, Bytes]:
    """Return the state (PageState) and the attributes (Attribute) of every page.

    `flags` are the kernel's own, before any disclosure mask.
    """
    present = is_present(entries)
    swapped = ~present & _has(entries, _SWAPPED)
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
        attributes[_has(entries, _SOFT_DIRTY)] |= np.uint8(Attribute.SOFT_DIRTY)
    return states, attributes


def _has_marker_type(entries: Words, layout: EntryLayout) -> Mask:
    if layout.marker_type is None:
        return np.zeros(len(entries), np.bool_)
    is_marker: Mask = (entries & _SWAP_TYPE_MASK) == np.uint64(layout.marker_type)
    return is_marker


def _has(words: Words, bits: np.uint64) -> Mask:
    """Return where a word has any of `bits`."""
    has: Mask = (words & bits) != 0
    return has
