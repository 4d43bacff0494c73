# SPDX-License-Identifier: Apache-2.0
"""The backend without a daemon: what the kernel tells anybody about the processes that are his.

Runs with the caller's own rights. pagemap says what a page is, all but the page of zeros, which the
ioctl PAGEMAP_SCAN tells apart (Linux 6.7); before, pages that may be it are UNKNOWN. Flags of the
kernel (`kpageflags`) are for root: they are None here.
"""

import os
from array import array
from collections.abc import Iterable, Iterator
from typing import Final, SupportsIndex

from cowd import _page_scan
from cowd._arguments import as_integer, as_pids, as_ranges
from cowd._errors import InvalidRequest
from cowd._mappings import MappingList
from cowd._page_reading import read_settled
from cowd._page_scan import iter_populated
from cowd._pages import PAGES_PER_PART, PageChunk, PageFlags, PageState
from cowd._process import Process, open_process
from cowd._summaries import ProcessSummary

__all__ = ["Local"]

_PAGE_SIZE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_ADDRESS_SPACE_BYTES: Final = 1 << 64


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
        _verify_range(address, count, most=PAGES_PER_PART)
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
        for chunk in self.stream_page_flags(
            pid, ranges, expected_start_time_ticks=expected_start_time_ticks
        ):
            yield from chunk.iter_parts()

    def stream_page_flags(
        self,
        pid: int,
        ranges: Iterable[tuple[int, int]],
        *,
        expected_start_time_ticks: int = 0,
    ) -> Iterator[PageChunk]:
        """Yield what the kernel tells you about ranges of pages, without a list of what is absent.

        With PAGEMAP_SCAN (Linux 6.7), reserved memory is not even looked at. Args and errors are
        those of `Client.stream_page_flags`.
        """
        wanted = as_ranges(ranges)
        for address, count in wanted:
            _verify_range(address, count)
        with open_process(pid, expected_start_time_ticks) as process:
            for address, count in wanted:
                yield from _iter_chunks(process, address, address + count * _PAGE_SIZE_BYTES)

    def list_mappings(
        self, pid: int, *, with_page_counts: bool = False, expected_start_time_ticks: int = 0
    ) -> MappingList:
        """Return all mappings of a process, in address order.

        Args and errors are those of `Client.list_mappings`.
        """
        with open_process(pid, expected_start_time_ticks) as process:
            mappings = process.list_mappings()
            if with_page_counts:
                from cowd._page_counting import count_pages

                mappings = count_pages(process, mappings)
            return MappingList(pid, process.start_time_ticks, mappings)

    def summarize_processes(
        self, pids: Iterable[SupportsIndex] | None = None
    ) -> Iterator[ProcessSummary]:
        """Yield how many pages of processes are what, as they are read.

        Args and what is yielded are those of `Client.summarize_processes`.
        """
        from cowd._page_counting import summarize, sweep

        if pids is None:
            yield from sweep()
            return
        for pid in as_pids(pids):
            yield summarize(pid)


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


def _iter_chunks(process: Process, start: int, end: int) -> Iterator[PageChunk]:
    last_page = end - _PAGE_SIZE_BYTES
    process.read_entries(last_page, 1)  # The ioctl would say EFAULT past the address space.
    populated: Iterable[tuple[int, int]] = [(start, end)]
    if _page_scan.has_pagemap_scan():
        populated = iter_populated(process.pagemap, start, end)
    for chunk_end, stretches in _iter_portions(populated, end):
        chunk = _read_chunk(process, start, chunk_end, stretches)
        process.read_entries(last_page, 1)  # To the ioctl, a process that has gone is empty.
        yield chunk
        start = chunk_end


def _iter_portions(
    stretches: Iterable[tuple[int, int]], end: int
) -> Iterator[tuple[int, list[tuple[int, int]]]]:
    """Yield where each chunk ends, and addresses and page counts of what is to be listed in it."""
    listed: list[tuple[int, int]] = []
    room = PAGES_PER_PART
    told_until = None
    for start, stretch_end in stretches:
        address = start
        while address < stretch_end:
            count = min(room, (stretch_end - address) // _PAGE_SIZE_BYTES)
            listed.append((address, count))
            address += count * _PAGE_SIZE_BYTES
            room -= count
            if not room:
                yield address, listed
                listed, room, told_until = [], PAGES_PER_PART, address
    if told_until != end:
        yield end, listed


def _read_chunk(
    process: Process, start: int, end: int, stretches: Iterable[tuple[int, int]]
) -> PageChunk:
    addresses, counts = array("Q"), array("I")
    states, attributes = bytearray(), bytearray()
    for address, count in stretches:
        found = read_settled(process, address, count)
        if any(map(_has_something, found, (PageState.ABSENT, 0))):
            addresses.append(address)
            counts.append(count)
            states += found[0]
            attributes += found[1]
    return PageChunk(
        pid=process.pid,
        page_size_bytes=_PAGE_SIZE_BYTES,
        address=start,
        page_count=(end - start) // _PAGE_SIZE_BYTES,
        start_time_ticks=process.start_time_ticks,
        masks=None,
        stretch_addresses=addresses,
        stretch_page_counts=counts,
        kpageflags=None,
        states=bytes(states),
        attributes=bytes(attributes),
    )


def _has_something(values: bytearray, nothing: int) -> bool:
    return values.count(nothing) != len(values)


def _read_page_flags(process: Process, address: int, count: int) -> PageFlags:
    states, attributes = read_settled(process, address, count)
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
