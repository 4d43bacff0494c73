# SPDX-License-Identifier: Apache-2.0
"""How many pages are in which state, by mapping or by kind of mapping.

Worker, unprivileged. The mappings are listed first, and then read in bounded pieces; where the
kernel says that nothing is, that is skipped. Pages that are mapped after the listing are not
counted, those that are unmapped count as absent. Fails if the address space goes meanwhile.
"""

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from itertools import chain, islice
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np

from cowdaemon.limits import PAGES_PER_CALL, TARGETS_TOGETHER
from cowdaemon.worker.chunks import divide_stretches
from cowdaemon.worker.mappings import Extent, MappingKind
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
from cowdaemon.worker.read_ahead import read_ahead
from cowdaemon.worker.reader import Reader
from cowdaemon.worker.targets import Target

__all__ = [
    "Totals",
    "add_up",
    "count_mappings",
    "count_states",
    "iter_summaries",
    "number_extents",
    "summarize",
]

_T = TypeVar("_T")
Run = Callable[..., Iterable[Any]]
"""How a function is applied to many things: `map`, or the same in several threads."""

_PAGE_SIZE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_STATES: Final = max(PageState) + 1
_KINDS: Final = np.array(MappingKind)
_JOINED_PAGES: Final = 64
"""Regions this close are read as one. An empty page costs some 10 ns, a read by itself 600."""
_FEW_PAGES: Final = 8_192
"""Up to so many pages of mappings are all read: to find out what is empty takes longer."""
_MANY_REGIONS: Final = 2_048
"""Of what was found at once: they are small then, and where some are, there mostly are more."""
_AROUND_PAGES: Final = 1 << 17
"""Read without a look then: the empty pages in it cost less than to find so many regions."""


class Totals(NamedTuple):
    """The mappings of one kind: how many there are, and how many of their pages by state."""

    kind: MappingKind
    mapping_count: int
    page_counts: dict[PageState, int]


class _Listed(NamedTuple):
    """A process, its mappings, which of them pagemap has entries of, and what is to be read."""

    target: Target
    mapped: Numbers
    is_inside: Mask
    pieces: Iterator[Stretches]


def iter_summaries(
    reader: Reader,
    asked: Iterable[tuple[_T, Target | None]],
    verify_wanted: Callable[[], None],
    run: Run = map,
    targets_ahead: int = 0,
    may_read: Callable[[Target], bool] = lambda _: True,
) -> Iterator[tuple[_T, list[Totals] | None]]:
    """Yield the totals of each kind of mapping that processes have, in the order of the processes.

    Small ones are read together: what numpy's calls cost is shared by them.

    Args:
        reader: reads their pages.
        asked: the processes, each with anything that the caller knows it by; None for none.
        verify_wanted: called before each part of the work; what it raises ends the reading.
        run: as of `count_mappings`.
        targets_ahead: how many processes another thread looks at before it is their turn.
        may_read: asked when it is: whoever does not take the totals may have let much time pass.

    Yields:
        What the process is known by, and its totals; None if its address space is gone, or may not
        be read any more.
    """
    together: list[tuple[_T, _Listed | None, Stretches | None]] = []
    page_count = 0
    looks = _iter_looks(reader, asked, verify_wanted)
    with closing(read_ahead(looks, targets_ahead) if targets_ahead else looks) as looked_at:
        for name, listed, piece in looked_at:
            size_pages = 0 if piece is None else count_pages(piece)
            if page_count + size_pages > PAGES_PER_CALL or len(together) == TARGETS_TOGETHER:
                yield from _summarize_together(reader, together, verify_wanted, run, may_read)
                together, page_count = [], 0
            together.append((name, listed, piece))
            page_count += size_pages
    yield from _summarize_together(reader, together, verify_wanted, run, may_read)


def _iter_looks(
    reader: Reader, asked: Iterable[tuple[_T, Target | None]], verify_wanted: Callable[[], None]
) -> Generator[tuple[_T, _Listed | None, Stretches | None], None, None]:
    """Yield the processes with all that is to be read of each, if that is one piece."""
    for name, target in asked:
        verify_wanted()
        if target is None:
            yield name, None, None
        else:
            yield name, *_find_only_piece(_list_mappings(reader, target))


def _find_only_piece(listed: _Listed) -> tuple[_Listed, Stretches | None]:
    """Return all that is to be read of a process, if that is one piece, and the process."""
    found = list(islice(listed.pieces, 2))
    if len(found) == 1:
        return listed._replace(pieces=iter(found)), found[0]
    return listed._replace(pieces=chain(found, listed.pieces)), None


def _summarize_together(
    reader: Reader,
    together: Sequence[tuple[_T, _Listed | None, Stretches | None]],
    verify_wanted: Callable[[], None],
    run: Run,
    may_read: Callable[[Target], bool],
) -> Iterator[tuple[_T, list[Totals] | None]]:
    small = [
        (listed, piece)
        for _, listed, piece in together
        if listed and piece is not None and may_read(listed.target)
    ]
    try:
        tables = dict(
            zip((id(each) for each, _ in small), _count_small(reader, small), strict=True)
        )
    except ShortReadError:  # of one of them
        tables = {}
    for name, listed, _ in together:
        totals = None
        if listed:
            counts = tables.get(id(listed))
            with suppress(ShortReadError):
                if counts is None and may_read(listed.target):
                    counts = _count(reader, listed, verify_wanted, run)
                if (
                    counts is not None and listed.target.is_alive()
                ):  # what was skipped may have been empty for that
                    totals = add_up(listed.mapped, counts)
        yield name, totals


def summarize(reader: Reader, target: Target, verify_wanted: Callable[[], None]) -> list[Totals]:
    """Return the totals of each kind of mapping that a process has.

    Args:
        reader: reads its pages.
        target: the process.
        verify_wanted: called before each piece; what it raises ends the reading.

    Raises:
        ShortReadError: the address space is gone.
    """
    [(_, totals)] = iter_summaries(reader, [(None, target)], verify_wanted)
    if totals is None:
        raise ShortReadError
    return totals


def count_mappings(
    reader: Reader,
    target: Target,
    mapped: Numbers,
    verify_wanted: Callable[[], None],
    most_pages: int | None = None,
    run: Run = map,
) -> Numbers:
    """Return how many pages of each mapping are in which state.

    Args:
        reader: reads the pages.
        target: the process.
        mapped: its mappings, as of `number_extents`.
        verify_wanted: called before each piece; what it raises ends the reading.
        most_pages: once so many have been read, the mapping that is being read is the last.
        run: applies a function to all pieces: `map`, or the same in several threads.

    Returns:
        A row for each mapping, or for the first ones, and a column for each state, by its number.

    Raises:
        ShortReadError: the address space is gone.
    """
    counts = _count(reader, _list_inside(reader, target, mapped), verify_wanted, run, most_pages)
    if not target.is_alive():  # what was skipped may have been empty for that
        raise ShortReadError
    return counts


def _list_mappings(reader: Reader, target: Target) -> _Listed:
    return _list_inside(reader, target, number_extents(target.list_extents()))


def _list_inside(reader: Reader, target: Target, mapped: Numbers) -> _Listed:
    is_inside = np.ones(len(mapped), np.bool_)
    for place in (mapped[:, 2] == MappingKind.SPECIAL).nonzero()[0].tolist():
        is_inside[place] = _is_inside(target, int(mapped[place, 0]))
    pieces = _iter_pieces(reader, target, mapped[is_inside, :2])
    return _Listed(target, mapped, is_inside, pieces)


def _count(
    reader: Reader,
    listed: _Listed,
    verify_wanted: Callable[[], None],
    run: Run,
    most_pages: int | None = None,
) -> Numbers:
    """Do what `count_mappings` does."""
    target, mapped, is_inside, pieces = listed
    inside = mapped[is_inside]
    anonymous = inside[inside[:, 2] == MappingKind.ANONYMOUS, :2]
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
    counts = _complete(listed, counted)
    return counts if last_page is None else counts[mapped[:, 1] <= last_page]


def _count_small(reader: Reader, small: Sequence[tuple[_Listed, Stretches]]) -> list[Numbers]:
    """Do what `_count` does for several processes, given all that is to be read of each."""
    if not small:
        return []
    parts = [listed.mapped[listed.is_inside] for listed, _ in small]
    lengths = np.array([len(part) for part in parts])
    inside = _put_together(parts)
    stretches = _put_together([piece for _, piece in small])
    anonymous = inside[inside[:, 2] == MappingKind.ANONYMOUS, :2]
    pagemaps = [listed.target.pagemap for listed, _ in small]
    states = reader.read_states(pagemaps, stretches, anonymous)
    counted = np.zeros((len(inside), _STATES), np.int64)
    where, table = count_states(inside, stretches, states)
    counted[where] = table
    divided = np.split(counted, np.cumsum(lengths)[:-1])
    return [_complete(listed, part) for (listed, _), part in zip(small, divided, strict=True)]


def _put_together(parts: Sequence[Numbers]) -> Numbers:
    """Return the rows of several processes, their pages numbered as `Pagemap` says."""
    rows = np.concatenate(parts)
    places = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    rows[:, :2] += (places << PROCESS_SHIFT)[:, None]
    return rows


def _complete(listed: _Listed, counted: Numbers) -> Numbers:
    """Return a row for each mapping: what was not counted is absent, or cannot be told."""
    mapped, is_inside = listed.mapped, listed.is_inside
    counts = np.zeros((len(mapped), _STATES), np.int64)
    counts[is_inside] = counted
    missing = mapped[:, 1] - mapped[:, 0] - counts.sum(1)
    counts[:, PageState.ABSENT] += np.where(is_inside, missing, 0)
    counts[:, PageState.UNKNOWN] += np.where(is_inside, 0, missing)
    return counts


def _is_inside(target: Target, first_page: int) -> bool:
    """Tell whether pagemap has entries there: [vsyscall] is past the end of the address space."""
    try:
        read_entries(target.pagemap, first_page * _PAGE_SIZE_BYTES, 1)
    except ShortReadError:
        return False
    return True


def _iter_pieces(reader: Reader, target: Target, mapped: Stretches) -> Iterator[Stretches]:
    """Yield what is to be read, at most PAGES_PER_CALL pages at a time; elsewhere is nothing."""
    if not reader.features.has_pagemap_scan or count_pages(mapped) <= _FEW_PAGES:
        if len(mapped):
            yield from divide_stretches(join_stretches(mapped, _JOINED_PAGES))
        return
    first, end = int(mapped[0, 0]), int(mapped[-1, 1])
    while first < end:
        for found in iter_populated(target.pagemap, first, end):
            yield from divide_stretches(join_stretches(found, _JOINED_PAGES))
            if len(found) >= _MANY_REGIONS and found[-1, 1] - found[0, 0] <= _AROUND_PAGES:
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
    is_of_kind = mapped[:, 2] == _KINDS[:, None]
    mapping_counts = is_of_kind.sum(1).tolist()
    tables = (is_of_kind.astype(np.int64) @ counts).tolist()
    return [
        Totals(kind, mapping_count, dict(zip(PageState, table[1:], strict=True)))
        for kind, mapping_count, table in zip(MappingKind, mapping_counts, tables, strict=True)
        if mapping_count
    ]
