# SPDX-License-Identifier: Apache-2.0
"""`cowctl maps`: what the mappings of a process consist of."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from mmap import PAGESIZE
from typing import Any, Final, NamedTuple

import click

import cowd
from cowd import Mapping, MappingKind, PageCounts, PageState, is_copied
from cowd._backend import ask
from cowd._counts import sum_counts
from cowd.cli.bars import draw_bar
from cowd.cli.options import backend_option, make_command, note_fallback, socket_option
from cowd.cli.output import Column, Json, Output, format_word
from cowd.cli.processes import find_process
from cowd.cli.progress import show_progress
from cowd.cli.symbols import COPIED, Symbol, draw_legend, symbol_of_state
from cowd.cli.targets import OUT_OF_PAGEMAP, mapping_option, name_option, parse_pid, words_argument
from cowd.cli.text import decode_path, print_message

__all__ = ["command"]

SCHEMA: Final = "cowd.maps/1"

_COPIES: Final = (PageState.ANON, PageState.ANON_SWAPPED)


class _Part(NamedTuple):
    """A mapping, or several of them together.

    Attributes:
        kind: what backs them; None for several kinds.
        copied_page_count: None where no page has an original to be copied from.
        symbols: how many pages are drawn how.
    """

    mappings: Sequence[Mapping]
    kind: MappingKind | None
    page_counts: PageCounts
    copied_page_count: int | None
    symbols: Counter[Symbol]

    @property
    def name(self) -> str:
        """What backs them, in words."""
        return "all" if self.kind is None else self.kind.name.lower()


def _join(mappings: Iterable[Mapping]) -> _Part:
    """Return mappings as one part."""
    mappings = tuple(mappings)
    kinds = {each.kind for each in mappings}
    symbols: Counter[Symbol] = Counter()
    copied_page_count = 0
    for each in mappings:
        for state in PageState:
            count = _read_counts(each)[state]
            symbols[symbol_of_state(state, copied=is_copied(each.kind, state))] += count
            if each.kind is MappingKind.PRIVATE_FILE and state in _COPIES:
                copied_page_count += count
    return _Part(
        mappings,
        kinds.pop() if len(kinds) == 1 else None,
        sum_counts(map(_read_counts, mappings)),
        copied_page_count if MappingKind.PRIVATE_FILE in {each.kind for each in mappings} else None,
        +symbols,
    )


def _read_counts(mapping: Mapping) -> PageCounts:
    return mapping.page_counts or PageCounts(unknown=mapping.size_bytes // PAGESIZE)


def _draw(part: _Part, width: int) -> list[tuple[str, str]]:
    return draw_bar(sorted(part.symbols.items(), reverse=True), width)


def _make_count(key: str, heading: str, text: str) -> Column[_Part]:
    """Return the column of a state."""
    return Column(
        f"{key}_page_count",
        heading,
        text,
        lambda part: int(getattr(part.page_counts, key)),
        right=True,
        counts_pages=True,
        in_table=False,
    )


_SIZES: Final[Sequence[Column[_Part]]] = (
    Column(
        "page_count",
        "SIZE",
        "all of its pages, there or not",
        lambda part: part.page_counts.total,
        right=True,
        counts_pages=True,
    ),
    Column(
        "resident_page_count",
        "RESIDENT",
        "pages in memory, as Rss in smaps",
        lambda part: part.page_counts.resident,
        right=True,
        counts_pages=True,
        yields=1,
    ),
    Column(
        "copied_page_count",
        "COPIED",
        "private copies of a file's pages; - in other mappings",
        right=True,
        counts_pages=True,
        style=lambda part: COPIED.style if part.copied_page_count else "",
    ),
    Column(
        "bar",
        "BAR",
        "share of each state, drawn; on a terminal",
        in_json=False,
        draw=_draw,
    ),
)

_COLUMNS: Final[Sequence[Column[_Part]]] = (
    Column(
        "address",
        "ADDRESS",
        "first page",
        lambda part: format_word(part.mappings[0].start_address),
    ),
    *_SIZES,
    _make_count("absent", "ABSENT", "pages that are not here now"),
    _make_count("file", "FILE", "pages of the file, or of shared memory"),
    _make_count("anon", "ANON", "anonymous pages in memory"),
    _make_count("anon_swapped", "SWAPPED", "anonymous pages swapped out"),
    _make_count("zero", "ZERO", "pages that are the kernel's page of zeros"),
    _make_count("guard", "GUARD", "guard regions"),
    _make_count("unknown", "UNKNOWN", "pages that cannot be told"),
    Column(
        "kind",
        "KIND",
        "private_file, shared_file, anonymous, special",
        lambda part: part.name,
        in_table=False,
    ),
    Column(
        "permissions",
        "PERM",
        "as in /proc/PID/maps",
        lambda part: part.mappings[0].permissions,
        yields=2,
    ),
    Column(
        "file_offset_bytes",
        "OFFSET",
        "where in its file it starts, in bytes",
        lambda part: part.mappings[0].file_offset_bytes,
        right=True,
        in_table=False,
    ),
    Column(
        "mapping",
        "MAPPING",
        "file, or name such as [heap]",
        lambda part: decode_path(part.mappings[0].path),
        gives_way=True,
    ),
)

_TOTALS: Final[Sequence[Column[_Part]]] = (
    Column("kind", "KIND", "", lambda part: part.name),
    Column("mapping_count", "MAPPINGS", "", lambda part: len(part.mappings), right=True),
    *_SIZES,
)

_ORDERS: Final[dict[str, Callable[[_Part], Any]]] = {
    "address": lambda part: part.mappings[0].start_address,
    "copied": lambda part: -(part.copied_page_count or 0),
    "resident": lambda part: -part.page_counts.resident,
    "size": lambda part: -part.page_counts.total,
}


@make_command(
    "maps",
    _COLUMNS,
    {
        "cowctl maps 4711": "Every mapping of process 4711 that has anything in it.",
        "cowctl maps -C redis-server --sort copied": "Where the most has been copied, of the "
        "process redis-server.",
        "cowctl maps 4711 --mapping python --all": "Every mapping with python in its name, empty "
        "ones too.",
        "cowctl maps 4711 -o ADDRESS,ANON,SWAPPED,ZERO,MAPPING": "Anonymous memory in detail.",
        "cowctl maps -J 4711 | jq '.mappings[].copied_page_count'": "For programs: how many pages "
        "have been copied of each.",
    },
)
@words_argument("{PID | -C NAME}")
@name_option
@mapping_option
@click.option("--all", "show_all", is_flag=True, help="Mappings with nothing in them as well.")
@click.option(
    "--sort",
    type=click.Choice([*_ORDERS]),
    default="address",
    help="Order of the rows: by address, or the largest first.",
)
@backend_option
@socket_option
def command(
    words: Sequence[str],
    name: str | None,
    text: str | None,
    show_all: bool,
    sort: str,
    backend: cowd.BackendName,
    socket: str | None,
    output: Output[_Part],
) -> int:
    """Show what the mappings of a process consist of.

    One row for each mapping: its size, how much of it is in memory, and how much has been copied,
    which is said of private mappings of files. The process is PID, or the only one whose command is
    called NAME. On a terminal, totals by kind of mapping come last.
    """
    given_pid = parse_pid(words, name)
    with nullcontext() if name is None else find_process(name) as named:
        pid = named.pid if named else given_pid
        with show_progress(f"Counting the pages of process {pid}"):
            (backend_name, listed), refusal = ask(
                backend,
                lambda source: (source.name, source.list_mappings(pid, with_page_counts=True)),
                address=socket,
            )
    if refusal:
        note_fallback(refusal, "")
    matching = [
        each
        for each in listed.mappings
        if (text is None or text in decode_path(each.path))
        and (show_all or each.path != OUT_OF_PAGEMAP)
    ]
    parts = [_join([each]) for each in matching if show_all or _has_pages(each)]
    if text is not None and not matching:
        raise click.ClickException(
            f"process {pid} has no mapping whose name has {text!r} in it: see /proc/{pid}/maps"
        )
    if not parts:
        print_message("note: there is nothing in these mappings: --all shows them")
    parts.sort(key=_ORDERS[sort])
    if output.is_for_person:
        if named:
            print_message(f"note: {name} is process {pid}")
        if symbols := sorted(_join(matching).symbols, reverse=True):
            output.write(*draw_legend(symbols, output.width, output.paint), "")
    head: dict[str, Json] = {
        "schema": SCHEMA,
        "pid": pid,
        "start_time_ticks": listed.start_time_ticks,
        "page_size_bytes": PAGESIZE,
        "backend": backend_name,
    }
    output.write_rows(head, "mappings", parts)
    if output.is_for_person and parts:
        output.write("")
        output.write_table(_add_up(matching), _TOTALS)
    return 0


def _has_pages(mapping: Mapping) -> bool:
    counts = _read_counts(mapping)
    return counts.absent < counts.total


def _add_up(mappings: Sequence[Mapping]) -> list[_Part]:
    """Return the mappings by kind; and all of them, if there are several kinds."""
    kinds = sorted({each.kind for each in mappings})
    parts = [_join(each for each in mappings if each.kind is kind) for kind in kinds]
    return [*parts, _join(mappings)] if len(parts) > 1 else parts
