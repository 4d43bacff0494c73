# SPDX-License-Identifier: Apache-2.0
"""How pages of each sort are drawn: by a character, which tells them apart without colour. Pure."""

from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

from cowd import PageComparison, PageCopier, PageState

__all__ = [
    "BY_SHARE",
    "BY_STATE",
    "COPIED",
    "COPIED_SWAPPED",
    "NOTHING",
    "Symbol",
    "draw_legend",
    "symbol_of_comparison",
    "symbol_of_state",
]


class Symbol(NamedTuple):
    """How pages of one sort are drawn.

    Attributes:
        rank: how notable they are: where pages share a character, the highest has it.
        char: the character.
        style: its colour, in the words of rich.
        meaning: of the character, in a legend.
    """

    rank: int
    char: str
    style: str
    meaning: str


NOTHING: Final = Symbol(0, "", "", "")
COPIED: Final = Symbol(9, "C", "bold red", "copied")
COPIED_SWAPPED: Final = Symbol(8, "S", "red", "copied, swapped out")
BY_STATE: Final = {
    PageState.ABSENT: Symbol(1, ".", "dim", "absent"),
    PageState.FILE: Symbol(2, "f", "green", "file"),
    PageState.ANON: Symbol(5, "a", "yellow", "anonymous"),
    PageState.ANON_SWAPPED: Symbol(4, "s", "magenta", "anonymous, swapped out"),
    PageState.ZERO: Symbol(3, "z", "blue", "zero page"),
    PageState.GUARD: Symbol(6, "G", "cyan", "guard"),
    PageState.UNKNOWN: Symbol(7, "?", "bold", "unknown"),
}

_BY_COMPARISON: Final = {
    PageComparison.SAME: Symbol(2, "=", "green", "the same"),
    PageComparison.ONLY_FIRST: Symbol(3, "<", "blue", "only the first has one"),
    PageComparison.ONLY_SECOND: Symbol(4, ">", "cyan", "only the second has one"),
    PageComparison.NEITHER: Symbol(1, ".", "dim", "neither has one"),
    PageComparison.UNKNOWN: Symbol(9, "?", "bold", "unknown"),
}
_BY_COPIER: Final = {
    PageCopier.UNSPECIFIED: Symbol(5, "d", "bold yellow", "different"),
    PageCopier.FIRST: Symbol(6, "1", "magenta", "copied by the first"),
    PageCopier.SECOND: Symbol(7, "2", "bold red", "copied by the second"),
    PageCopier.BOTH: Symbol(8, "B", "yellow", "both have written"),
}


BY_SHARE: Final = {
    "shared": Symbol(1, "=", "green", "shared"),
    "copied_by_child": Symbol(5, "c", "bold red", "copied by the child"),
    "copied_by_parent": Symbol(4, "p", "magenta", "copied by the parent"),
    "both": Symbol(6, "B", "yellow", "both have written"),
    "different": Symbol(3, "d", "bold yellow", "different"),
    "own": Symbol(2, "+", "cyan", "the child's own"),
    "unknown": Symbol(7, "?", "bold", "unknown"),
}
"""Of `cowd.Shares`, in the order of a bar: what the child has, by name of the field."""


def symbol_of_state(state: PageState, *, copied: bool | None) -> Symbol:
    """Return how a page of one process is drawn."""
    if copied:
        return COPIED if state is PageState.ANON else COPIED_SWAPPED
    return BY_STATE[state]


def symbol_of_comparison(comparison: PageComparison, copied_by: PageCopier) -> Symbol:
    """Return how a page of two processes is drawn."""
    if comparison is PageComparison.DIFFERENT:
        return _BY_COPIER[copied_by]
    return _BY_COMPARISON[comparison]


def draw_legend(
    symbols: Sequence[Symbol], width: int, paint: Callable[[str, str], str]
) -> Iterator[str]:
    """Yield what the symbols mean, as many in a line as there is room for.

    Args:
        symbols: at least one.
        width: of the lines, in columns.
        paint: returns a text in a style.
    """
    line, used = "", 0
    for each in symbols:
        entry_width = len(f"{each.char} {each.meaning}")
        if line and used + 2 + entry_width > width:
            yield line
            line, used = "", 0
        entry = f"{paint(each.char, each.style)} {each.meaning}"
        line, used = (f"{line}  {entry}", used + 2 + entry_width) if line else (entry, entry_width)
    yield line
