# SPDX-License-Identifier: Apache-2.0
"""How many pages of each mapping of a process are in which state.

Worker, unprivileged. The mappings have been listed; what is in them is gone through in bounded
parts. From Linux 6.7 on the kernel tells regions of pages that are alike; what that leaves open
(copies in mappings of files, huge pages, what is swapped) is read page by page, as everything is
before. Pages are told as they are when they are scanned or read. What has been mapped since the
listing is not counted, what has been unmapped is absent. Fails if the address space goes meanwhile.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Final, NamedTuple

import numpy as np

from cowdaemon.limits import SMALL_PAGES
from cowdaemon.worker.chunks import divide_stretches
from cowdaemon.worker.mappings import MappingKind, find_anonymous
from cowdaemon.worker.page_scan import Regions, iter_regions
from cowdaemon.worker.page_states import Mask, PageState
from cowdaemon.worker.pagemap import (
    PROCESS_SHIFT,
    Numbers,
    Pagemap,
    ShortReadError,
    Stretches,
    count_pages,
    find_overlap,
    join_stretches,
    read_entries,
)
from cowdaemon.worker.read_ahead import Run
from cowdaemon.worker.reader import Reader
from cowdaemon.worker.region_states import NOT_TOLD, classify_regions
from cowdaemon.worker.targets import Target

__all__ = ["Plan", "count_mappings", "count_together", "divide_regions", "make_plan"]

_PAGE_SIZE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_STATE_NUMBERS: Final = max(PageState) + 1  # with 0, which is none
_LARGE_PAGES: Final = 1 << 12
"""Of an anonymous mapping that is scanned by itself. That takes 14 ns a page that is present in the
place of 60 to 180, and some 10 us for one scan more."""
_MANY_LARGE: Final = 256
"""Of more of them than this, none is."""
_MANY_REGIONS: Final = 2_048
"""Of what was found at once: they are small then, and where some are, there mostly are more."""
_AROUND_PAGES: Final = 1 << 17
"""Read without a look then: the empty pages in it cost less than to find so many regions."""


class Plan(NamedTuple):
    """What is to be gone through to count the pages of a process.

    Attributes:
        mapped: its mappings, as of `number_extents`.
        is_inside: of which of them pagemap has entries; one element a mapping.
        parts: at most PAGES_PER_CALL pages at a time; elsewhere is nothing.
        whole: all of it, if that is one part of no more than SMALL_PAGES.
    """

    target: Target
    mapped: Numbers
    is_inside: Mask
    parts: Iterable[Regions]
    whole: Regions | None


def make_plan(reader: Reader, target: Target, mapped: Numbers) -> Plan:
    """Return what is to be gone through, of which no more than the beginning is looked at now.

    Args:
        reader: of the pages.
        target: the process.
        mapped: its mappings, as of `number_extents`.
    """
    is_inside = np.ones(len(mapped), np.bool_)
    for place in (mapped[:, 2] == MappingKind.SPECIAL).nonzero()[0].tolist():
        is_inside[place] = _is_inside(target, int(mapped[place, 0]))
    parts = _iter_parts(reader, target, mapped[is_inside])
    found: list[Regions] = []
    page_count = 0
    for part in parts:
        found.append(part)
        page_count += count_pages(part)
        if page_count > SMALL_PAGES:
            break
    whole = np.concatenate(found) if found and page_count <= SMALL_PAGES else None
    return Plan(target, mapped, is_inside, chain(found, parts), whole)


def _is_inside(target: Target, first_page: int) -> bool:
    """Tell whether pagemap has entries there: [vsyscall] is past the end of the address space."""
    try:
        read_entries(target.pagemap, first_page * _PAGE_SIZE_BYTES, 1)
    except ShortReadError:
        return False
    return True


def _iter_parts(reader: Reader, target: Target, mapped: Numbers) -> Iterator[Regions]:
    """Yield what is to be gone through of mappings, as `Plan` says."""
    if not reader.features.has_pagemap_scan:
        yield from _iter_unseen(mapped[:, :2])
        return
    for first, end, is_anonymous in _iter_spans(mapped):
        yield from _iter_scanned(target, mapped[:, :2], first, end, is_anonymous)


def _iter_spans(mapped: Numbers) -> Iterator[tuple[int, int, bool]]:
    """Yield first page and page after the last of what is scanned in one go; whether it is large.

    That is a large anonymous mapping, or all that lies between two of them. If a file is mapped in
    its place before it is scanned, the file's pages count as the anonymous ones that were there.
    """
    sizes = mapped[:, 1] - mapped[:, 0]
    is_large = (mapped[:, 2] == MappingKind.ANONYMOUS) & (sizes >= _LARGE_PAGES)
    large: list[list[int]] = mapped[is_large, :2].tolist()
    if len(large) > _MANY_LARGE:
        large = []
    first = int(mapped[0, 0]) if len(mapped) else 0
    for start, end in large:
        if first < start:
            yield first, start, False
        yield start, end, True
        first = end
    if len(mapped) and first < mapped[-1, 1]:
        yield first, int(mapped[-1, 1]), False


def _iter_scanned(
    target: Target, mapped: Stretches, first: int, end: int, is_anonymous: bool
) -> Iterator[Regions]:
    """Yield what there is from `first` on, before `end`."""
    while first < end:
        for regions in iter_regions(target.pagemap, first, end, is_anonymous):
            yield regions
            if len(regions) >= _MANY_REGIONS and regions[-1, 1] - regions[0, 0] <= _AROUND_PAGES:
                first = int(regions[-1, 1])
                break
        else:
            return
        # Regions are small here: to be told of them takes longer than to read all that is around.
        last = min(first + _AROUND_PAGES, end)
        around = mapped[find_overlap(mapped, np.array([[first, last]]))]
        yield from _iter_unseen(around.clip(first, last))
        first = last


def _iter_unseen(stretches: Stretches) -> Iterator[Regions]:
    """Yield stretches that nobody has looked at, by parts."""
    if len(stretches):
        for part in divide_stretches(stretches):
            yield np.column_stack((part, np.zeros(len(part), np.int64)))


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
        plan: which ones. Its parts are used up.
        verify_wanted: called before each part; what it raises ends the reading.
        most_pages: once so many have been seen, the mapping that they are in is the last.
        run: applies a function to all parts: `map`, or the same in several threads.

    Returns:
        A row for each mapping, or for the first ones, and a column for each state, by its number.

    Raises:
        ShortReadError: the address space is gone.
    """
    target, mapped, is_inside, parts, _ = plan
    inside = mapped[is_inside]
    counted = np.zeros((len(inside), _STATE_NUMBERS), np.int64)
    seen_count, last_page = 0, None

    def count(part: Regions) -> tuple[Regions, slice, Numbers]:
        verify_wanted()
        return part, *_count_part(reader, target.pagemap, inside, part)

    for part, where, table in run(count, parts):
        if last_page is not None and part[0, 0] >= last_page:
            break
        counted[where] += table
        seen_count += count_pages(part)
        if last_page is None and most_pages is not None and seen_count >= most_pages:
            # To the end of the mapping that has the last page that was seen.
            last_page = mapped[np.searchsorted(mapped[:, 0], part[-1, 1]) - 1, 1]
    counts = _complete(mapped, is_inside, counted)
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
    inside = _number_apart([plan.mapped[plan.is_inside] for plan in plans])
    pagemaps = [plan.target.pagemap for plan in plans]
    counted = np.zeros((len(inside), _STATE_NUMBERS), np.int64)
    where, table = _count_part(reader, pagemaps, inside, _number_apart(wholes))
    counted[where] = table
    mapped = np.concatenate([plan.mapped for plan in plans])
    counts = _complete(mapped, np.concatenate([plan.is_inside for plan in plans]), counted)
    return np.split(counts, np.cumsum([len(plan.mapped) for plan in plans[:-1]]))


def _number_apart(processes: Sequence[Numbers]) -> Numbers:
    """Return the rows of several processes, their pages numbered as `Pagemap` says."""
    rows = np.concatenate(processes)
    places = np.repeat(np.arange(len(processes)), [len(each) for each in processes])
    rows[:, :2] += (places << PROCESS_SHIFT)[:, None]
    return rows


def _complete(mapped: Numbers, is_inside: Mask, counted: Numbers) -> Numbers:
    """Return a row for each mapping: what was not counted is absent, or cannot be told."""
    counts = np.zeros((len(mapped), _STATE_NUMBERS), np.int64)
    counts[is_inside] = counted
    missing = mapped[:, 1] - mapped[:, 0] - counts.sum(1)
    counts[:, PageState.ABSENT] += np.where(is_inside, missing, 0)
    counts[:, PageState.UNKNOWN] += np.where(is_inside, 0, missing)
    return counts


def _count_part(
    reader: Reader, pagemap: Pagemap, inside: Numbers, part: Regions
) -> tuple[slice, Numbers]:
    """Return which mappings a part may be of, and a row of `count_mappings` for each of them."""
    reader.note_pages(count_pages(part))
    among = find_overlap(inside, part)
    mapped = inside[among]
    places, pieces = divide_regions(part, mapped)
    is_anonymous = mapped[places, 2] == MappingKind.ANONYMOUS
    states = classify_regions(pieces[:, 2], is_anonymous)
    lengths = pieces[:, 1] - pieces[:, 0]
    rows = places * _STATE_NUMBERS
    size = len(mapped) * _STATE_NUMBERS
    is_open = states == NOT_TOLD
    counts = np.bincount(rows + states, lengths * ~is_open, size).astype(np.int64)  # below 2^53
    left = is_open.nonzero()[0]
    if len(left):
        stretches = join_stretches(pieces[left, :2])
        read = reader.read_states(pagemap, stretches, find_anonymous(mapped))
        rows_of_pages = rows[left].repeat(lengths[left])
        counts += np.bincount(rows_of_pages + read, minlength=size)
    return among, counts.reshape(-1, _STATE_NUMBERS)


def divide_regions(regions: Regions, mapped: Numbers) -> tuple[Numbers, Regions]:
    """Cut regions at the borders of mappings; what lies in none is left out.

    Args:
        regions: ascending, none overlapping.
        mapped: first page and page after the last in front; the same.

    Returns:
        The place of the mapping that each piece lies in, and the pieces.
    """
    first = mapped[:, 1].searchsorted(regions[:, 0], "right")
    counts = mapped[:, 0].searchsorted(regions[:, 1], "left") - first
    ends = counts.cumsum()
    pieces = regions.repeat(counts, 0)
    places = np.arange(len(pieces)) + (first - ends + counts).repeat(counts)
    np.maximum(pieces[:, 0], mapped[places, 0], out=pieces[:, 0])
    np.minimum(pieces[:, 1], mapped[places, 1], out=pieces[:, 1])
    return places, pieces
