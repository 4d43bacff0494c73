# SPDX-License-Identifier: Apache-2.0
"""`cowctl plot`: a picture of what the pages of a process are."""

import os
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from mmap import PAGESIZE
from pathlib import Path
from typing import Final, NamedTuple

import click

import cowd
from cowd._backend import ask
from cowd.cli.candidates import offer_files
from cowd.cli.clock import read_time
from cowd.cli.drawing import Picture, draw
from cowd.cli.options import backend_option, make_command, note_fallback, socket_option
from cowd.cli.pictures import Row, add_totals, choose_mappings, count_pages
from cowd.cli.processes import find_process, read_names
from cowd.cli.progress import track_pages
from cowd.cli.targets import mapping_option, name_option, parse_pid, words_argument
from cowd.cli.text import escape_text, format_size, print_message
from cowd.cli.webpage import make_webpage

__all__ = ["command"]

_FORMATS: Final = ("png", "svg", "html")
_LEAST_WIDTH: Final = 640
_MOST_WIDTH: Final = 10_000
_MOST_ROWS: Final = 500


class _Wish(NamedTuple):
    """What the picture is to show."""

    pid: int
    name: str | None
    text: str | None
    with_all: bool
    most_rows: int
    width: int


def _verify_file(ctx: click.Context, param: click.Parameter, text: str) -> Path:
    path = Path(text)
    if path.suffix.lower().removeprefix(".") not in _FORMATS:
        raise click.BadParameter(
            f"{text!r} has no known ending: it is to be .png, .svg or .html", ctx, param
        )
    if not os.access(path.parent, os.W_OK | os.X_OK):  # said before everything is read for it
        raise click.ClickException(
            f"cannot write {path}: its directory is not there, or not yours to write to"
        )
    return path


@make_command(
    "plot",
    (),
    {
        "cowctl plot 4711 -o map.png": "A picture of the private mappings of process 4711.",
        "cowctl plot 4711 -o map.html": "A page to look at in a browser: what the pointer is on "
        "tells more.",
        "cowctl plot -C redis-server --all --rows 100 -o map.svg": "All mappings of redis-server.",
    },
)
@words_argument("{PID | -C NAME}")
@click.option(
    "-o",
    "--output",
    "path",
    metavar="FILE",
    required=True,
    callback=_verify_file,
    shell_complete=offer_files,
    help="File to write; its ending says what it is to be: .png, .svg or .html.",
)
@name_option
@mapping_option
@click.option(
    "--all", "with_all", is_flag=True, help="Mappings that are shared, or empty, as well."
)
@click.option(
    "--rows",
    "most_rows",
    metavar="NUMBER",
    type=click.IntRange(1, _MOST_ROWS),
    default=24,
    help="At most so many mappings, those with most pages; 24 by default.",
)
@click.option(
    "--width",
    metavar="PIXELS",
    type=click.IntRange(_LEAST_WIDTH, _MOST_WIDTH),
    default=1200,
    help="Width of the picture; 1200 by default.",
)
@backend_option
@socket_option
def command(
    words: Sequence[str],
    path: Path,
    name: str | None,
    text: str | None,
    with_all: bool,
    most_rows: int,
    width: int,
    backend: cowd.BackendName,
    socket: str | None,
) -> int:
    """Draw what a process's pages are, and which have been copied.

    Each private mapping that has pages is a strip, coloured by what they are. Needs matplotlib.
    FILE is written as a whole, or not at all.
    """
    wish = _Wish(parse_pid(words, name), name, text, with_all, most_rows, width)
    picture, refusal = ask(backend, lambda source: _make_picture(source, wish), address=socket)
    if refusal:
        note_fallback(refusal)
    try:
        _write_whole(path, _draw(picture, path.suffix.lower().removeprefix(".")))
    except ImportError as error:
        raise click.ClickException(
            "pictures are drawn by matplotlib, which is not installed: install Debian's "
            "python3-matplotlib, or, where cowctl is in a virtual environment, run `pip install "
            "matplotlib` there"
        ) from error
    except OSError as error:
        raise click.ClickException(f"cannot write {path}: {error.strerror}") from error
    return 0


def _make_picture(source: cowd.Backend, wish: _Wish) -> Picture:
    """Ask about a process, and arrange what is drawn."""
    with nullcontext() if wish.name is None else find_process(wish.name) as named:
        pid = named.pid if named else wish.pid
        listed = source.list_mappings(pid, with_page_counts=True)
        shown, others = choose_mappings(
            listed.mappings, wish.text, wish.most_rows, with_all=wish.with_all
        )
        if not shown:
            what = f"whose name has {wish.text!r} in it" if wish.text else "with a private page"
            raise click.ClickException(f"process {pid} has no mapping {what}: see /proc/{pid}/maps")
        empty = Picture("", "", (), (), (), wish.width)
        rows = _read_rows(source, listed, shown, empty.column_count)
        command = read_names(pid)[1]
    title = f"{escape_text(command)} ({pid})" if command else f"process {pid}"
    counts = [each.page_counts for each in listed.mappings if each.page_counts]
    mapped, resident = sum(c.total for c in counts), sum(c.resident for c in counts)
    subtitle = (
        f"{read_time():%Y-%m-%d %H:%M:%S}: {format_size(mapped * PAGESIZE)} mapped, "
        f"{format_size(resident * PAGESIZE)} in memory, "
        f"{format_size(_count_copied(listed.mappings) * PAGESIZE)} copied from files"
    )
    notes = _list_notes(rows, others)
    return Picture(title, subtitle, add_totals([*shown, *others]), rows, notes, wish.width)


def _read_rows(
    source: cowd.Backend, listed: cowd.MappingList, shown: Sequence[cowd.Mapping], columns: int
) -> list[Row]:
    ranges = [(each.start_address, each.size_bytes // PAGESIZE) for each in shown]
    chunks = source.stream_page_flags(
        listed.pid, ranges, expected_start_time_ticks=listed.start_time_ticks
    )
    total = sum(count for _, count in ranges)
    tracked = track_pages(chunks, f"Reading process {listed.pid}", total)
    return list(count_pages(tracked, shown, columns))


def _count_copied(mappings: Sequence[cowd.Mapping]) -> int:
    return sum(
        each.page_counts.anon + each.page_counts.anon_swapped
        for each in mappings
        if each.kind is cowd.MappingKind.PRIVATE_FILE and each.page_counts
    )


def _list_notes(rows: Sequence[Row], others: Sequence[cowd.Mapping]) -> list[str]:
    """Say how the picture is to be read, and what is not in it."""
    notes = [
        "A strip is one mapping, from its first page to its last. Its columns are stacked by what "
        "their pages are; what is rare keeps an eighth."
    ]
    if others:
        there = sum(each.page_counts.resident for each in others if each.page_counts)
        copied = _count_copied(others)
        notes.append(
            f"Not shown: {len(others)} mappings with fewer pages, "
            f"{format_size(there * PAGESIZE)} in memory, {format_size(copied * PAGESIZE)} copied. "
            "The legend counts them."
        )
        print_message(
            f"note: {len(rows)} mappings of {len(rows) + len(others)} are drawn: --rows draws more"
        )
    return notes


def _draw(picture: Picture, file_format: str) -> bytes:
    if file_format == "html":
        return make_webpage(picture, draw(picture, "svg"))
    return draw(picture, file_format)


def _write_whole(path: Path, content: bytes) -> None:
    """Write a file so that there is never a part of it under its name."""
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            mask = os.umask(0)
            os.umask(mask)
            os.fchmod(file.fileno(), 0o666 & ~mask)
        os.rename(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
