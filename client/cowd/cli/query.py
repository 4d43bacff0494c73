# SPDX-License-Identifier: Apache-2.0
"""`cowctl query`: what the pages of a process are, and which have been copied."""

from collections.abc import Sequence
from typing import Final

import click

import cowd
from cowd import KernelPageFlags, MappingKind
from cowd._kpageflags import format_letters
from cowd.cli.output import (
    Column,
    Json,
    Output,
    describe_columns,
    format_word,
    make_parser,
    output_options,
)
from cowd.cli.progress import Progress
from cowd.cli.ranges import AddressRange, Segment, align_range, iter_segments, parse_range
from cowd.cli.runs import Run, iter_runs
from cowd.cli.strip import symbol_of
from cowd.cli.text import decode_path, print_message

__all__ = ["RUN_COLUMNS", "command", "format_masks", "socket_option"]

SCHEMA: Final = "cowd.query/1"

_PRIVATE_KINDS: Final = (MappingKind.PRIVATE_FILE, MappingKind.ANONYMOUS)


def _paint_run(run: Run) -> str:
    return symbol_of(run).style


RUN_COLUMNS: Final[Sequence[Column[Run]]] = (
    Column("address", "ADDRESS", "first page", lambda run: format_word(run.address)),
    Column("page_count", "PAGES", "number of pages", lambda run: run.page_count, right=True),
    Column(
        "size_bytes",
        "SIZE",
        "size of all of them",
        lambda run: run.page_count * run.page_size_bytes,
        right=True,
        is_size=True,
        in_json=False,
    ),
    Column(
        "state",
        "STATE",
        "absent, file, anon, anon_swapped, zero, guard, unknown",
        lambda run: run.state.name.lower(),
        style=_paint_run,
    ),
    Column(
        "copied",
        "COPIED",
        "has a private copy; - where no file could be copied from",
        lambda run: run.copied,
        style=_paint_run,
    ),
    Column(
        "letters",
        "LETTERS",
        "kernel flags by the letters of page-types",
        lambda run: None if run.kpageflags is None else format_letters(run.kpageflags),
        in_json=False,
    ),
    Column(
        "kpageflags",
        "KPAGEFLAGS",
        "kernel flags as a word",
        lambda run: format_word(run.kpageflags),
        in_table=False,
    ),
    Column(
        "flags",
        "FLAGS",
        "kernel flags by name",
        lambda run: None if run.kpageflags is None else KernelPageFlags(run.kpageflags).names,
        in_table=False,
    ),
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

socket_option = click.option(
    "--socket",
    metavar="PATH",
    callback=lambda ctx, _, path: path or ctx.obj,
    help=f"The daemon's socket. Default: COWD_SOCKET, or {cowd.DEFAULT_ADDRESS}.",
)


@click.command(
    "query",
    epilog=f"""{describe_columns(RUN_COLUMNS)}

\b
Examples:
  cowctl query 4711
  cowctl query 4711 7f3c5a400000+16 --each
  cowctl query 4711 --mapping libfoo.so -o +FLAGS
  cowctl query -J 4711 | jq '.runs[] | select(.copied)'""",
)
@click.argument("pid", type=click.IntRange(1, 2**31 - 1))
@click.argument("pages", metavar="[RANGE]", callback=make_parser(parse_range), required=False)
@click.option(
    "--mapping", "text", metavar="TEXT", help="Only mappings with TEXT in their path or name."
)
@click.option("--each", is_flag=True, help="One row a page; neighbours alike are not folded.")
@socket_option
@output_options
def command(
    pid: int,
    pages: AddressRange | None,
    text: str | None,
    each: bool,
    socket: str | None,
    output: Output,
) -> int:
    """Show what the pages of process PID are, and which have been copied.

    RANGE is ADDR (one page), ADDR+COUNT (COUNT pages, decimal) or START-END, with addresses in
    hexadecimal as in /proc/PID/maps. Without it: every private mapping, or, with --mapping, every
    one that matches.
    """
    columns = output.select(RUN_COLUMNS)
    with cowd.Client(socket) as client:
        info = client.get_server_info()
        listed = client.list_mappings(pid)
        segments = _choose_segments(listed.mappings, pages, text, info.page_size_bytes)
        if not segments:
            where = "in this range " if pages else ""
            what = f"whose name has {text!r} in it" if text else "that is private"
            raise click.ClickException(
                f"process {pid} has no mapping {where}{what}: see /proc/{pid}/maps"
            )
        page_count = sum(piece.end - piece.start for piece in segments) // info.page_size_bytes
        with Progress(f"Reading process {pid}", page_count) as progress:
            runs = list(
                iter_runs(
                    client,
                    pid,
                    segments,
                    page_size_bytes=info.page_size_bytes,
                    maximum_page_count=info.maximum_page_count,
                    start_time_ticks=listed.start_time_ticks,
                    each=each,
                    advance=progress.advance,
                )
            )
        _note_changes(client, listed, segments)
    if output.as_json:
        head: dict[str, Json] = {
            "schema": SCHEMA,
            "pid": pid,
            "start_time_ticks": listed.start_time_ticks,
            "page_size_bytes": info.page_size_bytes,
            "backend": "daemon",
            "masks": format_masks(info.masks),
        }
        output.write_json(head, "runs", runs, columns)
        return 0
    if output.is_for_person:
        output.write_strip(runs)
        output.write_line()
    output.write_table(runs, columns)
    return 0


def format_masks(masks: cowd.DisclosureMasks) -> dict[str, Json]:
    """Return disclosure masks as JSON has them."""
    return {
        "private_flags_mask": f"{masks.private_flags_mask:#x}",
        "shared_flags_mask": f"{masks.shared_flags_mask:#x}",
    }


def _choose_segments(
    mappings: Sequence[cowd.Mapping],
    pages: AddressRange | None,
    text: str | None,
    page_size_bytes: int,
) -> list[Segment]:
    """Return what to read, cut at the borders of mappings."""
    if pages is None:
        segments = [Segment(each.start_address, each.end_address, each) for each in mappings]
        if text is None:
            return [
                piece
                for piece in segments
                if piece.mapping and piece.mapping.kind in _PRIVATE_KINDS
            ]
    else:
        try:
            start, end, notes = align_range(pages, page_size_bytes)
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="'RANGE'") from error
        for note in notes:
            print_message(note)
        segments = list(iter_segments(mappings, start, end))
    if text is None:
        return segments
    return [
        piece for piece in segments if piece.mapping and text in decode_path(piece.mapping.path)
    ]


def _note_changes(client: cowd.Client, before: cowd.MappingList, segments: list[Segment]) -> None:
    """Say so if a mapping that was read is not the same any more: its pages may not have been."""
    after = client.list_mappings(
        before.pid, expected_start_time_ticks=before.start_time_ticks
    ).mappings
    if not {piece.mapping for piece in segments if piece.mapping}.issubset(after):
        print_message(
            f"note: process {before.pid} changed its mappings while they were read: "
            "ask again if the answer must be of one moment"
        )
