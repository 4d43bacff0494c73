# SPDX-License-Identifier: Apache-2.0
"""What pages are, from their pagemap entries and mappings alone, wherever these suffice. Pure.

The truth table of page_states asks each page's kpageflags. To tell states apart, mostly nothing is
missing without them: bit 61 is set of just those present pages that are not anonymous, bit 56 of
no page of zeros, and which frames are those of zeros is found once. What is left is told here as
doubts, for the reader to look at. Both ways say the same, but for pages of device memory (DAX):
kpageflags knows nothing of their frames, and so the truth table does not either. Here they are what
their entries say, a file's.

Arrays have one element a page, as in page_states.
"""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cowdaemon.worker.page_states import (
    Bytes,
    EntryLayout,
    Mask,
    PageState,
    Words,
    classify,
    frames,
)
from cowdaemon.worker.pagemap import Stretches, number_pages, spread

__all__ = ["Doubts", "classify_entries"]

Places = NDArray[np.intp]
"""Where in the arrays."""

# The nine highest bits of an entry, from "soft-dirty" on, and what they say together: a state, and
# in the bits above it what is to be looked at.
_HIGH_BITS: Final = 9
_HIGH_SHIFT: Final = np.uint64(64 - _HIGH_BITS)
_EXCLUSIVE, _GUARD, _FILE, _SWAPPED, _PRESENT = 1 << 1, 1 << 3, 1 << 6, 1 << 7, 1 << 8
_STATE: Final = np.uint8(7)
_MAY_BE_MARKER: Final = np.uint8(1 << 3)
_MAY_BE_ZERO: Final = np.uint8(1 << 4)
_MAY_BE_HUGE_ZERO: Final = np.uint8(1 << 5)


class Doubts(NamedTuple):
    """What entries alone do not tell: the places of some pages.

    Attributes:
        pages: of these the truth table decides, with the flags of their frames.
        huge: these are ZERO if `heads` are, and otherwise what has been said of them.
        heads: the first frame of the huge page that each of `huge` would be in; uint64.
        is_expected: where `huge` are ZERO, if the mappings are still those that were listed.
    """

    pages: Places
    huge: Places
    heads: Words
    is_expected: Mask


def classify_entries(
    entries: Words, stretches: Stretches, anonymous: Stretches, layout: EntryLayout
) -> tuple[Bytes, Doubts]:
    """Return the state (PageState) of every page, and which of them are still in doubt.

    Args:
        entries: of the pages of `stretches`, in their order.
        stretches: which pages these are, in any order.
        anonymous: the pages of the target's anonymous mappings, ascending, none overlapping.
        layout: of the entries.
    """
    findings = _FINDINGS.take((entries >> _HIGH_SHIFT).view(np.int64))
    states = findings & _STATE
    if layout.marker_type is not None:
        swapped = (findings & _MAY_BE_MARKER).nonzero()[0]
        if len(swapped):
            states[swapped], _ = classify(
                entries[swapped], np.zeros(len(swapped), np.uint64), layout
            )
    huge = _find_huge_candidates(findings, entries, stretches, anonymous, layout)
    may_be_zero = (findings & _MAY_BE_ZERO) != 0
    if not len(huge) and not may_be_zero.any():
        return states, Doubts(huge, huge, entries[huge], huge.astype(np.bool_))
    is_anonymous = _find_inside(stretches, anonymous)
    # Nothing else of anonymous memory is no anonymous page.
    is_expected = is_anonymous[huge] & (states[huge] == PageState.FILE)
    is_zero = may_be_zero & _has_frame_of_zeros(entries, layout)
    states[is_zero] = PageState.ZERO
    if layout.zero_frames:
        may_be_zero &= ~(is_anonymous | is_zero)
    heads = frames(entries[huge]) // np.uint64(max(layout.huge_page_pages, 1))
    heads *= np.uint64(layout.huge_page_pages)
    return states, Doubts(may_be_zero.nonzero()[0], huge, heads, is_expected)


def _find_inside(stretches: Stretches, extents: Stretches) -> Mask:
    """Return which pages of stretches, in any order, lie in one of the ascending extents."""
    if (stretches[1:, 0] >= stretches[:-1, 1]).all():
        return spread(stretches, extents, np.ones(len(extents), np.bool_))
    # Of ranges that a client asks for in another order, or twice.
    pages = number_pages(stretches)
    ends = np.concatenate(([0], extents[:, 1]))
    is_inside: Mask = pages < ends[np.searchsorted(extents[:, 0], pages, "right")]
    return is_inside


def _find_huge_candidates(
    findings: Bytes,
    entries: Words,
    stretches: Stretches,
    anonymous: Stretches,
    layout: EntryLayout,
) -> Places:
    """Return the places of pages that may be in the huge page of zeros.

    That is mapped whole, so a page's number and its frame's differ by a multiple of its size.
    """
    may_be = findings & _MAY_BE_HUGE_ZERO
    if not layout.huge_page_pages or not may_be.any():
        return np.empty(0, np.intp)
    pages = number_pages(stretches)
    apart = pages.view(np.uint64) ^ entries
    apart &= np.uint64(layout.huge_page_pages - 1)
    candidates: Mask = (may_be != 0) & (apart == 0)
    places = candidates.nonzero()[0]
    # By chance one in hundreds is in such a place, but not the page after it as well.
    after = np.minimum(places + 1, len(pages) - 1)
    is_followed = (pages[after] == pages[places] + 1) & (pages[after] % layout.huge_page_pages != 0)
    # What is a file's in anonymous memory is there by no chance: if the next one is not, the two
    # were read one after the other, and it has been split in between.
    is_file = (entries[places] >> _HIGH_SHIFT) & np.uint64(_FILE) != 0
    is_anonymous = np.searchsorted(anonymous.ravel(), pages[places], "right") % 2 == 1
    kept: Places = places[candidates[after] | ~is_followed | (is_file & is_anonymous)]
    return kept


def _has_frame_of_zeros(entries: Words, layout: EntryLayout) -> Mask:
    numbers = frames(entries)
    is_zero = np.zeros(len(entries), np.bool_)
    for frame in layout.zero_frames:
        is_zero |= numbers == np.uint64(frame)
    return is_zero


def _judge_high_bits(bits: int) -> int:
    """Return what the highest bits of an entry say of its page."""
    if bits & _PRESENT:
        if bits & _FILE:
            doubts = 0 if bits & _EXCLUSIVE else _MAY_BE_HUGE_ZERO
            return PageState.FILE | int(doubts)
        if bits & _EXCLUSIVE:
            return PageState.ANON
        # Some kernels tell the huge page of zeros this way (no "file"), some by bit 61.
        return PageState.ANON | int(_MAY_BE_ZERO | _MAY_BE_HUGE_ZERO)
    if bits & _GUARD:
        return PageState.GUARD
    if bits & _SWAPPED:
        state = PageState.FILE if bits & _FILE else PageState.ANON_SWAPPED
        return state | int(_MAY_BE_MARKER)
    return PageState.ABSENT


_FINDINGS: Final = np.array([_judge_high_bits(bits) for bits in range(1 << _HIGH_BITS)], np.uint8)
