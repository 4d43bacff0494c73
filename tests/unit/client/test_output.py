# SPDX-License-Identifier: Apache-2.0
"""Text from elsewhere, and tables as they must stay."""

import io
import json
from typing import NamedTuple

import click
import pytest
from cowd.cli.output import Column, Output, select_columns
from cowd.cli.text import cut_text, decode_path, escape_text, format_size, measure_text, wrap_text


class Row(NamedTuple):
    name: object
    size: int
    good: bool | None


COLUMNS = (
    Column("name", "NAME", "of it", gives_way=True),
    Column("size_bytes", "SIZE", "of it", lambda row: row.size, right=True, is_size=True),
    Column("good", "GOOD", "is it", in_table=False, style=lambda _row: "green"),
)
ROWS = [Row("plain", 4096, True), Row("with blank", 1536, None), Row(["a", "b"], 10, False)]


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def write(monkeypatch):
    """Return a function that writes ROWS with options and returns the lines."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")

    def write(rows=ROWS, *, terminal=False, width=80, available=COLUMNS, **options):
        monkeypatch.setenv("COLUMNS", str(width))
        stream = Terminal() if terminal else io.StringIO()
        monkeypatch.setattr("sys.stdout", stream)
        defaults = {
            "as_json": False,
            "columns": None,
            "as_bytes": False,
            "noheadings": False,
            "raw": False,
            "color": "auto",
        }
        output = Output(available, **{**defaults, **options})
        output.write_rows({"schema": "x/1"}, "rows", rows)
        return stream.getvalue().splitlines()

    return write


def test_a_table(write):
    assert write() == [
        "NAME       SIZE",
        "plain        4K",
        "with blank 1.5K",
        "a,b         10B",
    ]


def test_sizes_in_bytes_without_headings(write):
    assert write(as_bytes=True, noheadings=True) == [
        "plain      4096",
        "with blank 1536",
        "a,b          10",
    ]


def test_raw_output_has_one_blank_between_columns(write):
    assert write(raw=True) == ["NAME SIZE", "plain 4K", "with\\x20blank 1.5K", "a,b 10B"]


def test_columns_are_chosen_and_added(write):
    assert write(columns="good,NAME") == [
        "GOOD NAME",
        "yes  plain",
        "-    with blank",
        "no   a,b",
    ]
    assert write(columns="+good")[0] == "NAME       SIZE GOOD"
    assert write(columns="+NAME,size_bytes")[0] == "NAME       SIZE"


def test_a_column_that_is_not_there_is_wrong_usage():
    with pytest.raises(click.BadParameter, match=r"no column 'x': there are NAME, SIZE, GOOD"):
        select_columns(COLUMNS, "name,x", as_json=False)


def test_json_is_typed_and_has_a_line_for_each_row(write):
    lines = write(as_json=True)
    assert len(lines) == 2 + len(ROWS)
    assert json.loads("".join(lines)) == {
        "schema": "x/1",
        "rows": [
            {"name": "plain", "size_bytes": 4096, "good": True},
            {"name": "with blank", "size_bytes": 1536, "good": None},
            {"name": ["a", "b"], "size_bytes": 10, "good": False},
        ],
    }
    assert json.loads("".join(write([], as_json=True)))["rows"] == []
    assert '{"good": true}' in write(as_json=True, columns="good")[1]


LONG = [Row("/usr/lib/" + "x" * 90, 4096, True)]


def test_a_terminal_gets_lines_that_fit_and_a_pipe_all_of_it(write):
    on_terminal = write(LONG, terminal=True, color="never")
    assert all(len(line) <= 80 for line in on_terminal)
    assert on_terminal[1].startswith("…xxx")
    assert LONG[0].name in write(LONG)[1]
    assert write(LONG, terminal=True, raw=True)[1] == f"{LONG[0].name} 4K"


def test_the_narrowest_terminal_still_shows_something(write, capsys):
    assert write(LONG, terminal=True, width=21, color="never")[1] == "…" + "x" * 15 + "   4K"
    assert capsys.readouterr().err == ""
    assert write(LONG, terminal=True, width=3, color="never") == ["…ME", "…xx"]
    assert capsys.readouterr().err == (
        "cowctl: note: the terminal is too narrow for NAME, SIZE: "
        "widen it, or choose columns with -o\n"
    )


def test_a_column_at_the_edge_of_a_terminal_is_cut_or_left_out(write):
    columns = {"columns": "size,good,name", "terminal": True, "color": "never"}
    assert write([Row("x" * 30, 1, True)], width=16, **columns) == [
        "SIZE GOOD NAME",
        "  1B yes  …xxxxx",
    ]
    assert write([Row("x" * 30, 1, True)], width=15, **columns) == ["SIZE GOOD", "  1B yes"]


NOTED = (
    Column("name", "NAME", "of it"),
    Column("found", "FOUND", "of it", lambda row: row.size, wraps=True),
    Column("next", "NEXT", "of it", lambda row: row.good, below=True),
)
NOTES = [Row("a", "one two three", "do `this and` that"), Row("b", "four", None)]


def test_a_terminal_gets_wrapped_cells_and_notes_below(write):
    options = {"terminal": True, "color": "never", "available": NOTED}
    assert write(NOTES, width=21, **options) == [
        "NAME FOUND",
        "a    one two three",
        "     next: do",
        "     `this and` that",
        "b    four",
    ]
    assert write(NOTES, width=80, noheadings=True, **options) == [
        "a one two three",
        "  next: do `this and` that",
        "b four",
    ]


def test_a_pipe_gets_a_line_a_row(write):
    assert write(NOTES, available=NOTED) == [
        "NAME FOUND         NEXT",
        "a    one two three do `this and` that",
        "b    four          -",
    ]


def test_a_note_alone_is_a_column(write):
    options = {"terminal": True, "color": "never", "available": NOTED}
    assert write(NOTES, columns="next", **options) == ["NEXT", "do `this and` that", "-"]


@pytest.mark.parametrize(
    ("text", "width", "lines"),
    [
        ("", 5, [""]),
        ("one two", 7, ["one two"]),
        ("one two", 6, ["one", "two"]),
        ("abcdefgh i", 3, ["abc", "def", "gh", "i"]),
        ("see `a b`: c", 8, ["see", "`a b`: c"]),
        ("複複複", 4, ["複複", "複"]),
        ("複複", 1, ["複", "複"]),
    ],
)
def test_text_is_wrapped(text, width, lines):
    assert wrap_text(text, width) == lines


@pytest.mark.parametrize(
    ("terminal", "color", "environment", "colored"),
    [
        (False, "auto", {}, False),
        (True, "auto", {}, True),
        (True, "auto", {"NO_COLOR": "1"}, False),
        (True, "auto", {"NO_COLOR": ""}, True),
        (True, "auto", {"TERM": "dumb"}, False),
        (True, "never", {}, False),
        (False, "always", {"NO_COLOR": "1"}, True),
    ],
)
def test_colours_are_for_terminals(write, monkeypatch, terminal, color, environment, colored):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    lines = write(terminal=terminal, color=color, columns="good")
    assert ("\x1b[32myes\x1b[0m" in lines[1]) is colored
    assert ("\x1b" in "".join(lines)) is colored


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        (b"/lib/x.so", "/lib/x.so"),
        ("/é/日本".encode(), "/é/日本"),
        (b"/a\x1b[31mred\x1b[0m", r"/a\x1b[31mred\x1b[0m"),
        (b"/a\x1b]0;title\x07", r"/a\x1b]0;title\x07"),
        (b"/a\r\b\t\x00\x7f", r"/a\x0d\x08\x09\x00\x7f"),
        (b"/a\xff\xc3", r"/a\xff\xc3"),
        ("/a\x9b31m".encode(), r"/a\x9b31m"),
        ("/\u202egnp.exe".encode(), r"/\u202egnp.exe"),
        ("/\u2066x\u2069\u200b\u2028".encode(), r"/\u2066x\u2069\u200b\u2028"),
        ("/\U000e0041".encode(), r"/\U000e0041"),
        (b"/a\xed\xb2\x80", r"/a\xed\xb2\x80"),
    ],
)
def test_no_path_steers_a_terminal(write, path, shown):
    assert escape_text(decode_path(path)) == shown
    for terminal in (False, True):
        line = write([Row(decode_path(path), 1, None)], terminal=terminal, color="never")[1]
        assert line.startswith(shown)
    assert write([Row(decode_path(path), 1, None)], as_json=True)[1].isascii()


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0B"),
        (1023, "1023B"),
        (1024, "1K"),
        (1536, "1.5K"),
        (4 << 20, "4M"),
        (1 << 38, "256G"),
        (1 << 64, "16E"),
    ],
)
def test_sizes_are_short(size_bytes, text):
    assert format_size(size_bytes) == text


def test_wide_characters_take_two_columns():
    assert measure_text("日本e\u0301") == 5
    assert cut_text("/日本", 5) == "/日本"
    assert cut_text("/日本", 4) == "…本"
    assert cut_text("abcdef", 4) == "…def"


DRAWN = (
    Column("name", "NAME", "of it", gives_way=True),
    Column("bar", "BAR", "of it", in_json=False, draw=lambda _row, width: [("#" * width, "red")]),
    Column("size", "COUNT", "of it", right=True, counts_pages=True),
)


def test_a_drawing_is_for_a_person_unless_asked_for(write):
    """Seen to fail with drawings among the usual columns."""
    assert write(available=DRAWN)[0] == "NAME       COUNT"
    assert write(available=DRAWN, columns="bar,name")[1] == f"{'#' * 20} plain"
    assert json.loads("".join(write(available=DRAWN, as_json=True)))["rows"][0] == {
        "name": "plain",
        "size": 4096,
    }


@pytest.mark.parametrize(("width", "drawn"), [(80, 40), (40, 28), (20, 8), (19, 0)])
def test_a_drawing_takes_the_room_that_there_is(write, width, drawn):
    """Seen to fail with drawings of one width, and with the blank of one that is left out."""
    lines = write(ROWS[:1], terminal=True, width=width, available=DRAWN, color="never")
    assert lines[1].split() == ["plain", *filter(None, ["#" * drawn]), "16M"]
    assert len(lines[1]) == min(width, drawn + 12 if drawn else 11)


def test_numbers_of_pages_are_shown_as_sizes(write):
    """Seen to fail with the numbers themselves, and with 0B."""
    rows = [Row("x", 3, None), Row("y", 0, None)]
    assert write(rows, available=DRAWN, columns="size") == ["COUNT", "  12K", "    0"]
    assert write(rows, available=DRAWN, columns="size", as_bytes=True)[1] == "12288"


def test_a_number_is_shown_whole_or_not_at_all(write, capsys):
    """Seen to fail with a number that is cut, and with one in the place of another."""
    columns = [
        Column("name", "NAME", "of it"),
        Column("size", "PLENTY", "of it", right=True),
        Column("good", "G", "is it"),
    ]
    lines = write([Row("abcdef", 12345678, True)], terminal=True, width=12, available=columns)
    assert [line.split()[-1] for line in lines] == ["\x1b[1mNAME\x1b[0m", "abcdef"]
    assert "too narrow for PLENTY, G:" in capsys.readouterr().err


def test_what_yields_the_most_is_left_out_first(write, capsys):
    """Seen to fail with columns that are left out from the left, and from the right."""
    columns = [
        Column("name", "NAME", "of it", yields=1),
        Column("size", "SIZE", "of it", yields=2),
        Column("good", "GOOD", "is it"),
    ]
    rows = [Row("abcdef", 123456, True)]
    for width, expected in ((18, "abcdef 123456 yes"), (11, "abcdef yes"), (6, "yes")):
        lines = write(rows, terminal=True, width=width, available=columns)
        assert lines[1] == expected
    assert "too narrow for SIZE, NAME:" in capsys.readouterr().err
