# SPDX-License-Identifier: Apache-2.0
"""A picture of a process drawn by matplotlib, which is imported here alone. No display is needed.

The same picture is the same bytes: nothing in them tells when or where they were made.
"""

import io
import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from mmap import PAGESIZE
from typing import TYPE_CHECKING, Any, Final

from cowd.cli.pictures import SORTS, Row, Totals, stack_shares
from cowd.cli.symbols import COPIED, COPIED_SWAPPED, Symbol
from cowd.cli.text import cut_text, decode_path, escape_text, format_size

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["COLORS", "Picture", "draw"]

# For people who do not see red or green, too: the palette of Okabe and Ito, and greys; in the hues
# that a terminal shows.
_COLOR_BY_CHAR: Final = {
    COPIED.char: "#d55e00",
    COPIED_SWAPPED.char: "#7a2e00",
    "f": "#009e73",
    "a": "#f0c800",
    "s": "#cc79a7",
    "z": "#0072b2",
    "G": "#56b4e9",
    "?": "#202020",
    ".": "#ececec",
}
COLORS: Final[Mapping[Symbol, str]] = {each: _COLOR_BY_CHAR[each.char] for each in SORTS}
"""Of each of SORTS."""

_INK: Final = "#1a1a1a"
_FAINT_INK: Final = "#6a6a6a"
_DOTS_PER_INCH: Final = 100
_MARGIN: Final = 28
_TITLE_HEIGHT: Final = 62
_LEGEND_LINE_HEIGHT: Final = 24
_ROW_HEIGHT: Final = 40
_STRIP_HEIGHT: Final = 28
_LABEL_WIDTH: Final = 250
_SIZES_WIDTH: Final = 150
_FOOT_HEIGHT: Final = 44
_CHAR_WIDTH_SHARE: Final = 0.86
"""Of a character of DejaVu Sans, in pixels for each point: a little more than most take."""


@dataclass(frozen=True, slots=True)
class Picture:
    """What is drawn.

    Attributes:
        title, subtitle: of the picture.
        totals: the pages that the legend tells of.
        rows: from the top down.
        notes: below.
        width: in pixels.
    """

    title: str
    subtitle: str
    totals: Totals
    rows: Sequence[Row]
    notes: Sequence[str]
    width: int

    @property
    def column_count(self) -> int:
        """Most columns that a strip has room for."""
        return self.strip_width // 2

    @property
    def strip_width(self) -> int:
        """Of a strip, in pixels."""
        return self.width - 2 * _MARGIN - _LABEL_WIDTH - _SIZES_WIDTH


def draw(picture: Picture, file_format: str) -> bytes:
    """Return the picture as a file.

    Args:
        picture: with at least one row.
        file_format: "png" or "svg". In the latter, the group `row-N` is the Nth strip, from 0 on.

    Raises:
        ImportError: there is no matplotlib.
    """
    # Of a home without room for its cache it would tell with every picture.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    import matplotlib

    settings: dict[Any, Any] = {
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans", "Verdana"],
        "path.simplify": False,
        "svg.fonttype": "none",  # Text stays text: to be searched, and read aloud.
        "svg.hashsalt": "cowd",
        "text.parse_math": False,
        "text.usetex": False,
    }
    # The keys of matplotlib's that say when and by what a file was made.
    told = {"png": ["Software"], "svg": ["Date", "Creator", "Format", "Type"]}[file_format]
    file = io.BytesIO()
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Of letters that its own fonts lack.
        matplotlib.rcdefaults()  # Whatever the user has set for pictures of their own.
        matplotlib.rcParams.update(settings)
        figure = _draw_figure(picture)
        figure.savefig(
            file, format=file_format, dpi=_DOTS_PER_INCH, metadata=dict.fromkeys(told, None)
        )
    return file.getvalue()


def _draw_figure(picture: Picture) -> "Figure":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    legend = _arrange_legend(picture)
    top = _MARGIN + _TITLE_HEIGHT + _LEGEND_LINE_HEIGHT * len(legend) + 10
    height = top + _ROW_HEIGHT * len(picture.rows) + _FOOT_HEIGHT + 16 * len(picture.notes)
    figure = Figure(
        figsize=(picture.width / _DOTS_PER_INCH, height / _DOTS_PER_INCH),
        dpi=_DOTS_PER_INCH,
        facecolor="white",
    )
    FigureCanvasAgg(figure)
    # One pixel is one unit, from the top left corner.
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, picture.width), ylim=(height, 0))
    axes.set_axis_off()
    canvas = _Canvas(axes)
    canvas.write(_MARGIN, _MARGIN + 16, picture.title, size=15, weight="bold")
    canvas.write(_MARGIN, _MARGIN + 42, picture.subtitle, size=9.5, color=_FAINT_INK)
    for number, line in enumerate(legend):
        _draw_legend(canvas, _MARGIN + _TITLE_HEIGHT + _LEGEND_LINE_HEIGHT * number, line)
    for number, row in enumerate(picture.rows):
        _draw_row(canvas, picture, row, number, top + _ROW_HEIGHT * number)
    foot = top + _ROW_HEIGHT * len(picture.rows) + 22
    for number, note in enumerate(picture.notes):
        canvas.write(_MARGIN, foot + 16 * number, note, size=8.5, color=_FAINT_INK)
    return figure


def _arrange_legend(picture: Picture) -> list[list[tuple[int, Symbol, str]]]:
    """Return the lines of the legend: what stands where."""
    lines: list[list[tuple[int, Symbol, str]]] = [[]]
    x = _MARGIN
    for symbol, count in zip(SORTS, picture.totals, strict=True):
        if not count:
            continue
        text = f"{symbol.meaning} {format_size(count * PAGESIZE)}"
        width = 22 + int(len(text) * 9.5 * _CHAR_WIDTH_SHARE) + 18
        if lines[-1] and x + width > picture.width - _MARGIN:
            lines.append([])
            x = _MARGIN
        lines[-1].append((x, symbol, text))
        x += width
    return lines


def _draw_legend(canvas: "_Canvas", y: int, line: Sequence[tuple[int, Symbol, str]]) -> None:
    for x, symbol, text in line:
        canvas.fill([(x, y), (x + 14, y), (x + 14, y + 14), (x, y + 14)], COLORS[symbol])
        canvas.write(x + 21, y + 12, text, size=9.5)


def _draw_row(canvas: "_Canvas", picture: Picture, row: Row, number: int, y: int) -> None:
    left = _MARGIN + _LABEL_WIDTH
    right = left + picture.strip_width
    room = int((_LABEL_WIDTH - 14) / (9 * _CHAR_WIDTH_SHARE))
    canvas.write(_MARGIN, y + 13, cut_text(name_mapping(row), room), size=9)
    place = f"{row.mapping.start_address:x} {row.mapping.permissions}"
    canvas.write(_MARGIN, y + 26, place, size=7.5, color=_FAINT_INK)
    canvas.fill_strip(row, (left, y, right, y + _STRIP_HEIGHT), f"row-{number}")
    canvas.write(right + 12, y + 13, format_size(row.mapping.size_bytes), size=9)
    canvas.write(right + 12, y + 26, _describe_most(row), size=7.5, color=_FAINT_INK)


def name_mapping(row: Row) -> str:
    """Return the name of a mapping as it may be shown."""
    return escape_text(decode_path(row.mapping.path)) or "anonymous"


def _describe_most(row: Row) -> str:
    """Say how much of a mapping is copied, or else what it has most of."""
    totals = dict(zip(SORTS, row.totals, strict=True))
    copied = totals[COPIED] + totals[COPIED_SWAPPED]
    if copied:
        return f"{format_size(copied * PAGESIZE)} copied"
    there = {symbol: count for symbol, count in totals.items() if symbol.char != "."}
    symbol = max(there, key=lambda each: there[each])
    if not there[symbol]:
        return "nothing there"
    return f"{format_size(there[symbol] * PAGESIZE)} {symbol.meaning}"


class _Canvas:
    """Where things are put by their pixels."""

    def __init__(self, axes: Any) -> None:  # noqa: ANN401 (matplotlib's, which may be missing)
        self._axes = axes

    def write(
        self,
        x: float,
        y: float,
        text: str,
        *,
        size: float,
        weight: str = "normal",
        color: str = _INK,
    ) -> None:
        """Write a line of text that starts at a place of its base line."""
        self._axes.text(x, y, text, size=size, weight=weight, color=color)

    def fill(self, corners: Sequence[tuple[float, float]], color: str, gid: str = "") -> None:
        """Fill an area without any border."""
        [area] = self._axes.fill(
            *zip(*corners, strict=True), facecolor=color, edgecolor="none", antialiased=False
        )
        if gid:
            area.set_gid(gid)

    def fill_strip(self, row: Row, box: tuple[float, float, float, float], gid: str) -> None:
        """Fill a strip with the columns of a mapping; all of it is in the group `gid`."""
        left, top, right, bottom = box
        heights = stack_shares(row)
        columns = len(heights)
        step = (right - left) / columns
        # The last sort, which reaches to the top, is below all others: no gap is ever seen.
        for sort in reversed(range(len(SORTS))):
            before = heights[:, sort - 1] if sort else 0 * heights[:, 0]
            if not (heights[:, sort] > before).any():
                continue
            corners = [(left, bottom)]
            for number, height in enumerate(heights[:, sort].tolist()):
                y = bottom - height * (bottom - top)
                corners += [(left + number * step, y), (left + (number + 1) * step, y)]
            corners.append((right, bottom))
            self.fill(_straighten(corners), COLORS[SORTS[sort]])
        # To be pointed at: it is on top, and lets all be seen.
        frame = [(left, top), (right, top), (right, bottom), (left, bottom)]
        self.fill(frame, "none", gid)


def _straighten(corners: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the same outline without the corners that lie on a horizontal line."""
    kept = [corners[0]]
    for before, corner, after in zip(corners, corners[1:], corners[2:], strict=False):
        if not before[1] == corner[1] == after[1]:
            kept.append(corner)
    return [*kept, corners[-1]]
