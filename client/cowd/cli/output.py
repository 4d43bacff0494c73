# SPDX-License-Identifier: Apache-2.0
"""Tables and JSON from one list of columns, which also makes the help: as util-linux does it.

A row is any value; a column knows how to take its own value from it. What a column takes is typed
as JSON has it, and the text of a cell is made from that.
"""

import functools
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final, Generic, TypeAlias, TypeVar

import click

from cowd.cli.strip import draw_strip
from cowd.cli.text import cut_text, escape_text, format_size, measure_text

if TYPE_CHECKING:
    from cowd.cli.runs import Run

__all__ = [
    "Column",
    "Json",
    "Output",
    "describe_columns",
    "format_word",
    "make_parser",
    "output_options",
    "select_columns",
]

Json: TypeAlias = "bool | int | str | Sequence[Json] | Mapping[str, Json] | None"
Row = TypeVar("Row")
Parsed = TypeVar("Parsed")

_LEAST_WIDTH: Final = 16
"""A column that gives way on a narrow terminal keeps this much."""


@dataclass(frozen=True, slots=True)
class Column(Generic[Row]):
    """One column of a table and one key of its JSON.

    Attributes:
        key: in JSON.
        heading: of the table. `--output` takes either name.
        help: one line.
        value: takes the typed value from a row.
        right: aligned to the right.
        is_size: bytes, shown with a unit unless `--bytes`.
        gives_way: is cut where a terminal is too narrow.
        in_table, in_json: shown without `--output`.
        style: of a cell in colour, in the words of rich.
    """

    key: str
    heading: str
    help: str
    value: Callable[[Row], Json]
    right: bool = False
    is_size: bool = False
    gives_way: bool = False
    in_table: bool = True
    in_json: bool = True
    style: Callable[[Row], str] | None = None


@dataclass(frozen=True, slots=True)
class _Options:
    as_json: bool
    columns: str | None
    as_bytes: bool
    noheadings: bool
    raw: bool
    color: str


def output_options(function: Callable[..., int]) -> Callable[..., int]:
    """Give a command the options of every table; it gets them as the argument `output`."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> int:  # noqa: ANN401 (whatever click hands over)
        options = _Options(**{field.name: kwargs.pop(field.name) for field in fields(_Options)})
        if options.as_json and options.raw:
            raise click.UsageError("--json and --raw exclude each other")
        return function(*args, output=Output(options), **kwargs)

    for option in reversed(
        [
            click.option("-J", "--json", "as_json", is_flag=True, help="Write JSON."),
            click.option(
                "-o",
                "--output",
                "columns",
                metavar="[+]LIST",
                help="Columns to show, between commas; with + after the usual ones.",
            ),
            click.option("-b", "--bytes", "as_bytes", is_flag=True, help="Sizes in bytes."),
            click.option("-n", "--noheadings", is_flag=True, help="No line of headings."),
            click.option("-r", "--raw", is_flag=True, help="One blank between columns."),
            click.option(
                "--color",
                type=click.Choice(["auto", "always", "never"]),
                default="auto",
                help="Colours: auto is on a terminal, unless NO_COLOR is set.",
            ),
        ]
    ):
        wrapper = option(wrapper)
    return wrapper


def make_parser(
    parse: Callable[[str], Parsed],
) -> Callable[[click.Context, click.Parameter, str | None], Parsed | None]:
    """Return a callback for an argument that `parse` reads, or refuses with ValueError."""

    def convert(ctx: click.Context, param: click.Parameter, text: str | None) -> Parsed | None:
        try:
            return None if text is None else parse(text)
        except ValueError as error:
            raise click.BadParameter(str(error), ctx, param) from error

    return convert


def describe_columns(columns: Iterable[Column[Any]]) -> str:
    """Return the part of a command's help that names its columns."""
    lines = [f"  {column.heading:<11} {column.help}" for column in columns]
    return "\n".join(["\b", "Columns:", *lines])


def select_columns(
    columns: Sequence[Column[Row]], names: str | None, *, as_json: bool
) -> list[Column[Row]]:
    """Return the columns that `--output` names, or the usual ones.

    Raises:
        click.BadParameter: there is no such column.
    """
    usual = [column for column in columns if (column.in_json if as_json else column.in_table)]
    if names is None:
        return usual
    by_name = {name.lower(): column for column in columns for name in (column.key, column.heading)}
    chosen = usual if names.startswith("+") else []
    for name in names.removeprefix("+").split(","):
        column = by_name.get(name.strip().lower())
        if column is None:
            known = ", ".join(column.heading for column in columns)
            raise click.BadParameter(
                f"no column {name!r}: there are {known}", param_hint="'--output'"
            )
        if column not in chosen:
            chosen.append(column)
    return chosen


def format_word(word: int | None) -> str | None:
    """Return an address or flag word as JSON has it."""
    return None if word is None else f"{word:#x}"


class Output:
    """Writes what a command has found, as the user wants it.

    Attributes:
        as_json: JSON is wanted.
        is_for_person: a terminal shows it (or colours are asked for), so it may be adorned.
    """

    def __init__(self, options: _Options) -> None:
        self._options = options
        self.as_json = options.as_json
        is_terminal = sys.stdout.isatty()
        self.is_for_person = (is_terminal or options.color == "always") and not options.raw
        self._colored = options.color == "always" or (
            options.color == "auto"
            and is_terminal
            and not os.environ.get("NO_COLOR")
            and os.environ.get("TERM") != "dumb"
        )
        self.width = shutil.get_terminal_size().columns if self.is_for_person else None

    def select(self, columns: Sequence[Column[Row]]) -> list[Column[Row]]:
        """Return the columns that are wanted. Call it before work that takes time."""
        return select_columns(columns, self._options.columns, as_json=self.as_json)

    def write_json(
        self,
        head: Mapping[str, Json],
        rows_key: str,
        rows: Iterable[Row],
        columns: Sequence[Column[Row]],
    ) -> None:
        """Write one object: `head` and, under `rows_key`, an array with a line for each row."""
        lines = [json.dumps(_make_object(row, columns)) for row in rows]
        array = "[\n" + ",\n".join(lines) + "\n]" if lines else "[]"
        self.write_line(f"{json.dumps(head)[:-1]}, {json.dumps(rows_key)}: {array}}}")

    def write_table(self, rows: Iterable[Row], columns: Sequence[Column[Row]]) -> None:
        """Write a table with a line for each row."""
        rows = list(rows)
        table = [
            [self._format_cell(column.value(row), column) for column in columns] for row in rows
        ]
        headings = [column.heading for column in columns]
        if self._options.raw:
            for cells in [*([] if self._options.noheadings else [headings]), *table]:
                self.write_line(" ".join(cell.replace(" ", "\\x20") for cell in cells))
            return
        widths = self._fit_widths(headings, table, columns)
        if not self._options.noheadings:
            self.write_line(self._join_cells(headings, columns, widths, ["bold"] * len(columns)))
        for row, cells in zip(rows, table, strict=True):
            styles = [column.style(row) if column.style else "" for column in columns]
            self.write_line(self._join_cells(cells, columns, widths, styles))

    def write_record(
        self, head: Mapping[str, Json], record: Row, columns: Sequence[Column[Row]]
    ) -> None:
        """Write one row by itself: a line for each column, or as JSON one object with `head`."""
        if self.as_json:
            self.write_line(json.dumps({**head, **_make_object(record, columns)}, indent=2))
            return
        width = max(len(column.heading) for column in columns)
        for column in columns:
            cell = self._format_cell(column.value(record), column)
            if self._options.raw:
                cell = cell.replace(" ", "\\x20")
            if self._options.noheadings:
                self.write_line(cell)
            elif self._options.raw:
                self.write_line(f"{column.heading} {cell}")
            else:
                heading = self._paint(f"{column.heading:<{width}}", "bold")
                style = column.style(record) if column.style else ""
                self.write_line(f"{heading}  {self._paint(cell, style)}")

    def write_strip(self, runs: "Iterable[Run]", *, legend: bool = True) -> None:
        """Draw the page map of `runs`, with its legend."""
        strip = draw_strip(runs, min(self.width or 80, 120) - 2)
        for line in strip.lines:
            stretches = (
                self._paint(symbol.char * len(list(same)), symbol.style)
                for symbol, same in groupby(line)
            )
            self.write_line(f"|{''.join(stretches)}|")
        if legend:
            parts = [
                f"{self._paint(symbol.char, symbol.style)} {symbol.meaning}"
                for symbol in strip.legend
            ]
            self.write_line("  ".join(parts))
            if strip.pages_per_symbol > 1:
                self.write_line(
                    f"one character: the most notable of {strip.pages_per_symbol} pages"
                )

    def write_line(self, line: str = "") -> None:
        """Write one line of data to standard output."""
        sys.stdout.write(f"{line.rstrip()}\n")

    def _format_cell(self, value: Json, column: Column[Any]) -> str:
        if isinstance(value, bool):
            return "yes" if value else "no"
        if value is None or (not isinstance(value, int) and not value):
            return "-"
        if column.is_size and isinstance(value, int) and not self._options.as_bytes:
            return format_size(value)
        if isinstance(value, Mapping):
            parts = (f"{key}={self._format_cell(part, column)}" for key, part in value.items())
            return " ".join(parts)
        if isinstance(value, Sequence) and not isinstance(value, str):
            return ",".join(self._format_cell(part, column) for part in value)
        return escape_text(str(value))

    def _fit_widths(
        self, headings: list[str], table: list[list[str]], columns: Sequence[Column[Row]]
    ) -> list[int]:
        """Return the width of each column; only what a person looks at is ever cut."""
        widths = [
            max(map(measure_text, cells), default=0)
            for cells in zip(*([] if self._options.noheadings else [headings]), *table, strict=True)
        ]
        if self.width is None:
            return widths
        excess = sum(widths) + len(widths) - 1 - self.width
        for index, column in enumerate(columns[: len(widths)]):
            if column.gives_way and excess > 0:
                narrowed = max(min(widths[index], _LEAST_WIDTH), widths[index] - excess)
                excess -= widths[index] - narrowed
                widths[index] = narrowed
        return widths

    def _join_cells(
        self,
        cells: list[str],
        columns: Sequence[Column[Row]],
        widths: list[int],
        styles: list[str],
    ) -> str:
        parts = []
        for cell, column, width, style in zip(cells, columns, widths, styles, strict=True):
            text = cut_text(cell, width)
            padding = " " * (width - measure_text(text))
            painted = self._paint(text, style)
            parts.append(padding + painted if column.right else painted + padding)
        return " ".join(parts)

    def _paint(self, text: str, style: str) -> str:
        if not self._colored or not style:
            return text
        return _make_painter(style)(text)


def _make_object(row: Row, columns: Iterable[Column[Row]]) -> dict[str, Json]:
    return {column.key: column.value(row) for column in columns}


@functools.cache
def _make_painter(style: str) -> Callable[[str], str]:
    from rich.color import ColorSystem
    from rich.style import Style

    parsed = Style.parse(style)
    return lambda text: parsed.render(text, color_system=ColorSystem.STANDARD)
