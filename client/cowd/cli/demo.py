# SPDX-License-Identifier: Apache-2.0
"""`cowctl demo`: proves on this machine, as this user, that the daemon's answers are right."""

import os
from collections.abc import Sequence
from typing import Final

import click

import cowd
from cowd._kpageflags import format_letters
from cowd.cli.experiment import (
    PAGE_COUNT,
    Answer,
    Medium,
    judge_answers,
    map_privately,
    open_media,
)
from cowd.cli.output import Column, Json, Output, describe_columns, format_word, output_options
from cowd.cli.query import socket_option
from cowd.cli.ranges import iter_segments
from cowd.cli.runs import iter_runs
from cowd.cli.strip import symbol_of
from cowd.cli.text import print_message

__all__ = ["command"]

SCHEMA: Final = "cowd.demo/1"

_COLUMNS: Final[Sequence[Column[tuple[Medium, Answer]]]] = (
    Column("medium", "MEDIUM", "disk or tmpfs", lambda row: row[0].name, in_table=False),
    Column("page", "PAGE", "number of the page", lambda row: row[1].page, right=True),
    Column("action", "ACTION", "what was done to it", lambda row: row[1].action),
    Column(
        "state",
        "STATE",
        "what the daemon says it is",
        lambda row: row[1].run.state.name.lower(),
        style=lambda row: symbol_of(row[1].run).style,
    ),
    Column("copied", "COPIED", "what the daemon says", lambda row: row[1].run.copied),
    Column("expected", "EXPECTED", "what is true", lambda row: row[1].expected),
    Column(
        "right",
        "RIGHT",
        "the daemon is right",
        lambda row: row[1].is_right,
        style=lambda row: "green" if row[1].is_right else "bold red",
    ),
    Column(
        "swapbacked",
        "SWAPBACKED",
        "what the flag SWAPBACKED says; - without a page",
        lambda row: row[1].swapbacked,
    ),
    Column(
        "letters",
        "LETTERS",
        "kernel flags by the letters of page-types",
        lambda row: (
            None if row[1].run.kpageflags is None else format_letters(row[1].run.kpageflags)
        ),
        in_json=False,
    ),
    Column(
        "kpageflags",
        "KPAGEFLAGS",
        "kernel flags as a word",
        lambda row: format_word(row[1].run.kpageflags),
        in_table=False,
    ),
)


@click.command(
    "demo",
    epilog=f"""{describe_columns(_COLUMNS)}

\b
Examples:
  cowctl demo
  cowctl demo --socket /tmp/cowd.sock --json""",
)
@socket_option
@output_options
def command(socket: str | None, output: Output) -> int:
    """Try it: map four pages of a file privately, and ask the daemon which have been copied.

    Pages 0 and 2 are written, page 3 is read, page 1 is left alone; on a disk and on tmpfs. Only
    what is written is copied. Exits with 1 if any answer is wrong.
    """
    columns = output.select(_COLUMNS)
    rows: list[tuple[Medium, Answer]] = []
    mistakes: list[str] = []
    with cowd.Client(socket) as client, open_media() as media:
        info = client.get_server_info()
        for medium in media:
            with map_privately(medium.file) as address:
                answers = _ask(client, info, address)
            rows += [(medium, answer) for answer in answers]
            mistakes += judge_answers(medium.name, answers)
    if output.as_json:
        head: dict[str, Json] = {
            "schema": SCHEMA,
            "pid": os.getpid(),
            "uid": info.caller.uid,
            "media": [
                {"medium": each.name, "filesystem": each.filesystem, "place": each.place}
                for each in media
            ],
            "right": not mistakes,
            "mistakes": mistakes,
        }
        output.write_json(head, "pages", rows, columns)
    else:
        _write_report(output, columns, media, rows, info)
    for mistake in mistakes:
        print_message(f"wrong: {mistake}")
    return 1 if mistakes else 0


def _ask(client: cowd.Client, info: cowd.ServerInfo, address: int) -> list[Answer]:
    """Ask about this process's own four pages, the way `query` does."""
    pid = os.getpid()
    listed = client.list_mappings(pid)
    end = address + PAGE_COUNT * info.page_size_bytes
    runs = iter_runs(
        client,
        pid,
        iter_segments(listed.mappings, address, end),
        page_size_bytes=info.page_size_bytes,
        maximum_page_count=info.maximum_page_count,
        start_time_ticks=listed.start_time_ticks,
        each=True,
        advance=lambda _count: None,
    )
    return [Answer(page, run, info.masks.shared_flags_mask) for page, run in enumerate(runs)]


def _write_report(
    output: Output,
    columns: Sequence[Column[tuple[Medium, Answer]]],
    media: Sequence[Medium],
    rows: Sequence[tuple[Medium, Answer]],
    info: cowd.ServerInfo,
) -> None:
    output.write_line(
        f"Process {os.getpid()}, uid {info.caller.uid}, maps four pages of a file with MAP_PRIVATE,"
    )
    output.write_line("writes to 0 and 2, reads 3, leaves 1 alone, and asks cowd as the same user:")
    for medium in media:
        own_rows = [row for row in rows if row[0] is medium]
        output.write_line()
        output.write_line(f"{medium.name}: a file on {medium.filesystem} ({medium.place})")
        output.write_strip([answer.run for _, answer in own_rows])
        output.write_table(own_rows, columns)
        output.write_line(_compare_swapbacked([answer for _, answer in own_rows]))
    right = sum(answer.is_right for _, answer in rows)
    output.write_line()
    output.write_line(f"{right} of {len(rows)} answers are right.")


def _compare_swapbacked(answers: Sequence[Answer]) -> str:
    """Say what the test of programs without cowd, the flag SWAPBACKED, makes of the same pages."""
    if all(answer.swapbacked is None for answer in answers):
        return "SWAPBACKED is hidden from you: no comparison with it."
    wrong = [answer for answer in answers if bool(answer.swapbacked) != answer.expected]
    if not wrong:
        return "The flag SWAPBACKED, often taken for it, says the same here."
    claims = ", ".join(
        f"page {answer.page} {'copied' if answer.swapbacked else 'not copied'}" for answer in wrong
    )
    return f"The flag SWAPBACKED would have said otherwise: {claims}."
