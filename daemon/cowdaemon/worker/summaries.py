# SPDX-License-Identifier: Apache-2.0
"""How many pages of a process are in which state, by kind of mapping.

Worker, unprivileged. Its mappings are listed first, and then read in bounded chunks; where the
kernel says that nothing is, that is skipped. Pages that are mapped after the listing are not
counted, those that are unmapped count as absent. Fails if the address space goes meanwhile.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cowdaemon.limits import PAGES_PER_CALL
from cowdaemon.worker.mappings import Extent, MappingKind
from cowdaemon.worker.page_scan import iter_populated
from cowdaemon.worker.page_states import Bytes, PageState
from cowdaemon.worker.pagemap import ShortReadError, Stretches, join_stretches, read_entries
from cowdaemon.worker.reader import Reader, classify_readings
from cowdaemon.worker.targets import Target

__all__ = [
    "Totals",
    "add_up",
    "count_states",
    "number_extents",
    "summarize",
]

Numbers = NDArray[np.int64]

_PAGE_SIZE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_STATES: Final = max(PageState) + 1
_KINDS: Final = max(MappingKind) + 1
_NO_KIND: Final = 0
_JOINED_PAGES: Final = 512
"""Regions this close are read as one. An empty page costs 45 ns, a read by itself 80 us."""


class Totals(NamedTuple):
    """The mappings of one kind: how many there are, and how many of their pages by state."""

    kind: MappingKind
    mapping_count: int
    page_counts: dict[PageState, int]


def summarize(reader: Reader, target: Target, verify_wanted: Callable[[], None]) -> list[Totals]:
    """Return the totals of each kind of mapping that a process has.

    Args:
        reader: reads its pages.
        target: the process.
        verify_wanted: called before each chunk; what it raises ends the reading.

    Raises:
        ShortReadError: the address space is gone.
    """
    mapped = number_extents(target.list_extents())
    is_inside = np.array([_is_inside(target, *row) for row in mapped.tolist()], np.bool_)
    inside = mapped[is_inside]
    counts = np.zeros((_KINDS, _STATES), np.int64)
    for first, end, kind in mapped[~is_inside].tolist():
        counts[kind, PageState.UNKNOWN] += end - first
    stretches = chain.from_iterable(_iter_stretches(reader, target, inside))
    for first, end in (stretch.tolist() for stretch in stretches):
        for page in range(first, end, PAGES_PER_CALL):
            verify_wanted()
            readings = reader.read(
                target.pagemap, page * _PAGE_SIZE_BYTES, min(PAGES_PER_CALL, end - page)
            )
            states, _ = classify_readings(readings, reader.features.layout)
            counts += count_states(inside, page, states)
    if not target.is_alive():  # what was skipped may have been empty for that
        raise ShortReadError
    return add_up(mapped, counts)


def _is_inside(target: Target, first: int, _: int, kind: int) -> bool:
    """Tell whether pagemap has entries there: [vsyscall] is past the end of the address space."""
    try:
        if kind == MappingKind.SPECIAL:
            read_entries(target.pagemap, first * _PAGE_SIZE_BYTES, 1)
    except ShortReadError:
        return False
    return True


def _iter_stretches(reader: Reader, target: Target, mapped: Numbers) -> Iterator[Stretches]:
    """Yield the stretches to read; elsewhere is nothing."""
    if not reader.features.has_pagemap_scan or not len(mapped):
        yield join_stretches(mapped[:, :2], _JOINED_PAGES)
        return
    for found in iter_populated(target.pagemap, int(mapped[0, 0]), int(mapped[-1, 1])):
        yield join_stretches(found, _JOINED_PAGES)


def number_extents(extents: Sequence[Extent]) -> Numbers:
    """Return a row for each extent: its first page, the page after its last, its kind."""
    rows = [
        (start_address // _PAGE_SIZE_BYTES, end_address // _PAGE_SIZE_BYTES, kind)
        for start_address, end_address, kind in extents
    ]
    return np.array(rows, np.int64).reshape(-1, 3)


def count_states(mapped: Numbers, first_page: int, states: Bytes) -> Numbers:
    """Return how many of consecutive pages are in which state, by the kind of their mapping.

    Args:
        mapped: as of `number_extents`, ascending, none overlapping.
        first_page: number of the first page.
        states: of each page.

    Returns:
        A table with a row for each kind and a column for each state, by their numbers. Row 0 is
        for pages outside of any mapping.
    """
    end_page = first_page + len(states)
    among = slice(
        np.searchsorted(mapped[:, 1], first_page), np.searchsorted(mapped[:, 0], end_page)
    )
    borders = mapped[among, :2].ravel().clip(first_page, end_page)
    lengths = np.diff(borders, prepend=first_page, append=end_page)
    kinds = np.full(len(lengths), _NO_KIND, np.uint8)  # every second stretch is between mappings
    kinds[1::2] = mapped[among, 2]
    numbers = np.repeat(kinds, lengths) * np.uint8(_STATES) + states
    return np.bincount(numbers, minlength=_KINDS * _STATES).reshape(_KINDS, _STATES)


def add_up(mapped: Numbers, counts: Numbers) -> list[Totals]:
    """Return the totals of each kind that there is, by its number; what was not counted is absent.

    Args:
        mapped: as of `number_extents`.
        counts: as of `count_states`, of pages that were each counted once.
    """
    totals = []
    for kind in MappingKind:
        of_kind = mapped[mapped[:, 2] == kind]
        if len(of_kind):
            page_counts = {state: int(counts[kind, state]) for state in PageState}
            size_pages = int((of_kind[:, 1] - of_kind[:, 0]).sum())
            page_counts[PageState.ABSENT] += size_pages - sum(page_counts.values())
            totals.append(Totals(kind, len(of_kind), page_counts))
    return totals
