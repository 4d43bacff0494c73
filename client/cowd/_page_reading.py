# SPDX-License-Identifier: Apache-2.0
"""What pages are, as pagemap and PAGEMAP_SCAN have it together.

Runs with the caller's own rights. Errors are those of `Process`.
"""

import os
from collections.abc import Iterator
from typing import Final

from cowd import _page_scan, _pagemap
from cowd._mappings import MappingKind
from cowd._page_scan import iter_zero_pages
from cowd._pages import PageAttributes, PageState
from cowd._process import Process

__all__ = ["read_settled"]

_PAGE_SIZE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_SETTLE_ROUNDS: Final = 4
"""How often pages are looked at that change between two looks."""


def read_settled(
    process: Process, address: int, count: int, rounds: int = _SETTLE_ROUNDS
) -> tuple[bytearray, bytearray]:
    """Return states and attributes, each page's from one moment; unstable if it has none.

    Args:
        process: whose pages they are.
        address: of the first page, in bytes.
        count: number of pages.
        rounds: how often pages are looked at again that change between two looks.

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
    if not _page_scan.has_pagemap_scan():
        for first, last in _iter_anonymous_memory(process, address, end):
            states[first:last] = high[first:last].translate(_pagemap.STATES_OF_ANONYMOUS_MEMORY)
        return states, attributes
    for zero_start, zero_end in iter_zero_pages(process.pagemap, address, end):
        first, last = ((border - address) // _PAGE_SIZE_BYTES for border in (zero_start, zero_end))
        states[first:last] = bytes([PageState.ZERO]) * (last - first)
    high_now = _pagemap.high_bytes(process.read_entries(address, count))
    for first, last in _iter_differences(high, high_now):
        start = address + first * _PAGE_SIZE_BYTES
        if rounds:
            anew = read_settled(process, start, last - first, rounds - 1)
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
