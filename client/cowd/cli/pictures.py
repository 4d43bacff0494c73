# SPDX-License-Identifier: Apache-2.0
"""What a picture of a process shows: its mappings, cut into columns of pages. Pure."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from mmap import PAGESIZE
from typing import TYPE_CHECKING, Final

from cowd import Mapping, MappingKind, PageChunk, PageCounts, PageState, is_copied
from cowd.cli.symbols import BY_STATE, COPIED, COPIED_SWAPPED, Symbol, symbol_of_state
from cowd.cli.targets import OUT_OF_PAGEMAP
from cowd.cli.text import decode_path

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

__all__ = ["SORTS", "Row", "Totals", "add_totals", "choose_mappings", "count_pages", "stack_shares"]

SORTS: Final[Sequence[Symbol]] = sorted({COPIED, COPIED_SWAPPED, *BY_STATE.values()}, reverse=True)
"""Of pages, the most notable first."""

_ABSENT: Final = SORTS.index(BY_STATE[PageState.ABSENT])
_PRIVATE_KINDS: Final = (MappingKind.PRIVATE_FILE, MappingKind.ANONYMOUS)
_LEAST_SHARE: Final = 0.125
"""Of a column that a sort keeps, however few its pages are."""


@dataclass(frozen=True, slots=True)
class Row:
    """One mapping, cut into columns.

    Attributes:
        counts: int64 array of shape (columns, sorts): how many pages of a column are of each of
            SORTS.
    """

    mapping: Mapping
    counts: "NDArray[numpy.int64]"

    @property
    def totals(self) -> "Totals":
        """Its pages by SORTS."""
        return tuple(int(count) for count in self.counts.sum(axis=0))


Totals = tuple[int, ...]
"""Numbers of pages by SORTS."""


def choose_mappings(
    mappings: Iterable[Mapping], text: str | None, most: int, *, with_all: bool
) -> tuple[list[Mapping], list[Mapping]]:
    """Return the mappings to show, and those that there is no room for, both in address order.

    Args:
        mappings: with their page counts.
        text: what their names must have in them; None for private mappings.
        most: number of mappings to show: those with most pages in memory or swapped out.
        with_all: choose those that are not private, and those without any page, as well.
    """
    fitting = []
    for each in mappings:
        if each.path == OUT_OF_PAGEMAP:
            continue
        is_wanted = with_all or each.kind in _PRIVATE_KINDS
        if text is not None:
            is_wanted = text in decode_path(each.path)
        if is_wanted and (with_all or _count_there(each)):
            fitting.append(each)
    shown = sorted(fitting, key=lambda each: (-_count_there(each), each.start_address))[:most]
    starts = {each.start_address for each in shown}
    return (
        [each for each in fitting if each.start_address in starts],
        [each for each in fitting if each.start_address not in starts],
    )


def _count_there(mapping: Mapping) -> int:
    counts = mapping.page_counts or PageCounts()
    return counts.total - counts.absent


def add_totals(mappings: Iterable[Mapping]) -> Totals:
    """Return the page counts of all the mappings by SORTS."""
    totals = dict.fromkeys(SORTS, 0)
    for mapping in mappings:
        for state in PageState:
            symbol = symbol_of_state(state, copied=is_copied(mapping.kind, state))
            totals[symbol] += (mapping.page_counts or PageCounts())[state]
    return tuple(totals.values())


def count_pages(
    chunks: Iterable[PageChunk], mappings: Sequence[Mapping], most_columns: int
) -> Iterator[Row]:
    """Yield a row for each mapping.

    Args:
        chunks: answers to one range for each mapping, in their order.
        mappings: at least one.
        most_columns: that a mapping is cut into; one with fewer pages has a column for each.
    """
    rest = iter(mappings)
    row = _begin_row(next(rest), most_columns)
    for chunk in chunks:
        if chunk.address >= row.mapping.end_address:
            yield row
            row = _begin_row(next(rest), most_columns)
        for pages in chunk.iter_stretches():
            _add_pages(row, pages.address, pages.states)
    yield row


def _begin_row(mapping: Mapping, most_columns: int) -> Row:
    """Return a mapping whose pages are all absent still."""
    import numpy

    page_count = mapping.size_bytes // PAGESIZE
    columns = min(page_count, most_columns)
    counts = numpy.zeros((columns, len(SORTS)), numpy.int64)
    # The first page of a column is the first whose number, times columns, is not below.
    first = [-(-number * page_count // columns) for number in range(columns + 1)]
    counts[:, _ABSENT] = numpy.diff(first)
    return Row(mapping, counts)


def _add_pages(row: Row, address: int, states: bytes) -> None:
    import numpy

    columns = len(row.counts)
    first = (address - row.mapping.start_address) // PAGESIZE
    numbers = numpy.arange(first, first + len(states))
    column = numbers * columns // (row.mapping.size_bytes // PAGESIZE)
    sorts = _list_sorts(row.mapping.kind)[numpy.frombuffer(states, numpy.uint8)]
    low, high = int(column[0]), int(column[-1]) + 1
    places = (column - low) * len(SORTS) + sorts
    found = numpy.bincount(places, minlength=(high - low) * len(SORTS)).reshape(-1, len(SORTS))
    row.counts[low:high] += found
    row.counts[low:high, _ABSENT] -= found.sum(axis=1)


def _list_sorts(kind: MappingKind) -> "NDArray[numpy.int64]":
    """Return the place in SORTS of each value of PageState; of what is none, that of UNKNOWN."""
    import numpy

    sorts = numpy.full(256, SORTS.index(BY_STATE[PageState.UNKNOWN]), numpy.int64)
    for state in PageState:
        sorts[state] = SORTS.index(symbol_of_state(state, copied=is_copied(kind, state)))
    return sorts


def stack_shares(row: Row) -> "NDArray[numpy.float64]":
    """Return how high each sort reaches in each column, from 0 to 1, the most notable lowest.

    What is there keeps at least an eighth of the column's height, but for absent pages.

    Returns:
        An array of shape (columns, sorts), that grows along the second axis, up to 1.
    """
    import numpy

    shares = row.counts / row.counts.sum(axis=1, keepdims=True)
    is_there = row.counts > 0
    is_there[:, _ABSENT] = False
    shares = numpy.where(is_there, numpy.maximum(shares, _LEAST_SHARE), shares)
    shares /= shares.sum(axis=1, keepdims=True)
    heights = numpy.cumsum(shares, axis=1)
    heights[:, -1] = 1
    return heights
