# SPDX-License-Identifier: Apache-2.0
"""A map of pages, one character for each or for each bucket of them, with its legend. Pure."""

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Final

from cowd._runs import Run
from cowd.cli.symbols import NOTHING, Symbol, draw_legend, symbol_of_state
from cowd.cli.text import wrap_text

__all__ = ["draw_pieces", "draw_strip", "style_of"]

_MAXIMUM_LINES: Final = 3
_MAXIMUM_WIDTH: Final = 120


def style_of(run: Run) -> str:
    """Return how the pages of `run` are painted, in the words of rich."""
    return symbol_of_state(run.state, copied=run.copied).style


def draw_strip(runs: Sequence[Run], width: int, paint: Callable[[str, str], str]) -> list[str]:
    """Draw `runs`, one after the other: see `draw_pieces`."""
    pieces = [(symbol_of_state(run.state, copied=run.copied), run.page_count) for run in runs]
    return draw_pieces(pieces, width, paint)


def draw_pieces(
    pieces: Sequence[tuple[Symbol, int]], width: int, paint: Callable[[str, str], str]
) -> list[str]:
    """Draw pages, one after the other.

    Args:
        pieces: how many neighbours are drawn how; at least one.
        width: of the lines, in columns.
        paint: returns a text in a style.

    Returns:
        A few lines of the map, its legend, and what a character stands for if for several pages.
    """
    terminal_width = width
    width = max(1, min(width, _MAXIMUM_WIDTH) - 2)
    total = sum(page_count for _, page_count in pieces)
    pages_per_symbol = max(1, -(-total // (width * _MAXIMUM_LINES)))
    symbols = [NOTHING] * -(-total // pages_per_symbol)
    position = 0
    for symbol, page_count in pieces:
        end = position + page_count
        for bucket in range(position // pages_per_symbol, -(-end // pages_per_symbol)):
            symbols[bucket] = max(symbols[bucket], symbol)
        position = end
    lines = []
    for start in range(0, len(symbols), width):
        stretches = groupby(symbols[start : start + width])
        line = (paint(symbol.char * len(list(same)), symbol.style) for symbol, same in stretches)
        lines.append(f"|{''.join(line)}|")
    lines += draw_legend(sorted(set(symbols), reverse=True), terminal_width, paint)
    if pages_per_symbol > 1:
        text = f"one character: the most notable of {pages_per_symbol} pages"
        lines += wrap_text(text, terminal_width)
    return lines
