# SPDX-License-Identifier: Apache-2.0
"""`cowctl demo`: proves on this machine, as this user, that the daemon's answers are right."""

import os
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import click

import cowd
from cowd import KernelPageFlags
from cowd._runs import Run, iter_runs, iter_segments
from cowd.cli.columns import KPAGEFLAGS, LETTERS
from cowd.cli.experiment import ACTIONS, Medium, map_privately, open_media
from cowd.cli.options import make_command, socket_option
from cowd.cli.output import Column, Json, Output
from cowd.cli.strip import draw_strip, style_of
from cowd.cli.text import print_message

__all__ = ["Answer", "command"]

SCHEMA: Final = "cowd.demo/1"


class Answer(NamedTuple):
    """What was done to a page, and what the daemon says of it.

    `swapbacked` is the flag SWAPBACKED, the old test; None without a page, or if it is hidden.
    """

    medium: Medium
    page: int
    action: str
    run: Run
    swapbacked: bool | None

    @property
    def kpageflags(self) -> int | None:
        """The kernel's flags; None without a page."""
        return self.run.kpageflags

    @property
    def expected(self) -> bool:
        """Whether the page has been copied, by construction."""
        return self.action == "written"

    @property
    def right(self) -> bool:
        """Whether the daemon says so."""
        return self.run.copied is self.expected

    @property
    def mistake(self) -> str:
        """What is wrong, if it is."""
        said = {True: "copied", False: "not copied", None: "no answer"}
        return (
            f"{self.medium.name}: page {self.page} was {self.action}: expected "
            f"{said[self.expected]}, got {said[self.run.copied]} "
            f"(state {self.run.state.name.lower()})"
        )


_COLUMNS: Final[Sequence[Column[Answer]]] = (
    Column("medium", "MEDIUM", "disk or tmpfs", lambda row: row.medium.name, in_table=False),
    Column("page", "PAGE", "number of the page", right=True),
    Column("action", "ACTION", "what was done to it"),
    Column(
        "state",
        "STATE",
        "what the daemon says it is",
        lambda row: row.run.state.name.lower(),
        style=lambda row: style_of(row.run),
    ),
    Column("copied", "COPIED", "what the daemon says", lambda row: row.run.copied),
    Column("expected", "EXPECTED", "what is true"),
    Column(
        "right",
        "RIGHT",
        "the daemon is right",
        style=lambda row: "green" if row.right else "bold red",
    ),
    Column("swapbacked", "SWAPBACKED", "what the flag SWAPBACKED says; - without a page"),
    LETTERS,
    KPAGEFLAGS,
)


@make_command(
    "demo",
    _COLUMNS,
    {
        "cowctl demo": "Asks the daemon at the usual place.",
        "cowctl demo --socket /tmp/cowd.sock --json": "Asks another one, for programs.",
    },
)
@socket_option
def command(socket: str | None, output: Output[Answer]) -> int:
    """Try it: ask the daemon which of four pages have been copied.

    They are of a file that is mapped privately, on a disk and on tmpfs: pages 0 and 2 are written,
    page 3 is read, page 1 is left alone. Only what is written is copied. Exits with 1 if any answer
    is wrong.
    """
    try:
        with cowd.Client(socket) as client, open_media() as media:
            info = client.get_server_info()
            answers = [answer for each in media for answer in _iter_answers(client, info, each)]
    except OSError as error:
        raise click.ClickException(f"the experiment cannot be made: {error}") from error
    mistakes = [answer.mistake for answer in answers if not answer.right]
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
        output.write_rows(head, "pages", answers)
    else:
        output.write(
            f"Process {os.getpid()}, uid {info.caller.uid}, maps four pages of a file with "
            "MAP_PRIVATE,",
            "writes to 0 and 2, reads 3, leaves 1 alone, and asks cowd as the same user:",
        )
        for medium in media:
            _write_medium(output, medium, [row for row in answers if row.medium is medium])
        right = len(answers) - len(mistakes)
        output.write("", f"{right} of {len(answers)} answers are right.")
    for mistake in mistakes:
        print_message(f"wrong: {mistake}")
    return 1 if mistakes else 0


def _iter_answers(client: cowd.Client, info: cowd.ServerInfo, medium: Medium) -> Iterator[Answer]:
    """Make the experiment, and ask about this process's own pages the way `query` does."""
    pid = os.getpid()
    visible = info.masks.shared_flags_mask & KernelPageFlags.SWAPBACKED
    with map_privately(medium.file) as address:
        listed = client.list_mappings(pid)
        end = address + len(ACTIONS) * info.page_size_bytes
        segments = list(iter_segments(listed.mappings, address, end))
        chunks = client.stream_page_flags(
            pid,
            [(address, len(ACTIONS))],
            expected_start_time_ticks=listed.start_time_ticks,
        )
        runs = iter_runs(chunks, segments, each=True)
        for page, (action, run) in enumerate(zip(ACTIONS, runs, strict=True)):
            known = visible and run.kpageflags is not None
            swapbacked = bool(visible & (run.kpageflags or 0)) if known else None
            yield Answer(medium, page, action, run, swapbacked)


def _write_medium(output: Output[Answer], medium: Medium, answers: Sequence[Answer]) -> None:
    strip = draw_strip([answer.run for answer in answers], output.width, output.paint)
    output.write("", f"{medium.name}: a file on {medium.filesystem} ({medium.place})", *strip)
    output.write_table(answers)
    output.write(_compare_swapbacked(answers))


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
