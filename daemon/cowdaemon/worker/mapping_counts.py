# SPDX-License-Identifier: Apache-2.0
"""How many pages of each mapping of a process are in which state.

Worker, unprivileged. The mappings have been listed; they are read in bounded pieces, and where the
kernel says that nothing is, that is skipped. Pages that are mapped after the listing are not
counted, those that are unmapped count as absent. Fails if the address space goes meanwhile.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Final, NamedTuple

import numpy as np

from cowdaemon.worker.chunks import divide_stretches
from cowdaemon.worker.mappings import MappingKind, find_anonymous
from cowdaemon.worker.page_scan import iter_populated
from cowdaemon.worker.page_states import Bytes, Mask, PageState
from cowdaemon.worker.pagemap import (
    PROCESS_SHIFT,
    Numbers,
    ShortReadError,
    Stretches,
    count_pages,
    find_overlap,
    join_stretches,
    read_entries,
    spread,
)
from cowdaemon.worker.read_ahead import Run
from cowdaemon.worker.reader import Reader
from cowdaemon.worker.targets import Target

__all__ = ["Plan", "count_mappings", "count_states", "count_together", "make_plan"]

_PAGE_SIZE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_STATES: Final = max(PageState) + 1
_JOINED_PAGES: Final = 64
"""Stretches this close are read as one. An empty page costs some 10 ns, a read by itself 600."""
_FEW_PAGES: Final = 8_192
"""Up to so many pages of mappings are all read: to find out what is empty takes longer."""
_MANY_STRETCHES: Final = 2_048
"""Of what was found at once: they are small then, and where some are, there mostly are more."""
_AROUND_PAGES: Final = 1 << 17
"""Read without a look then: the empty pages in it cost less than to find so many stretches."""


class Plan(NamedTuple):
    """What is to be read to count the pages of a process.

    Attributes:
        mapped: its mappings, as of `number_extents`.
        is_inside: of which of them pagemap has entries.
        pieces: what is to be read, at most PAGES_PER_CALL pages at a time; elsewhere is nothing.
        whole: all of it, if that is one piece.
    """

    target: Target
    mapped: Numbers
    is_inside: Mask
    pieces: Iterable[Stretches]
    whole: Stretches | None


def make_plan(reader: Reader, target: Target, mapped: Numbers) -> Plan:
    """Return what is to be read of mappings, of which no more than the beginning is looked for now.

    Args:
        reader: of the pages.
        target: the process.
        mapped: its mappings, as of `number_extents`.
    """
    is_inside = np.ones(len(mapped), np.bool_)
    for place in (mapped[:, 2] == MappingKind.SPECIAL).nonzero()[0].tolist():
        is_inside[place] = _is_inside(target, int(mapped[place, 0]))
    pieces = _iter_pieces(reader, target, mapped[is_inside, :2])
    found = list(islice(pieces, 2))
    whole = found[0] if len(found) == 1 else None
    return Plan(target, mapped, is_inside, chain(found, pieces), whole)


def _is_inside(target: Target, first_page: int) -> bool:
    """Tell whether pagemap has entries there: [vsyscall] is past the end of the address space."""
    try:
        read_entries(target.pagemap, first_page * _PAGE_SIZE_BYTES, 1)
    except ShortReadError:
        return False
    return True


def _iter_pieces(reader: Reader, target: Target, mapped: Stretches) -> Iterator[Stretches]:
    """Yield what is to be read of mappings, as `Plan` says."""
    if not reader.features.has_pagemap_scan or count_pages(mapped) <= _FEW_PAGES:
        if len(mapped):
            yield from divide_stretches(join_stretches(mapped, _JOINED_PAGES))
        return
    first, end = int(mapped[0, 0]), int(mapped[-1, 1])
    while first < end:
        for found in iter_populated(target.pagemap, first, end):
            yield from divide_stretches(join_stretches(found, _JOINED_PAGES))
            if len(found) >= _MANY_STRETCHES and found[-1, 1] - found[0, 0] <= _AROUND_PAGES:
                first = int(found[-1, 1])
                break
        else:
            return
        # Full of holes: to find them takes longer than to read what is around here, holes or not.
        around = mapped[find_overlap(mapped, np.array([[first, first + _AROUND_PAGES]]))]
        around = around.clip(first, first + _AROUND_PAGES)
        first += _AROUND_PAGES
        if len(around):
            yield from divide_stretches(join_stretches(around, _JOINED_PAGES))


def count_mappings(
    reader: Reader,
    plan: Plan,
    verify_wanted: Callable[[], None],
    most_pages: int | None = None,
    run: Run = map,
) -> Numbers:
    """Return how many pages of each mapping are in which state.

    Whether the address space lives still is to be asked afterwards: what was skipped may have been
    empty because it does not.

    Args:
        reader: reads the pages.
        plan: which ones. Its pieces are used up.
        verify_wanted: called before each piece; what it raises ends the reading.
        most_pages: once so many have been read, the mapping that is being read is the last.
        run: applies a function to all pieces: `map`, or the same in several threads.

    Returns:
        A row for each mapping, or for the first ones, and a column for each state, by its number.

    Raises:
        ShortReadError: the address space is gone.
    """
    target, mapped, is_inside, pieces, _ = plan
    inside = mapped[is_inside]
    anonymous = find_anonymous(inside)
    counted = np.zeros((len(inside), _STATES), np.int64)
    read_count, last_page = 0, None

    def read(piece: Stretches) -> tuple[Stretches, Bytes]:
        verify_wanted()
        return piece, reader.read_states(target.pagemap, piece, anonymous)

    for piece, states in run(read, pieces):
        if last_page is not None and piece[0, 0] >= last_page:
            break
        where, table = count_states(inside, piece, states)
        counted[where] += table
        read_count += len(states)
        if last_page is None and most_pages is not None and read_count >= most_pages:
            # To the end of the mapping that has the last page that was read.
            last_page = mapped[np.searchsorted(mapped[:, 0], piece[-1, 1]) - 1, 1]
    counts = _complete(plan, counted)
    return counts if last_page is None else counts[mapped[:, 1] <= last_page]


def count_together(reader: Reader, plans: Sequence[Plan]) -> list[Numbers]:
    """Do what `count_mappings` does for several processes at once: numpy's calls cost less then.

    Here, too, whether they live still is to be asked afterwards.

    Args:
        reader: reads the pages.
        plans: each of which has a `whole`.

    Raises:
        ShortReadError: one of the address spaces is gone.
    """
    wholes = [plan.whole for plan in plans if plan.whole is not None]
    if not wholes:
        return []
    parts = [plan.mapped[plan.is_inside] for plan in plans]
    inside, stretches = _number_apart(parts), _number_apart(wholes)
    pagemaps = [plan.target.pagemap for plan in plans]
    states = reader.read_states(pagemaps, stretches, find_anonymous(inside))
    counted = np.zeros((len(inside), _STATES), np.int64)
    where, table = count_states(inside, stretches, states)
    counted[where] = table
    divided = np.split(counted, np.cumsum([len(part) for part in parts])[:-1])
    return [_complete(plan, part) for plan, part in zip(plans, divided, strict=True)]


def _number_apart(parts: Sequence[Numbers]) -> Numbers:
    """Return the rows of several processes, their pages numbered as `Pagemap` says."""
    rows = np.concatenate(parts)
    places = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    rows[:, :2] += (places << PROCESS_SHIFT)[:, None]
    return rows


def _complete(plan: Plan, counted: Numbers) -> Numbers:
    """Return a row for each mapping: what was not counted is absent, or cannot be told."""
    mapped, is_inside = plan.mapped, plan.is_inside
    counts = np.zeros((len(mapped), _STATES), np.int64)
    counts[is_inside] = counted
    missing = mapped[:, 1] - mapped[:, 0] - counts.sum(1)
    counts[:, PageState.ABSENT] += np.where(is_inside, missing, 0)
    counts[:, PageState.UNKNOWN] += np.where(is_inside, 0, missing)
    return counts


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
