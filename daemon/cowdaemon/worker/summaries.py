# SPDX-License-Identifier: Apache-2.0
"""How many pages are in which state, by mapping or by kind of mapping.

Worker, unprivileged. The mappings are listed first, and then read in bounded pieces; where the
kernel says that nothing is, that is skipped. Pages that are mapped after the listing are not
counted, those that are unmapped count as absent. Fails if the address space goes meanwhile.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np

from cowdaemon.worker.chunks import divide_stretches
from cowdaemon.worker.mappings import Extent, MappingKind
from cowdaemon.worker.page_scan import iter_populated
from cowdaemon.worker.page_states import Bytes, PageState
from cowdaemon.worker.pagemap import (
    Numbers,
    ShortReadError,
    Stretches,
    count_pages,
    find_overlap,
    join_stretches,
    read_entries,
    spread,
)
from cowdaemon.worker.reader import Reader
from cowdaemon.worker.targets import Target

__all__ = [
    "Totals",
    "add_up",
    "count_mappings",
    "count_states",
    "number_extents",
    "summarize",
]

_PAGE_SIZE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_STATES: Final = max(PageState) + 1
_JOINED_PAGES: Final = 64
"""Regions this close are read as one. An empty page costs some 10 ns, a read by itself 600."""
_FEW_PAGES: Final = 16_384
"""Up to so many pages of mappings are all read: to find out what is empty takes longer."""


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
        verify_wanted: called before each piece; what it raises ends the reading.

    Raises:
        ShortReadError: the address space is gone.
    """
    mapped = number_extents(target.list_extents())
    return add_up(mapped, count_mappings(reader, target, mapped, verify_wanted))


def count_mappings(
    reader: Reader,
    target: Target,
    mapped: Numbers,
    verify_wanted: Callable[[], None],
    most_pages: int | None = None,
) -> Numbers:
    """Return how many pages of each mapping are in which state.

    Args:
        reader: reads the pages.
        target: the process.
        mapped: its mappings, as of `number_extents`.
        verify_wanted: called before each piece; what it raises ends the reading.
        most_pages: once so many have been read, the mapping that is being read is the last.

    Returns:
        A row for each mapping, or for the first ones, and a column for each state, by its number.

    Raises:
        ShortReadError: the address space is gone.
    """
    counts = np.zeros((len(mapped), _STATES), np.int64)
    is_inside = np.ones(len(mapped), np.bool_)
    for place in (mapped[:, 2] == MappingKind.SPECIAL).nonzero()[0]:
        is_inside[place] = _is_inside(target, int(mapped[place, 0]))
    inside = mapped[is_inside]
    anonymous = inside[inside[:, 2] == MappingKind.ANONYMOUS, :2]
    counted = np.zeros((len(inside), _STATES), np.int64)
    read_count, last_page = 0, None
    for piece in _iter_pieces(reader, target, inside):
        if last_page is not None and piece[0, 0] >= last_page:
            break
        verify_wanted()
        states = reader.read_states(target.pagemap, piece, anonymous)
        where, table = count_states(inside, piece, states)
        counted[where] += table
        read_count += len(states)
        if last_page is None and most_pages is not None and read_count >= most_pages:
            # To the end of the mapping that has the last page that was read.
            last_page = mapped[np.searchsorted(mapped[:, 0], piece[-1, 1]) - 1, 1]
    if not target.is_alive():  # what was skipped may have been empty for that
        raise ShortReadError
    counts[is_inside] = counted
    sizes = mapped[:, 1] - mapped[:, 0]
    counts[~is_inside, PageState.UNKNOWN] = sizes[~is_inside]
    counts[:, PageState.ABSENT] += sizes - counts.sum(1)
    return counts if last_page is None else counts[mapped[:, 1] <= last_page]


def _is_inside(target: Target, first_page: int) -> bool:
    """Tell whether pagemap has entries there: [vsyscall] is past the end of the address space."""
    try:
        read_entries(target.pagemap, first_page * _PAGE_SIZE_BYTES, 1)
    except ShortReadError:
        return False
    return True


def _iter_pieces(reader: Reader, target: Target, mapped: Numbers) -> Iterator[Stretches]:
    """Yield what is to be read, at most PAGES_PER_CALL pages at a time; elsewhere is nothing."""
    if not len(mapped):
        return
    if not reader.features.has_pagemap_scan or count_pages(mapped) <= _FEW_PAGES:
        yield from divide_stretches(join_stretches(mapped[:, :2], _JOINED_PAGES))
        return
    for found in iter_populated(target.pagemap, int(mapped[0, 0]), int(mapped[-1, 1])):
        yield from divide_stretches(join_stretches(found, _JOINED_PAGES))


def number_extents(extents: Sequence[Extent]) -> Numbers:
    """Return a row for each extent: its first page, the page after its last, its kind."""
    rows = [
        (start_address // _PAGE_SIZE_BYTES, end_address // _PAGE_SIZE_BYTES, kind)
        for start_address, end_address, kind in extents
    ]
    return np.array(rows, np.int64).reshape(-1, 3)


def count_states(mapped: Numbers, stretches: Stretches, states: Bytes) -> tuple[slice, Numbers]:
    """Return how many pages of stretches are in which state, by their mapping.

    Args:
        mapped: as of `number_extents`, ascending, none overlapping.
        stretches: which pages these are; those outside of any mapping are not counted.
        states: of each page.

    Returns:
        Which of the mappings these pages may be of, and a table with a row for each of those and a
        column for each state, by its number.
    """
    among = find_overlap(mapped, stretches)
    count = among.stop - among.start
    rows = np.arange(_STATES, _STATES * (count + 1), _STATES)
    places = spread(stretches, mapped[among, :2], rows)
    places += states
    table = np.bincount(places, minlength=_STATES * (count + 1)).reshape(-1, _STATES)
    return among, table[1:]


def add_up(mapped: Numbers, counts: Numbers) -> list[Totals]:
    """Return the totals of each kind that there is, by its number.

    Args:
        mapped: as of `number_extents`.
        counts: of each mapping, as of `count_mappings`.
    """
    totals = []
    for kind in MappingKind:
        is_of_kind = mapped[:, 2] == kind
        if is_of_kind.any():
            of_kind = counts[is_of_kind]
            page_counts = dict(zip(PageState, of_kind.sum(0).tolist()[1:], strict=True))
            totals.append(Totals(kind, len(of_kind), page_counts))
    return totals
