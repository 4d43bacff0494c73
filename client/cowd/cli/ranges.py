# SPDX-License-Identifier: Apache-2.0
"""Ranges of addresses as people write them. Pure."""

import re
from typing import Final, NamedTuple

__all__ = ["AddressRange", "align_range", "parse_range"]

_ADDRESS_SPACE_BYTES: Final = 1 << 64
_RANGE: Final = re.compile(
    r"(?:0x)?([0-9a-f]+)(?:\+([0-9]+)|-(?:0x)?([0-9a-f]+))?", re.ASCII | re.IGNORECASE
)


class AddressRange(NamedTuple):
    """A range as it was written: `page_count` pages from `start`, or up to `end` if that is set."""

    start: int
    page_count: int
    end: int | None = None


def parse_range(text: str) -> AddressRange:
    """Read ADDR, ADDR+COUNT or START-END; addresses are hexadecimal, COUNT is decimal pages.

    Raises:
        ValueError: it is none of these, empty, or past 2^64.
    """
    match = _RANGE.fullmatch(text)
    if match is None:
        raise ValueError(
            f"{text!r} is no range: write ADDR, ADDR+COUNT or START-END, with addresses in "
            "hexadecimal as in /proc/PID/maps"
        )
    start = int(match[1], 16)
    page_count = int(match[2]) if match[2] else 1
    end = int(match[3], 16) if match[3] else None
    if page_count == 0 or (end is not None and end <= start):
        raise ValueError(f"{text!r} is an empty range")
    if max(start, end or 0) >= _ADDRESS_SPACE_BYTES:
        raise ValueError(f"{text!r} is past the largest address, 2^64 - 1")
    return AddressRange(start, page_count, end)


def align_range(written: AddressRange, page_size_bytes: int) -> tuple[int, int, list[str]]:
    """Widen a range to whole pages.

    Returns:
        The first address, the first address after the range, and a note for each that was moved.

    Raises:
        ValueError: it ends past 2^64.
    """
    notes = []
    start = written.start - written.start % page_size_bytes
    if start != written.start:
        notes.append(f"note: {written.start:#x} is inside a page: rounded down to {start:#x}")
    if written.end is None:
        end = start + written.page_count * page_size_bytes
    else:
        end = written.end + -written.end % page_size_bytes
        if end != written.end:
            notes.append(f"note: {written.end:#x} is inside a page: rounded up to {end:#x}")
    if end > _ADDRESS_SPACE_BYTES:
        raise ValueError("the range ends past 2^64: shorten it")
    return start, end, notes
