# SPDX-License-Identifier: Apache-2.0
"""A map of pages, one character for each or for each bucket of them, with its legend. Pure.

The characters tell the pages apart without colour.
"""

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from cowd import PageState
from cowd.cli.runs import Run

__all__ = ["Strip", "Symbol", "draw_strip", "symbol_of"]

_MAXIMUM_LINES: Final = 3


class Symbol(NamedTuple):
    """How pages of one sort are drawn, and how notable they are: the highest wins a bucket."""

    char: str
    style: str
    meaning: str
    rank: int


class Strip(NamedTuple):
    """A drawn map: lines of symbols, and how many pages one symbol stands for."""

    lines: Sequence[Sequence[Symbol]]
    pages_per_symbol: int

    @property
    def legend(self) -> list[Symbol]:
        """The symbols in use, most notable first."""
        return sorted({symbol for line in self.lines for symbol in line}, key=lambda s: -s.rank)


_COPIED: Final = Symbol("C", "bold red", "copied", 9)
_COPIED_SWAPPED: Final = Symbol("S", "red", "copied, swapped out", 8)
_BY_STATE: Final = {
    PageState.ABSENT: Symbol(".", "dim", "absent", 1),
    PageState.FILE: Symbol("f", "green", "file", 2),
    PageState.ANON: Symbol("a", "yellow", "anonymous", 5),
    PageState.ANON_SWAPPED: Symbol("s", "magenta", "anonymous, swapped out", 4),
    PageState.ZERO: Symbol("z", "blue", "zero page", 3),
    PageState.GUARD: Symbol("G", "cyan", "guard", 6),
    PageState.UNKNOWN: Symbol("?", "bold", "unknown", 7),
}


def symbol_of(run: Run) -> Symbol:
    """Return how the pages of `run` are drawn."""
    if run.copied:
        return _COPIED if run.state is PageState.ANON else _COPIED_SWAPPED
    return _BY_STATE[run.state]


def draw_strip(runs: Iterable[Run], width: int) -> Strip:
    """Draw `runs`, one after the other, in a few lines of at most `width` symbols."""
    runs = list(runs)
    total = sum(run.page_count for run in runs)
    pages_per_symbol = max(1, -(-total // (width * _MAXIMUM_LINES)))
    symbols: list[Symbol | None] = [None] * -(-total // pages_per_symbol)
    position = 0
    for run in runs:
        symbol = symbol_of(run)
        end = position + run.page_count
        for bucket in range(position // pages_per_symbol, -(-end // pages_per_symbol)):
            held = symbols[bucket]
            if held is None or held.rank < symbol.rank:
                symbols[bucket] = symbol
        position = end
    drawn = [symbol for symbol in symbols if symbol is not None]
    lines = [drawn[start : start + width] for start in range(0, len(drawn), width)]
    return Strip(lines, pages_per_symbol)
