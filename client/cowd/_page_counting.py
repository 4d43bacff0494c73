# SPDX-License-Identifier: Apache-2.0
"""How many pages of a process are what, without the daemon: by mapping, and by kind of mapping.

Runs with the caller's own rights. Mappings are listed first; where the kernel says that nothing is,
nothing is read. Pages that are unmapped after the listing count as absent.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Final

from cowd import _page_scan
from cowd._counts import PageCounts, sum_counts
from cowd._errors import (
    OF_ONE_PROCESS,
    Error,
    FailedPrecondition,
    InternalError,
    InvalidRequest,
)
from cowd._mappings import Mapping, MappingKind
from cowd._page_reading import read_settled
from cowd._page_scan import iter_populated
from cowd._pages import PAGES_PER_PART, PageState
from cowd._process import Process, open_process
from cowd._summaries import KindTotals, ProcessSummary

__all__ = ["count_pages", "summarize", "sweep"]

_PAGE_SIZE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


def count_pages(process: Process, mappings: Sequence[Mapping]) -> list[Mapping]:
    """Return mappings with the number of their pages in each state.

    Args:
        process: whose mappings they are.
        mappings: in address order.

    Raises:
        Error: the process has gone.
    """
    counted = [_count_outside(process, mapping) for mapping in mappings]
    inside = [index for index, each in enumerate(counted) if each.page_counts is None]
    if inside:
        counts = _count_inside(process, [mappings[index] for index in inside])
        for index, page_counts in zip(inside, counts, strict=True):
            counted[index] = replace(mappings[index], page_counts=page_counts)
    return counted


def summarize(pid: int) -> ProcessSummary:
    """Return how many pages of a process are what, or why that cannot be told."""
    try:
        return _summarize(pid)
    except InternalError:
        raise
    except Error as error:
        return ProcessSummary(pid, 0, _PAGE_SIZE_BYTES, (), error)


def sweep() -> Iterator[ProcessSummary]:
    """Yield the same of every process that may be opened, in ascending order of pids.

    Raises:
        Error: it concerns no single process.
    """
    for pid in _list_pids():
        try:
            yield _summarize(pid)
        except OF_ONE_PROCESS:
            continue


def _list_pids() -> list[int]:
    try:
        return sorted(int(name) for name in os.listdir("/proc") if name.isdecimal())
    except OSError as error:
        raise FailedPrecondition(f"there is no /proc here to ask: {error.strerror}") from error


def _summarize(pid: int) -> ProcessSummary:
    with open_process(pid) as process:
        mappings = count_pages(process, process.list_mappings())
        return ProcessSummary(
            pid, process.start_time_ticks, _PAGE_SIZE_BYTES, tuple(_add_up(mappings))
        )


def _add_up(mappings: Sequence[Mapping]) -> Iterator[KindTotals]:
    for kind in MappingKind:
        counts = [each.page_counts or PageCounts() for each in mappings if each.kind is kind]
        if counts:
            yield KindTotals(kind, len(counts), sum_counts(counts))


def _count_outside(process: Process, mapping: Mapping) -> Mapping:
    """Return a mapping past the end of the address space, [vsyscall], counted; others as is."""
    if mapping.kind is not MappingKind.SPECIAL:
        return mapping
    try:
        process.read_entries(mapping.start_address, 1)
    except InvalidRequest:
        unknown = PageCounts(unknown=mapping.size_bytes // _PAGE_SIZE_BYTES)
        return replace(mapping, page_counts=unknown)
    return mapping


def _count_inside(process: Process, mappings: Sequence[Mapping]) -> list[PageCounts]:
    """Return the numbers of each of several mappings in address order."""
    counts = [[0] * len(PageState) for _ in mappings]
    first = 0  # of the mappings that are not done
    for address, states in _iter_states(process, mappings):
        end = address + len(states) * _PAGE_SIZE_BYTES
        while mappings[first].end_address <= address:
            first += 1
        for index in range(first, len(mappings)):
            mapping = mappings[index]
            if mapping.start_address >= end:
                break
            here = slice(
                max(0, mapping.start_address - address) // _PAGE_SIZE_BYTES,
                (min(end, mapping.end_address) - address) // _PAGE_SIZE_BYTES,
            )
            of_mapping = counts[index]
            part = states[here]
            for position, state in enumerate(PageState):
                of_mapping[position] += part.count(state)
    process.verify_alive()  # what was skipped may have been empty for that
    return [
        _complete(PageCounts(*numbers), mapping)
        for numbers, mapping in zip(counts, mappings, strict=True)
    ]


def _complete(counts: PageCounts, mapping: Mapping) -> PageCounts:
    """Return the numbers with what was not looked at, which is absent."""
    return counts + PageCounts(absent=mapping.size_bytes // _PAGE_SIZE_BYTES - counts.total)


def _iter_states(process: Process, mappings: Sequence[Mapping]) -> Iterator[tuple[int, bytearray]]:
    """Yield the address of some pages, which ascends, and their states; elsewhere is nothing."""
    for start, end in _iter_stretches(process, mappings):
        for address in range(start, end, PAGES_PER_PART * _PAGE_SIZE_BYTES):
            count = min(PAGES_PER_PART, (end - address) // _PAGE_SIZE_BYTES)
            yield address, read_settled(process, address, count)[0]


def _iter_stretches(process: Process, mappings: Sequence[Mapping]) -> Iterable[tuple[int, int]]:
    if _page_scan.has_pagemap_scan():
        return iter_populated(process.pagemap, mappings[0].start_address, mappings[-1].end_address)
    return ((each.start_address, each.end_address) for each in mappings)
