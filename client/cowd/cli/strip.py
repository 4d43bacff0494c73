# SPDX-License-Identifier: Apache-2.0
"""A map of pages, one character for each or for each bucket of them, with its legend. Pure.

The characters tell the pages apart without colour.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Final, NamedTuple

from cowd import PageState
from cowd._runs import Run
from cowd.cli.text import wrap_text

__all__ = ["draw_strip", "style_of"]

_MAXIMUM_LINES: Final = 3
_MAXIMUM_WIDTH: Final = 120


class _Symbol(NamedTuple):
    """How pages of one sort are drawn, and how notable they are: the highest wins a bucket."""

    rank: int
    char: str
    style: str
    meaning: str


_NOTHING: Final = _Symbol(0, "", "", "")
_COPIED: Final = _Symbol(9, "C", "bold red", "copied")
_COPIED_SWAPPED: Final = _Symbol(8, "S", "red", "copied, swapped out")
_BY_STATE: Final = {
    PageState.ABSENT: _Symbol(1, ".", "dim", "absent"),
    PageState.FILE: _Symbol(2, "f", "green", "file"),
    PageState.ANON: _Symbol(5, "a", "yellow", "anonymous"),
    PageState.ANON_SWAPPED: _Symbol(4, "s", "magenta", "anonymous, swapped out"),
    PageState.ZERO: _Symbol(3, "z", "blue", "zero page"),
    PageState.GUARD: _Symbol(6, "G", "cyan", "guard"),
    PageState.UNKNOWN: _Symbol(7, "?", "bold", "unknown"),
}


def _symbol_of(run: Run) -> _Symbol:
    if run.copied:
        return _COPIED if run.state is PageState.ANON else _COPIED_SWAPPED
    return _BY_STATE[run.state]


def style_of(run: Run) -> str:
    """Return how the pages of `run` are painted, in the words of rich."""
    return _symbol_of(run).style


def draw_strip(runs: Sequence[Run], width: int, paint: Callable[[str, str], str]) -> list[str]:
    """Draw `runs`, one after the other.

    Args:
        runs: at least one.
        width: of the lines, in columns.
        paint: returns a text in a style.

    Returns:
        A few lines of the map, its legend, and what a character stands for if for several pages.
    """
    terminal_width = width
    width = max(1, min(width, _MAXIMUM_WIDTH) - 2)
    total = sum(run.page_count for run in runs)
    pages_per_symbol = max(1, -(-total // (width * _MAXIMUM_LINES)))
    symbols = [_NOTHING] * -(-total // pages_per_symbol)
    position = 0
    for run in runs:
        symbol = _symbol_of(run)
        end = position + run.page_count
        for bucket in range(position // pages_per_symbol, -(-end // pages_per_symbol)):
            symbols[bucket] = max(symbols[bucket], symbol)
        position = end
    lines = []
    for start in range(0, len(symbols), width):
        stretches = groupby(symbols[start : start + width])
        line = (paint(symbol.char * len(list(same)), symbol.style) for symbol, same in stretches)
        lines.append(f"|{''.join(line)}|")
    lines += _draw_legend(sorted(set(symbols), reverse=True), terminal_width, paint)
    if pages_per_symbol > 1:
        text = f"one character: the most notable of {pages_per_symbol} pages"
        lines += wrap_text(text, terminal_width)
    return lines


def _draw_legend(
    symbols: Sequence[_Symbol], width: int, paint: Callable[[str, str], str]
) -> Iterator[str]:
    """Yield what the symbols mean, as many in a line as there is room for."""
    line, used = "", 0
    for each in symbols:
        entry_width = len(f"{each.char} {each.meaning}")
        if line and used + 2 + entry_width > width:
            yield line
            line, used = "", 0
        entry = f"{paint(each.char, each.style)} {each.meaning}"
        line, used = (f"{line}  {entry}", used + 2 + entry_width) if line else (entry, entry_width)
    yield line
