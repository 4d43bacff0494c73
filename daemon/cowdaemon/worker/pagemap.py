# SPDX-License-Identifier: Apache-2.0
"""Entries of /proc/PID/pagemap, of one range or of many stretches of pages at once.

Worker, unprivileged, through a descriptor that it was handed. A short read is an error: the address
space ends there, or it is gone.
"""

import os
from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from cowdaemon.worker.page_states import Words

__all__ = [
    "JOINED_PAGES",
    "NO_STRETCHES",
    "PROCESS_SHIFT",
    "Numbers",
    "Pagemap",
    "ShortReadError",
    "Stretches",
    "count_pages",
    "find_overlap",
    "join_stretches",
    "number_pages",
    "read_entries",
    "read_fully",
    "read_pages",
    "read_parts",
    "read_stretches",
    "spread",
]

Numbers = NDArray[np.int64]
"""Numbers of pages: their addresses by the page size."""
Stretches = NDArray[np.int64]
"""Consecutive pages, a row of two for each stretch: first page, page after the last. Ascending."""

Pagemap = int | Sequence[int]
"""Descriptor of /proc/PID/pagemap; or those of several processes: then pages are numbered as of one
address space, where each process has its own 2^PROCESS_SHIFT pages, in this order."""

PROCESS_SHIFT: Final = 46
"""Pages of the largest address space (57 bits of address), and as many again. Whole huge pages."""

_Value = TypeVar("_Value", bound=np.generic)

NO_STRETCHES: Final[Stretches] = np.empty((0, 2), np.int64)

JOINED_PAGES: Final = 16
"""Stretches this close are better read as one: an empty page costs 30 ns, a read by itself 500."""

_PAGE_SIZE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_ENTRY_BYTES: Final = 8


class ShortReadError(Exception):
    """pagemap ended within the range: the address space does, or it is gone."""


def read_entries(pagemap: int, address: int, count: int) -> Words:
    """Return the entries of `count` pages from `address`, in bytes, as they stand.

    Raises:
        ShortReadError: there are fewer.
    """
    length_bytes, offset = count * _ENTRY_BYTES, address // _PAGE_SIZE_BYTES * _ENTRY_BYTES
    entries = read_fully(pagemap, length_bytes, offset)
    if len(entries) != length_bytes:
        raise ShortReadError
    return np.frombuffer(entries, np.uint64)


def read_stretches(pagemap: Pagemap, stretches: Stretches) -> Words:
    """Return the entries of all pages of `stretches`, one stretch after the other.

    Raises:
        ShortReadError: one of them is not there in full.
    """
    if isinstance(pagemap, int) and len(stretches) == 1:
        first_page, end_page = stretches[0].tolist()
        return read_entries(pagemap, first_page * _PAGE_SIZE_BYTES, end_page - first_page)
    firsts = stretches[:, 0]
    files: Iterable[int]
    if isinstance(pagemap, int):
        files = repeat(pagemap)
    else:
        files = [pagemap[place] for place in (firsts >> PROCESS_SHIFT).tolist()]
        firsts = firsts & ((1 << PROCESS_SHIFT) - 1)
    offsets = (firsts * _ENTRY_BYTES).tolist()
    lengths = ((stretches[:, 1] - stretches[:, 0]) * _ENTRY_BYTES).tolist()
    entries = b"".join(map(os.pread, files, lengths, offsets))
    if len(entries) != sum(lengths):
        entries = b"".join(map(read_fully, files, lengths, offsets))
        if len(entries) != sum(lengths):
            raise ShortReadError
    return np.frombuffer(entries, np.uint64)


def read_pages(pagemap: Pagemap, pages: Numbers) -> Words:
    """Return the entries of single pages, which may come in any order, and twice.

    Raises:
        ShortReadError: one of them is not there.
    """
    ascending = np.sort(pages)
    stretches = join_stretches(np.column_stack((ascending, ascending + 1)), JOINED_PAGES)
    entries = read_stretches(pagemap, stretches)
    return entries[np.searchsorted(number_pages(stretches), pages)]


def read_parts(file: int, lengths_bytes: Sequence[int], offsets: Sequence[int]) -> bytes:
    """Return what one read each gives of these parts of a file, put together.

    There is no loop in Python: between two reads is little more than the kernel.
    """
    return b"".join(map(os.pread, repeat(file), lengths_bytes, offsets))


def read_fully(file: int, length_bytes: int, offset: int) -> bytes:
    """Return what there is of so many bytes: the kernel may give less at a time."""
    content = os.pread(file, length_bytes, offset)
    while 0 < len(content) < length_bytes:
        part = os.pread(file, length_bytes - len(content), offset + len(content))
        if not part:
            break
        content += part
    return content


def count_pages(stretches: Stretches) -> int:
    """Return how many pages all of them have."""
    return int((stretches[:, 1] - stretches[:, 0]).sum())


def number_pages(stretches: Stretches) -> Numbers:
    """Return the number of each page of `stretches`, in their order."""
    if len(stretches) == 1:
        return np.arange(*stretches[0].tolist())
    lengths = stretches[:, 1] - stretches[:, 0]
    skipped = stretches[:, 0] - np.cumsum(lengths) + lengths
    return np.repeat(skipped, lengths) + np.arange(lengths.sum())


def join_stretches(stretches: Stretches, gap_pages: int = 0) -> Stretches:
    """Return fewer stretches: those no more than `gap_pages` apart are one, with the gap."""
    if len(stretches) < 2:
        return stretches
    breaks = np.flatnonzero(stretches[1:, 0] - stretches[:-1, 1] > gap_pages)
    firsts, lasts = np.concatenate(([0], breaks + 1)), np.append(breaks, -1)
    return np.column_stack((stretches[firsts, 0], stretches[lasts, 1]))


def find_overlap(extents: Numbers, stretches: Stretches) -> slice:
    """Return which extents may have pages of `stretches`: all others end before, or begin after.

    Args:
        extents: ascending, none overlapping; first page and page after the last in front.
        stretches: the same; one at least.
    """
    start = int(np.searchsorted(extents[:, 1], stretches[0, 0], "right"))
    return slice(start, max(start, int(np.searchsorted(extents[:, 0], stretches[-1, 1]))))


def spread(stretches: Stretches, extents: Stretches, values: NDArray[_Value]) -> NDArray[_Value]:
    """Return for each page of `stretches` the value of the extent that it lies in, else 0.

    Args:
        stretches: ascending, none overlapping; one at least.
        extents: first page and page after the last of each; the same, or none.
        values: of each extent.
    """
    among = find_overlap(extents, stretches)
    extents, values = extents[among], values[among]
    ends = np.cumsum(stretches[:, 1] - stretches[:, 0])
    borders = extents.ravel()
    at = np.searchsorted(stretches[:, 1], borders, "right")
    # Where a border lies in a stretch, or else where the next one begins.
    before = stretches[:, 1].take(at, mode="clip") - borders
    inside = before.clip(0, (stretches[:, 1] - stretches[:, 0]).take(at, mode="clip"))
    places = np.where(at < len(stretches), ends.take(at, mode="clip") - inside, ends[-1])
    lengths = np.diff(places, prepend=0, append=ends[-1])
    of_stretches = np.zeros(len(lengths), values.dtype)  # every second one is between extents
    of_stretches[1::2] = values
    return np.repeat(of_stretches, lengths)
