# SPDX-License-Identifier: Apache-2.0
"""Reads and judges a few pages one by one, without numpy.

Worker, unprivileged. In a worker, between two waits, each of numpy's calls takes several times
what it takes in a loop, and the way for many pages makes dozens of them. Here is nothing but the
kernel's calls and look-ups in the tables of page_states. What takes more than that is left to the
other way; both say the same.
"""

import os
import struct
import sys
from typing import Final, NamedTuple

from cowdaemon.worker.disclosure import DisclosureMasks
from cowdaemon.worker.page_states import EntryLayout, classify_page, encode_page

__all__ = ["FEW_PAGES", "DisclosedPages", "read_few"]

FEW_PAGES: Final = 128
"""Up to so many are read one by one. As measured, that is the quicker way at 256 as well."""
_PAGE_SIZE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_WORD_BYTES: Final = 8
_PRESENT: Final = 1 << 63
_FRAME_MASK: Final = (1 << 55) - 1


class DisclosedPages(NamedTuple):
    """Pages as they go out: a little-endian word of flags, a state and attributes for each."""

    flags: bytes
    states: bytes
    attributes: bytes


def read_few(
    kpageflags: int,
    pagemap: int,
    address: int,
    count: int,
    layout: EntryLayout,
    masks: DisclosureMasks,
) -> DisclosedPages | None:
    """Return the pages of a range of a target; None if they have to be read the other way.

    That is where pagemap ends, where a page changed meanwhile or contradicts its flags, and where a
    swap entry may be a marker.

    Args:
        kpageflags: descriptor of /proc/kpageflags, opened as root.
        pagemap: descriptor of the target's /proc/PID/pagemap that shows frame numbers.
        address: of the first page, in bytes; a multiple of the page size.
        count: of pages, at least 1.
        layout: of pagemap's entries.
        masks: which flags may be seen.
    """
    size_bytes, offset = count * _WORD_BYTES, address // _PAGE_SIZE_BYTES * _WORD_BYTES
    read = os.pread(pagemap, size_bytes, offset)
    if len(read) != size_bytes:
        return None
    entries = struct.unpack(f"={count}Q", read)
    words = [_read_flags(kpageflags, entry) if entry & _PRESENT else 0 for entry in entries]
    if os.pread(pagemap, size_bytes, offset) != read:
        return None
    codes = [encode_page(entry, flags) for entry, flags in zip(entries, words, strict=True)]
    found = [classify_page(code, layout) for code in codes]
    if None in found:
        return None
    states, attributes = zip(*found, strict=True)
    shown = [masks.apply_to_page(code, flags) for code, flags in zip(codes, words, strict=True)]
    return DisclosedPages(struct.pack(f"<{count}Q", *shown), bytes(states), bytes(attributes))


def _read_flags(kpageflags: int, entry: int) -> int:
    """Return the flags of a present page's frame; 0 past the last frame."""
    word = os.pread(kpageflags, _WORD_BYTES, (entry & _FRAME_MASK) * _WORD_BYTES)
    return int.from_bytes(word, sys.byteorder)
