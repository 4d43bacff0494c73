# SPDX-License-Identifier: Apache-2.0
"""What a page is by its entry in /proc/PID/pagemap alone, as anybody sees it. Pure, no numpy.

Without CAP_SYS_ADMIN an entry has no frame number, and all that is left lies in its highest byte:
so one `bytes.translate` says what a million pages are. The bits are those of
Documentation/admin-guide/mm/pagemap.rst.
"""

import sys
from enum import IntFlag
from typing import Final

from cowd._pages import PageAttributes, PageState

__all__ = [
    "ENTRY_BYTES",
    "MAYBE_ZERO",
    "STATES",
    "STATES_OF_ANONYMOUS_MEMORY",
    "attributes_of",
    "has_any",
    "high_bytes",
]

ENTRY_BYTES: Final = 8
_HIGH_BYTE: Final = 7 if sys.byteorder == "little" else 0
_NEXT_BYTE: Final = 6 if sys.byteorder == "little" else 1


class _Bit(IntFlag):
    """The bits of an entry from 56 on."""

    EXCLUSIVE = 1 << 0
    UFFD_WP = 1 << 1
    GUARD = 1 << 2
    FILE = 1 << 5
    SWAPPED = 1 << 6
    PRESENT = 1 << 7


def _choose_state(bits: int) -> PageState:
    if bits & _Bit.PRESENT:
        return PageState.FILE if bits & _Bit.FILE else PageState.ANON
    if bits & _Bit.GUARD:
        return PageState.GUARD
    if not bits & _Bit.SWAPPED:
        return PageState.ABSENT
    if bits & _Bit.FILE:  # on its way to another frame: in a moment it is present again
        return PageState.FILE
    if bits & _Bit.UFFD_WP:  # a marker in place of a page, or a page that is swapped out
        return PageState.UNKNOWN
    return PageState.ANON_SWAPPED


def _choose_state_in_anonymous_memory(bits: int) -> PageState:
    if bits & _Bit.PRESENT and bits & _Bit.FILE:  # so calls itself the huge page of zeros
        return PageState.ZERO
    if bits & _Bit.PRESENT and not bits & _Bit.EXCLUSIVE:  # shared, or the page of zeros
        return PageState.UNKNOWN
    return _choose_state(bits)


def _choose_attributes(bits: int) -> PageAttributes:
    attributes = PageAttributes(0)
    if bits & _Bit.PRESENT and bits & _Bit.EXCLUSIVE:
        attributes |= PageAttributes.EXCLUSIVE
    if bits & _Bit.UFFD_WP:
        attributes |= PageAttributes.UFFD_WP
    return attributes


def _is_maybe_zero(bits: int) -> bool:
    return bool(bits & _Bit.PRESENT) and not bits & _Bit.EXCLUSIVE


STATES: Final = bytes(map(_choose_state, range(256)))
"""PageState by high byte, for pages that are known not to be of zeros."""
STATES_OF_ANONYMOUS_MEMORY: Final = bytes(map(_choose_state_in_anonymous_memory, range(256)))
"""The same for anonymous memory on a kernel that does not tell the page of zeros (before 6.7)."""
MAYBE_ZERO: Final = bytes(bits for bits in range(256) if _is_maybe_zero(bits))
"""The high bytes that the kernel's page of zeros may have."""
_ATTRIBUTES: Final = bytes(map(_choose_attributes, range(256)))
_SOFT_DIRTY_OF_NEXT_BYTE: Final = bytes(
    PageAttributes.SOFT_DIRTY if bits & 0x80 else 0 for bits in range(256)
)
# In new memory the kernel calls every page soft-dirty, also where none is.
_SOFT_DIRTY_OF_STATE: Final = bytes(
    0 if state == PageState.ABSENT else PageAttributes.SOFT_DIRTY for state in STATES
)


def high_bytes(entries: bytes) -> bytes:
    """Return the byte of each entry that says what the page is."""
    return entries[_HIGH_BYTE::ENTRY_BYTES]


def attributes_of(entries: bytes) -> bytes:
    """Return the bits of PageAttributes, a byte for each entry."""
    high = high_bytes(entries)
    attributes = high.translate(_ATTRIBUTES)
    soft_dirty = entries[_NEXT_BYTE::ENTRY_BYTES].translate(_SOFT_DIRTY_OF_NEXT_BYTE)
    if soft_dirty.count(0) == len(soft_dirty):  # as everywhere without CONFIG_MEM_SOFT_DIRTY
        return attributes
    written, there, others = (
        int.from_bytes(each, "little")
        for each in (soft_dirty, high.translate(_SOFT_DIRTY_OF_STATE), attributes)
    )
    return (written & there | others).to_bytes(len(attributes), "little")


def has_any(high: bytes, wanted: bytes) -> bool:
    """Return whether any of the high bytes is one of `wanted`."""
    return len(high.translate(None, wanted)) != len(high)
