# SPDX-License-Identifier: Apache-2.0
"""The backend without a daemon: what the kernel tells anybody about the processes that are his.

Runs with the caller's own rights. pagemap says what a page is, all but the page of zeros, which the
ioctl PAGEMAP_SCAN tells apart (Linux 6.7); before, pages that may be it are UNKNOWN. Flags of the
kernel (`kpageflags`) are for root: they are None here.
"""

import errno
import fcntl
import functools
import os
import struct
from array import array
from collections.abc import Iterable, Iterator
from typing import Final

from cowd import _pagemap
from cowd._arguments import as_integer, as_ranges
from cowd._errors import InvalidRequest
from cowd._pages import MappingKind, MappingList, PageAttributes, PageFlags, PageState
from cowd._process import Process, open_process

__all__ = ["Local", "has_pagemap_scan"]

_PAGE_SIZE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_ADDRESS_SPACE_BYTES: Final = 1 << 64
_PAGES_PER_PART: Final = 65_536
"""Of one answer of `iter_page_flags`, as the daemon has it: 512 KiB of entries."""
_SETTLE_ROUNDS: Final = 4
"""How often pages are looked at that change between two looks."""


class Local:
    """Answers as `cowd.Client` does, without the daemon and so without kernel flags.

    Holds nothing between calls: it needs no closing, and threads may share it.
    """

    name: Final = "local"

    def get_page_flags(
        self, pid: int, address: int, count: int, *, expected_start_time_ticks: int = 0
    ) -> PageFlags:
        """Return what the kernel tells you about `count` pages from `address` on.

        Args:
            pid: of the process, not of a thread.
            address: of the first page, in bytes; a multiple of the page size.
            count: number of pages, at most 65,536.
            expected_start_time_ticks: start time that the process must have; 0 accepts any.

        Raises:
            Error: a subclass of it, see `cowd.Error`.
        """
        _verify_range(address, count, most=_PAGES_PER_PART)
        with open_process(pid, expected_start_time_ticks) as process:
            return _read_page_flags(process, address, count)

    def iter_page_flags(
        self,
        pid: int,
        ranges: Iterable[tuple[int, int]],
        *,
        expected_start_time_ticks: int = 0,
    ) -> Iterator[PageFlags]:
        """Yield what the kernel tells you about ranges of pages, in parts of a bounded size.

        Args and errors are those of `Client.iter_page_flags`.
        """
        wanted = as_ranges(ranges)
        for address, count in wanted:
            _verify_range(address, count)
        with open_process(pid, expected_start_time_ticks) as process:
            for address, count in wanted:
                for done in range(0, count, _PAGES_PER_PART):
                    start = address + done * _PAGE_SIZE_BYTES
                    yield _read_page_flags(process, start, min(_PAGES_PER_PART, count - done))

    def list_mappings(self, pid: int, *, expected_start_time_ticks: int = 0) -> MappingList:
        """Return all mappings of a process, in address order.

        Args and errors are those of `Client.list_mappings`.
        """
        with open_process(pid, expected_start_time_ticks) as process:
            return MappingList(pid, process.start_time_ticks, process.list_mappings())


def _verify_range(address: int, count: int, most: int | None = None) -> None:
    address, count = as_integer(address, "address"), as_integer(count, "count")
    if address % _PAGE_SIZE_BYTES:
        raise InvalidRequest(
            f"address {address:#x} is inside a page: round it down to a multiple of "
            f"{_PAGE_SIZE_BYTES}",
            reason="UNALIGNED_ADDRESS",
        )
    if count < 1 or (most is not None and count > most):
        limit = "1 page or more" if most is None else f"1 to {most} pages a call"
        raise InvalidRequest(f"count is {count}: ask for {limit}", reason="INVALID_COUNT")
    if not 0 <= address <= _ADDRESS_SPACE_BYTES - count * _PAGE_SIZE_BYTES:
        raise InvalidRequest(
            f"{count} pages from {address:#x} end past 2^64: shorten the range",
            reason="RANGE_OVERFLOW",
        )


def _read_page_flags(process: Process, address: int, count: int) -> PageFlags:
    states, attributes = _read_settled(process, address, count, _SETTLE_ROUNDS)
    return PageFlags(
        pid=process.pid,
        page_size_bytes=_PAGE_SIZE_BYTES,
        address=address,
        start_time_ticks=process.start_time_ticks,
        masks=None,
        kpageflags=None,
        states=bytes(states),
        attributes=bytes(attributes),
    )


def _read_settled(
    process: Process, address: int, count: int, rounds: int
) -> tuple[bytearray, bytearray]:
    """Return states and attributes, each page's from one moment; unstable if it has none.

    What is a page of zeros is a second question to the kernel: pages that have changed between
    two looks, one before it and one after it, are looked at again.
    """
    entries = process.read_entries(address, count)
    high = _pagemap.high_bytes(entries)
    states = bytearray(high.translate(_pagemap.STATES))
    attributes = bytearray(_pagemap.attributes_of(entries))
    if not _pagemap.has_any(high, _pagemap.MAYBE_ZERO):
        return states, attributes
    end = address + count * _PAGE_SIZE_BYTES
    if not has_pagemap_scan():
        for first, last in _iter_anonymous_memory(process, address, end):
            states[first:last] = high[first:last].translate(_pagemap.STATES_OF_ANONYMOUS_MEMORY)
        return states, attributes
    for first, last in _iter_zero_pages(process.pagemap, address, end):
        states[first:last] = bytes([PageState.ZERO]) * (last - first)
    high_now = _pagemap.high_bytes(process.read_entries(address, count))
    for first, last in _iter_differences(high, high_now):
        start = address + first * _PAGE_SIZE_BYTES
        if rounds:
            anew = _read_settled(process, start, last - first, rounds - 1)
            states[first:last], attributes[first:last] = anew
        else:
            states[first:last] = bytes([PageState.UNKNOWN]) * (last - first)
            attributes[first:last] = bytes([PageAttributes.UNSTABLE]) * (last - first)
    return states, attributes


def _iter_differences(before: bytes, after: bytes) -> Iterator[tuple[int, int]]:
    """Yield the stretches, as first index and index after the last, where the two differ."""
    if before == after:
        return
    first = None
    for index, (one, other) in enumerate(zip(before, after, strict=True)):
        if one == other:
            if first is not None:
                yield first, index
            first = None
        elif first is None:
            first = index
    if first is not None:
        yield first, len(before)


def _iter_anonymous_memory(process: Process, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the stretches of pages, counted from `start`, that are in anonymous mappings."""
    for mapping in process.list_mappings(start, end):
        if mapping.kind is MappingKind.ANONYMOUS:
            first = max(mapping.start_address, start)
            last = min(mapping.end_address, end)
            yield (first - start) // _PAGE_SIZE_BYTES, (last - start) // _PAGE_SIZE_BYTES


# ioctl(PAGEMAP_SCAN), include/uapi/linux/fs.h: Linux commit 52526ca7fdb9 ("fs/proc/task_mmu:
# implement IOCTL to get and optionally clear info about PTEs") (in v6.7).
_PAGEMAP_SCAN: Final = 0xC0606610
_PAGE_IS_PFNZERO: Final = 1 << 5
_SCAN_ARGUMENT: Final = struct.Struct("=12Q")
_SCAN_END_INDEX: Final = 4  # walk_end
_REGION_WORDS: Final = 3  # struct page_region: start, end, categories
_REGIONS: Final = 512


def has_pagemap_scan() -> bool:
    """Return whether the kernel tells the page of zeros without a privilege."""
    try:
        return _try_pagemap_scan()
    except OSError:  # not remembered: another time there may be descriptors left
        return False


@functools.cache
def _try_pagemap_scan() -> bool:
    try:
        with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
            _scan(pagemap.fileno(), 0, 0, array("Q"), _PAGE_IS_PFNZERO)
    except OSError as error:
        if error.errno in (errno.ENOTTY, errno.EINVAL):
            return False
        raise
    return True


def _iter_zero_pages(pagemap: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the stretches, counted in pages from `start`, that are the kernel's page of zeros."""
    regions = array("Q", bytes(_REGIONS * _REGION_WORDS * 8))
    position = start
    while position < end:
        count, position = _scan(pagemap, position, end, regions, _PAGE_IS_PFNZERO)
        for index in range(0, count * _REGION_WORDS, _REGION_WORDS):
            first, last = regions[index : index + 2]
            yield (first - start) // _PAGE_SIZE_BYTES, (last - start) // _PAGE_SIZE_BYTES


def _scan(
    pagemap: int, start: int, end: int, regions: "array[int]", category: int
) -> tuple[int, int]:
    """Fill `regions` with the pages of `category`; return how many, and where the kernel stopped.

    Raises:
        OSError: ENOTTY if there is no such ioctl.
    """
    room, words = regions.buffer_info()
    argument = bytearray(
        _SCAN_ARGUMENT.pack(
            _SCAN_ARGUMENT.size,
            0,  # flags
            start,
            end,
            0,  # walk_end: out
            room,
            words // _REGION_WORDS,
            0,  # max_pages: any number
            0,  # category_inverted
            category,  # category_mask
            0,  # category_anyof_mask
            category,  # return_mask
        )
    )
    count = fcntl.ioctl(pagemap, _PAGEMAP_SCAN, argument)
    return count, _SCAN_ARGUMENT.unpack(argument)[_SCAN_END_INDEX]
