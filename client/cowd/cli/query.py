# SPDX-License-Identifier: Apache-2.0
"""`cowctl query`: what the pages of a process are, and which have been copied."""

from collections.abc import Sequence
from contextlib import nullcontext
from itertools import chain, islice
from mmap import PAGESIZE
from typing import Final, NamedTuple

import click

import cowd
from cowd._backend import ask
from cowd._runs import Run, Segment, iter_runs, join_segments
from cowd.cli.columns import FLAGS, KPAGEFLAGS, LETTERS
from cowd.cli.options import (
    backend_option,
    make_command,
    note_fallback,
    socket_option,
)
from cowd.cli.output import Column, Json, Output, format_masks, format_word
from cowd.cli.processes import find_process
from cowd.cli.progress import track_pages
from cowd.cli.strip import draw_strip, style_of
from cowd.cli.targets import (
    align,
    choose_segments,
    mapping_option,
    name_option,
    parse_words,
    words_argument,
)
from cowd.cli.text import decode_path, print_message

__all__ = ["command"]

SCHEMA: Final = "cowd.query/1"

_MOST_RUNS: Final = 1_000_000
"""Some 300 MB of them; and who would read more?"""

_COLUMNS: Final[Sequence[Column[Run]]] = (
    Column("address", "ADDRESS", "first page", lambda run: format_word(run.address)),
    Column("page_count", "PAGES", "number of pages", right=True),
    Column("size_bytes", "SIZE", "size of all of them", right=True, is_size=True, in_json=False),
    Column(
        "state",
        "STATE",
        "absent, file, anon, anon_swapped, zero, guard, unknown",
        lambda run: run.state.name.lower(),
        style=style_of,
    ),
    Column(
        "copied",
        "COPIED",
        "has a private copy; - in no private file mapping, or not known",
        style=style_of,
    ),
    LETTERS,
    KPAGEFLAGS,
    FLAGS,
    Column(
        "attributes",
        "ATTRIBUTES",
        "exclusive, soft_dirty, uffd_wp, lazyfree, unstable",
        lambda run: run.attributes.names,
        in_table=False,
    ),
    Column(
        "mapping",
        "MAPPING",
        "file, or name such as [heap]",
        lambda run: decode_path(run.mapping.path) if run.mapping else None,
        gives_way=True,
    ),
)


@make_command(
    "query",
    _COLUMNS,
    {
        "cowctl query 4711": "Every private mapping of process 4711.",
        "cowctl query 4711 7f3c5a400000+16 --each": "Sixteen pages from an address, one by one.",
        "cowctl query 4711 --mapping libfoo.so -o ADDRESS,PAGES,COPIED,FLAGS": "What is mapped of "
        "libfoo.so, whose path has that in it, with the kernel's flags by name.",
        "cowctl query -C redis-server --backend local": "The process redis-server, if there is "
        "just one, without the daemon.",
        "cowctl query -J 4711 | jq '.runs[] | select(.copied)'": "For programs: the pages that "
        "have been copied.",
    },
)
@words_argument("{PID | -C NAME} [RANGE]")
@name_option
@mapping_option
@click.option("--each", is_flag=True, help="One row a page; neighbours alike are not folded.")
@backend_option
@socket_option
def command(
    words: Sequence[str],
    name: str | None,
    text: str | None,
    each: bool,
    backend: cowd.BackendName,
    socket: str | None,
    output: Output[Run],
) -> int:
    """Show what a process's pages are, and which have been copied.

    The process is PID, or the only one whose command is called NAME. RANGE is ADDR (one page),
    ADDR+COUNT (COUNT pages, decimal) or START-END, with addresses in hexadecimal as in
    /proc/PID/maps. Without it: every private mapping, or, with --mapping, every one that matches.
    """
    given_pid, pages = parse_words(words, name)
    wanted = align(pages) if pages else None
    with nullcontext() if name is None else find_process(name) as named:
        pid = named.pid if named else given_pid
        answer, refusal = ask(
            backend, lambda source: _read(source, pid, wanted, text, each=each), address=socket
        )
    if refusal:
        note_fallback(refusal)
    if output.is_for_person:
        if named:
            print_message(f"note: {name} is process {pid}")
        output.write(*draw_strip(answer.runs, output.width, output.paint), "")
    head: dict[str, Json] = {
        "schema": SCHEMA,
        "pid": pid,
        "start_time_ticks": answer.start_time_ticks,
        "page_size_bytes": PAGESIZE,
        "backend": answer.backend,
        "masks": None if answer.masks is None else format_masks(answer.masks),
    }
    output.write_rows(head, "runs", answer.runs)
    return 0


class _Answer(NamedTuple):
    """What one backend said. `masks` is None without the daemon."""

    backend: str
    start_time_ticks: int
    masks: cowd.DisclosureMasks | None
    runs: list[Run]


def _read(
    source: cowd.Backend, pid: int, wanted: tuple[int, int] | None, text: str | None, *, each: bool
) -> _Answer:
    listed = source.list_mappings(pid)
    segments = choose_segments(listed, wanted, text)
    ranges = [(start, (end - start) // PAGESIZE) for start, end in join_segments(segments)]
    chunks = source.stream_page_flags(
        pid, ranges, expected_start_time_ticks=listed.start_time_ticks
    )
    first = next(chunks)
    tracked = track_pages(
        chain([first], chunks), f"Reading process {pid}", sum(count for _, count in ranges)
    )
    runs = list(islice(iter_runs(tracked, segments, each=each), _MOST_RUNS + 1))
    if len(runs) > _MOST_RUNS:
        raise click.ClickException(
            f"process {pid} has more than {_MOST_RUNS} rows to show: ask for less, with a RANGE or "
            "--mapping"
        )
    _note_changes(source, listed, segments)
    return _Answer(source.name, listed.start_time_ticks, first.masks, runs)


def _note_changes(source: cowd.Backend, before: cowd.MappingList, segments: list[Segment]) -> None:
    """Say so if a mapping that was read is not the same any more: its pages may not have been."""
    after = source.list_mappings(
        before.pid, expected_start_time_ticks=before.start_time_ticks
    ).mappings
    if not {piece.mapping for piece in segments if piece.mapping}.issubset(after):
        print_message(
            f"note: process {before.pid} changed its mappings while they were read: "
            "ask again if the answer must be of one moment"
        )
