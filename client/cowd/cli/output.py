# SPDX-License-Identifier: Apache-2.0
"""Output of the commands: one description of columns makes the table, the JSON and the help.

Data goes to standard output. Tables for a pipe are never cut; rich paints those on a terminal.
"""

import itertools
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from mmap import PAGESIZE
from typing import Final, Generic, TypeAlias, TypeVar

import click

import cowd
from cowd.cli.text import (
    cut_text,
    escape_text,
    format_size,
    measure_terminal,
    measure_text,
    print_message,
    wrap_text,
)

__all__ = ["Column", "Json", "Output", "format_masks", "format_word", "select_columns"]

Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"
Row = TypeVar("Row")

_LEAST_WIDTH: Final = 16
"""A column that gives way on a narrow terminal keeps this much."""
_LEAST_SHOWN: Final = 6
"""A column that the edge of a terminal cuts is left out if it would keep less."""
_DRAWING_WIDTH: Final = 20
_LEAST_DRAWING_WIDTH: Final = 8
"""A drawing in less is left out: it would tell nothing."""
_LARGEST_DRAWING_WIDTH: Final = 40


@dataclass(frozen=True, slots=True)
class Column(Generic[Row]):
    """One column of a table and one key of its JSON.

    Attributes:
        key: in JSON.
        heading: of the table. `--output` takes either name.
        help: one line.
        value: takes the typed value from a row; None for the row's attribute of the key's name.
        right: aligned to the right.
        is_size: bytes, shown with a unit unless `--bytes`.
        counts_pages: a number of pages, shown as their size, in JSON as the number.
        gives_way: is cut where a terminal is too narrow; for one column of a table.
        yields: where a terminal is too narrow, what yields the most is left out first; 0 is for
            those that are left out last, from the right.
        wraps: goes on in the next line where a terminal is too narrow; for the last column.
        below: is in lines of its own below the row on a terminal, where there is a value.
        in_table, in_json: shown without `--output`.
        style: of a cell in colour, in the words of rich.
        draw: draws a row in so many columns of a terminal, as texts with their styles; in the place
            of a value, and for a person only, unless asked for.
    """

    key: str
    heading: str
    help: str
    value: Callable[[Row], Json] | None = None
    right: bool = False
    is_size: bool = False
    counts_pages: bool = False
    gives_way: bool = False
    yields: int = 0
    wraps: bool = False
    below: bool = False
    in_table: bool = True
    in_json: bool = True
    style: Callable[[Row], str] | None = None
    draw: Callable[[Row, int], Sequence[tuple[str, str]]] | None = None

    def read(self, row: Row) -> Json:
        """Return the value in this column."""
        if self.draw:
            return "".join(text for text, _ in self.draw(row, _DRAWING_WIDTH))
        value: Json = self.value(row) if self.value else getattr(row, self.key)
        return value


def select_columns(
    columns: Sequence[Column[Row]], names: str | None, *, as_json: bool, for_person: bool = False
) -> list[Column[Row]]:
    """Return the columns that `--output` names, or the usual ones.

    Raises:
        click.BadParameter: there is no such column.
    """
    usual = [
        column
        for column in columns
        if (column.in_json if as_json else column.in_table) and (for_person or not column.draw)
    ]
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


def format_masks(masks: cowd.DisclosureMasks) -> dict[str, Json]:
    """Return disclosure masks as JSON has them."""
    return {key: format_word(mask) for key, mask in asdict(masks).items()}


class Output(Generic[Row]):
    """Writes what a command has found, as the user wants it.

    Args:
        available: all columns; those that `columns` names are written.
        as_json, columns, as_bytes, noheadings, raw, color: the options of the command line.

    Attributes:
        is_for_person: a terminal shows it (or colours are asked for), so it may be adorned.
        is_bare: rows are wanted and nothing else.
        width: of what shows it.

    Raises:
        click.UsageError: the options do not fit together, or there is no such column.
    """

    def __init__(
        self,
        available: Sequence[Column[Row]],
        *,
        as_json: bool,
        columns: str | None,
        as_bytes: bool,
        noheadings: bool,
        raw: bool,
        color: str,
    ) -> None:
        if as_json and raw:
            raise click.UsageError("--json and --raw exclude each other")
        self.as_json = as_json
        self.is_bare = noheadings or raw
        self._as_bytes = as_bytes
        self._noheadings = noheadings
        self._raw = raw
        is_terminal = sys.stdout.isatty()
        is_plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
        self._colored = not raw and (
            color == "always" or (color == "auto" and is_terminal and not is_plain)
        )
        self.is_for_person = (is_terminal or color == "always") and not (raw or as_json)
        self.width = measure_terminal() if self.is_for_person else 80
        self._columns = select_columns(
            available, columns, as_json=as_json, for_person=self.is_for_person
        )

    def write(self, *lines: str) -> None:
        """Write lines of data to standard output."""
        for line in lines:
            sys.stdout.write(f"{line.rstrip()}\n")

    def write_rows(
        self,
        head: Mapping[str, Json],
        rows_key: str,
        rows: Iterable[Row],
        *,
        one_line: bool = False,
    ) -> None:
        """Write a table, or as JSON one object: `head`, and the rows under `rows_key`.

        JSON has a line for each row, or is one line.
        """
        if not self.as_json:
            self.write_table(rows)
            return
        import json  # Most output is none.

        lines = [json.dumps(self._make_object(row)) for row in rows]
        array = "[]"
        if lines:
            array = f"[{', '.join(lines)}]" if one_line else "[\n" + ",\n".join(lines) + "\n]"
        self.write(f"{json.dumps(head)[:-1]}, {json.dumps(rows_key)}: {array}}}")

    def write_table(self, rows: Iterable[Row], chosen: Sequence[Column[Row]] | None = None) -> None:
        """Write a table with a line for each row; `chosen` are columns that the user cannot."""
        rows = list(rows)
        beside = [column for column in self._columns if not (self.is_for_person and column.below)]
        columns = chosen or beside or self._columns
        table = [[self._format_cell(row, column) for column in columns] for row in rows]
        styles = [[column.style(row) if column.style else "" for column in columns] for row in rows]
        are_notes_below = len(columns) < len(self._columns)
        notes = [self._list_notes(row) if are_notes_below else [] for row in rows]
        drawn: list[Row | None] = [*rows]
        if not self._noheadings:
            drawn.insert(0, None)
            table.insert(0, [column.heading for column in columns])
            styles.insert(0, ["bold"] * len(columns))
            notes.insert(0, [])
        if self._raw:
            self.write(*map(" ".join, table))
            return
        widths = self._fit_widths(table, columns)
        indent = sum(widths[:-1]) + sum(map(bool, widths[:-1]))  # of the last column
        room = max(_LEAST_WIDTH, self.width - indent)
        for row, cells, styles_of_row, below in zip(drawn, table, styles, notes, strict=True):
            *first, last = cells[: len(widths)]
            is_wrapped = columns[len(widths) - 1].wraps
            for line in wrap_text(last, widths[-1]) if is_wrapped else [last]:
                parts = zip([*first, line], styles_of_row, columns, widths, strict=False)
                aligned = [self._align_cell(row, *part) for part in parts if part[-1]]
                self.write(" ".join(aligned))
                first = [""] * len(first)
            self.write(*(" " * indent + line for note in below for line in wrap_text(note, room)))

    def write_record(self, head: Mapping[str, Json], record: Row) -> None:
        """Write one row by itself: a line for each column, or as JSON one object with `head`."""
        if self.as_json:
            import json

            self.write(json.dumps({**head, **self._make_object(record)}, indent=2))
            return
        width = max(len(column.heading) for column in self._columns)
        for column in self._columns:
            heading = f"{column.heading} "
            if not self._raw:
                heading = self.paint(f"{column.heading:<{width}}", "bold") + "  "
            style = column.style(record) if column.style else ""
            for line in self._wrap_value(self._format_cell(record, column), column, width + 2):
                cell = self.paint(line, style)
                self.write(cell if self._noheadings else heading + cell)
                heading = " " * (width + 2)

    def _wrap_value(self, text: str, column: Column[Row], indent: int) -> list[str]:
        if not (self.is_for_person and column.wraps):
            return [text]
        return wrap_text(text, max(_LEAST_WIDTH, self.width - indent))

    def paint(self, text: str, style: str) -> str:
        """Return `text` in colour, if that is wanted. `style` is in the words of rich."""
        if not self._colored or not style:
            return text
        from rich.color import ColorSystem
        from rich.style import Style

        return Style.parse(style).render(text, color_system=ColorSystem.STANDARD)

    def _make_object(self, row: Row) -> dict[str, Json]:
        return {column.key: column.read(row) for column in self._columns}

    def _format_cell(self, row: Row, column: Column[Row]) -> str:
        value = column.read(row)
        if column.counts_pages and isinstance(value, int):
            if value == 0:
                return "0"  # many are, and then those that are not catch the eye
            value *= PAGESIZE
        if (column.is_size or column.counts_pages) and isinstance(value, int):
            return str(value) if self._as_bytes else format_size(value)
        cell = _format_value(value)
        return cell.replace(" ", "\\x20") if self._raw else cell

    def _list_notes(self, row: Row) -> list[str]:
        """Return what is to stand below a row."""
        values = [(column, column.read(row)) for column in self._columns if column.below]
        return [
            f"{column.heading.lower()}: {_format_value(value)}"
            for column, value in values
            if value is not None
        ]

    def _fit_widths(self, table: list[list[str]], columns: Sequence[Column[Row]]) -> list[int]:
        """Return the width of each column; only what a person looks at is ever cut or broken.

        There may be fewer widths than columns: those at the right that there is no room for. That
        of another one is 0 if there is none for it.
        """
        widths = [max(map(measure_text, cells)) for cells in zip(*table, strict=True)]
        if not self.is_for_person:
            return widths
        for index, column in enumerate(columns):
            excess = self._measure_excess(widths)
            if excess > 0 and (column.gives_way or column.wraps):
                width = widths[index]
                widths[index] = max(min(width, _LEAST_WIDTH), width - excess)
        for index, column in enumerate(columns):
            if column.draw:
                width = min(widths[index] - self._measure_excess(widths), _LARGEST_DRAWING_WIDTH)
                widths[index] = width if width >= _LEAST_DRAWING_WIDTH else 0
        lost = []
        for index, column in sorted(enumerate(columns), key=lambda each: -each[1].yields):
            if column.yields and self._measure_excess(widths) > 0:
                widths[index] = 0
                lost.append(column.heading)
        fitted: list[int] = []
        is_full = False
        for column, width in zip(columns, widths, strict=True):
            room = self.width - sum(fitted) - sum(map(bool, fitted))
            least = width if column.right else min(width, _LEAST_SHOWN)  # half a number is a lie
            is_full = is_full or bool(fitted and room < least)
            if width and (is_full or width > room):
                lost.append(column.heading)
            if not is_full:
                fitted.append(min(width, max(1, room)))
        if lost:
            print_message(
                f"note: the terminal is too narrow for {', '.join(lost)}: "
                "widen it, or choose columns with -o"
            )
        return fitted

    def _measure_excess(self, widths: Sequence[int]) -> int:
        """Return how many columns too many a row has, below 0 if there is room."""
        return sum(widths) + sum(map(bool, widths)) - 1 - self.width

    def _align_cell(
        self, row: Row | None, cell: str, style: str, column: Column[Row], width: int
    ) -> str:
        """Return a cell as wide as its column; `row` is None for a heading."""
        if column.draw and row is not None:
            parts = column.draw(row, width)
            padding = " " * (width - sum(measure_text(text) for text, _ in parts))
            return "".join(itertools.starmap(self.paint, parts)) + padding
        text = cut_text(cell, width, keep="end" if column.gives_way else "start")
        padding = " " * (width - measure_text(text))
        painted = self.paint(text, style)
        return padding + painted if column.right else painted + padding


def _format_value(value: Json) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or (not isinstance(value, int | float) and not value):
        return "-"
    if isinstance(value, Mapping):
        return " ".join(f"{key}={_format_value(part)}" for key, part in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ",".join(map(_format_value, value))
    return escape_text(str(value))
