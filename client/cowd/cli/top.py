# SPDX-License-Identifier: Apache-2.0
"""`cowctl top`: which processes have how many copied pages, looked at again and again."""

import os
import sys
from collections.abc import Collection, Iterator, Sequence
from mmap import PAGESIZE
from typing import Final, NamedTuple

import click

import cowd
from cowd import MappingKind, PageCounts, PageState
from cowd.cli import candidates
from cowd.cli.clock import (
    count_option,
    interval_option,
    iter_ticks,
    read_seconds,
    read_time,
    wait_until,
)
from cowd.cli.options import backend_option, make_command, socket_option
from cowd.cli.output import Column, Json, Output
from cowd.cli.processes import find_uid, iter_pids, read_names
from cowd.cli.progress import track_items
from cowd.cli.screen import Screen, Terminated, end_by_signal
from cowd.cli.sources import open_source
from cowd.cli.text import cut_text, format_size, print_message
from cowd.cli.usages import ORDERS, Usage, add_usages, list_usages, sort_usages

__all__ = ["command"]

SCHEMA: Final = "cowd.top/1"

_LARGEST_PID: Final = 2**31 - 1


def _of_state(state: PageState, help_text: str) -> Column[Usage]:
    """Return the column of the pages in a state."""
    name = state.name.lower()
    return Column(
        f"{name}_page_count",
        state.name.replace("_", "-"),
        help_text,
        lambda usage: usage.counts[state],
        right=True,
        counts_pages=True,
        in_table=False,
    )


def _of_kind(kind: MappingKind, help_text: str) -> Column[Usage]:
    """Return the column of the resident pages in mappings of a kind."""
    name = kind.name.lower()
    return Column(
        f"{name}_resident_page_count",
        f"{kind.name.replace('_', '-')}-RESIDENT",
        help_text,
        lambda usage: usage.by_kind.get(kind, PageCounts()).resident,
        right=True,
        counts_pages=True,
        in_table=False,
    )


_COLUMNS: Final[Sequence[Column[Usage]]] = (
    Column("pid", "PID", "the process", right=True),
    Column("user", "USER", "whose it is"),
    Column("command", "COMMAND", "name of its command", gives_way=True),
    Column(
        "copied_page_count",
        "COPIED",
        "private copies of pages of files, swapped out or not",
        right=True,
        counts_pages=True,
        style=lambda usage: "bold red" if usage.copied_page_count else "",
    ),
    Column(
        "copied_since_page_count",
        "CHANGE",
        "of COPIED since the look before; - at the first one",
        right=True,
        counts_pages=True,
        style=lambda usage: "bold red" if usage.copied_since_page_count else "",
    ),
    Column(
        "copied_pages_per_second",
        "RATE",
        "the same in pages a second",
        right=True,
        in_table=False,
    ),
    Column(
        "anon_page_count",
        "ANON",
        "in memory and anonymous: copies, and what never had a file",
        lambda usage: usage.counts.anon,
        right=True,
        counts_pages=True,
        style=lambda usage: "yellow" if usage.counts.anon else "",
    ),
    Column(
        "resident_page_count",
        "RESIDENT",
        "in memory",
        lambda usage: usage.counts.resident,
        right=True,
        counts_pages=True,
    ),
    Column(
        "anon_swapped_page_count",
        "SWAPPED",
        "anonymous and swapped out",
        lambda usage: usage.counts.anon_swapped,
        right=True,
        counts_pages=True,
        style=lambda usage: "magenta" if usage.counts.anon_swapped else "",
    ),
    Column(
        "size_page_count",
        "SIZE",
        "all mappings",
        lambda usage: usage.counts.total,
        right=True,
        counts_pages=True,
        in_table=False,
    ),
    _of_state(PageState.FILE, "in memory: the file's own, or shared"),
    _of_state(PageState.ZERO, "the page of zeros"),
    _of_state(PageState.GUARD, "guard regions"),
    _of_state(PageState.ABSENT, "nothing there now"),
    _of_state(PageState.UNKNOWN, "cannot be told"),
    _of_kind(MappingKind.PRIVATE_FILE, "in memory, of private mappings of files"),
    _of_kind(MappingKind.SHARED_FILE, "in memory, of shared mappings"),
    _of_kind(MappingKind.ANONYMOUS, "in memory, of memory without a file"),
    _of_kind(MappingKind.SPECIAL, "in memory, of the kernel's own"),
    Column(
        "start_time_ticks",
        "START",
        "when it started, in clock ticks since boot",
        right=True,
        in_table=False,
    ),
)


class _Filter(NamedTuple):
    """Which processes; those that fit all that is not empty."""

    pids: Sequence[int]
    names: Sequence[str]
    uids: Sequence[int]

    def choose_pids(self) -> Collection[int] | None:
        """Return the processes of now; None for all that the caller may inspect."""
        if not self.names and not self.uids:
            return self.pids or None
        fitting = iter_pids(self.names, self.uids)
        return [pid for pid in fitting if not self.pids or pid in self.pids]


class _Look(NamedTuple):
    """What one look found. `unread` are those that were asked for and cannot be told of."""

    at_seconds: float
    usages: Sequence[Usage]
    unread: Sequence[cowd.Error]
    elapsed_seconds: float


@make_command(
    "top",
    _COLUMNS,
    {
        "cowctl top": "Every process that you may inspect, again every two seconds.",
        "cowctl top -C postgres --sort anon --interval 10": "The processes called postgres.",
        "cowctl top --count 1 --lines 5": "The five with most copied pages, once.",
        "cowctl top --count 2 --interval 60 -n -o PID,CHANGE,COMMAND": "What was copied in a "
        "minute: it is in the second table.",
        "cowctl top -J --count 1 | jq '.processes[0]'": "For programs: the first one.",
    },
)
@click.option(
    "-p",
    "--pid",
    "pids",
    metavar="PID",
    type=click.IntRange(1, _LARGEST_PID),
    multiple=True,
    shell_complete=candidates.offer(candidates.iter_pids),
    help="Only this process; may be given again.",
)
@click.option(
    "-C",
    "--command",
    "names",
    metavar="NAME",
    multiple=True,
    shell_complete=candidates.offer(candidates.iter_names),
    help="Only processes of this name, as `ps -C` has it; may be given again.",
)
@click.option(
    "-u",
    "--user",
    "users",
    metavar="USER",
    multiple=True,
    shell_complete=candidates.offer(candidates.iter_users),
    help="Only processes of this user, by name or number; may be given again.",
)
@click.option(
    "--sort",
    "order",
    type=click.Choice(list(ORDERS)),
    default="copied",
    help="What the first process has most of; copied by default.",
)
@click.option(
    "--lines",
    "most",
    metavar="NUMBER",
    type=click.IntRange(1),
    help="At most so many processes; on a terminal by default what it has room for.",
)
@interval_option
@count_option("one, or on a terminal no end,")
@backend_option
@socket_option
def command(
    pids: Sequence[int],
    names: Sequence[str],
    users: Sequence[str],
    order: str,
    most: int | None,
    interval_seconds: float,
    count: int | None,
    backend: cowd.BackendName,
    socket: str | None,
    output: Output[Usage],
) -> int:
    """Show processes by how much of them has been copied.

    On a terminal it is shown again and again, in the place of what was shown before, until you
    press q or Ctrl-C. Into a pipe or file it is written once, or as often as --count says. Without
    --pid, --command or --user it is every process that you may inspect.
    """
    wanted = _Filter(pids, names, [find_uid(user) for user in users])
    is_screen = output.is_for_person and sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    is_screen = is_screen and count != 1
    ticks = iter_ticks(interval_seconds, count if is_screen or count else 1)
    try:
        with open_source(backend, lambda source: _look(source, wanted, None), socket) as answered:
            source, first = answered
            _verify_first(first, wanted)
            view = _View(source.name, order, most, output)
            looks = _iter_looks(source, wanted, first)
            if is_screen:
                _show(view, looks, ticks)
            else:
                _list(view, looks, ticks)
    except Terminated as ending:
        end_by_signal(ending.number)
    return 0


def _look(source: cowd.Backend, wanted: _Filter, before: _Look | None) -> _Look:
    """Ask once."""
    now = read_seconds()
    chosen = wanted.choose_pids()
    answers = iter(()) if chosen is not None and not chosen else source.summarize_processes(chosen)
    if before is None:  # There is nothing else to look at yet.
        answers = track_items(answers, "Reading processes", None if chosen is None else len(chosen))
    summaries = list(answers)
    elapsed = now - before.at_seconds if before else 0.0
    usages = list_usages(summaries, read_names, before.usages if before else None, elapsed)
    unread = [each.failure for each in summaries if each.failure]
    return _Look(now, usages, unread, elapsed)


def _iter_looks(source: cowd.Backend, wanted: _Filter, look: _Look) -> Iterator[_Look]:
    """Yield the first look, and then one whenever it is wanted."""
    while True:
        yield look
        look = _look(source, wanted, look)


def _verify_first(look: _Look, wanted: _Filter) -> None:
    """Raise an error if there is no process at all; say which ones are missing."""
    if not look.usages and look.unread:
        raise look.unread[0]
    if not look.usages and (wanted.names or wanted.uids):
        raise click.ClickException(
            "no process fits --pid, --command and --user: `ps -e` lists those that you can see"
        )
    for error in look.unread if wanted.pids else ():
        print_message(f"note: {error}")


class _View(NamedTuple):
    """How a look is written."""

    backend: str
    order: str
    most: int | None
    output: Output[Usage]

    def write(self, look: _Look) -> None:
        """Write a look: a table, or a line of JSON."""
        usages = sort_usages(look.usages, self.order)[: self.most]
        head: dict[str, Json] = {
            "schema": SCHEMA,
            "time": read_time().isoformat(timespec="milliseconds"),
            "elapsed_seconds": round(look.elapsed_seconds, 3),
            "page_size_bytes": PAGESIZE,
            "backend": self.backend,
            "process_count": len(look.usages),
            "unread_count": len(look.unread),
        }
        self.output.write_rows(head, "processes", usages, one_line=True)

    def write_heading(self, look: _Look) -> int:
        """Write what all processes have together, and an empty line; return how many lines."""
        noun = "process" if len(look.usages) == 1 else "processes"
        words = [f"{read_time():%H:%M:%S}", f"{len(look.usages)} {noun}"]
        if look.unread:
            words.append(f"{len(look.unread)} could not be read")
        if look.usages:
            total = add_usages(look.usages)
            words.append(f"resident {format_size(total.counts.resident * PAGESIZE)}")
            words.append(f"copied {format_size(total.copied_page_count * PAGESIZE)}")
            if total.copied_pages_per_second is not None:
                words.append(f"{total.copied_pages_per_second:g} copied pages/s")
        self.output.write(cut_text("  ".join(words), self.output.width, keep="start"), "")
        return 2


def _show(view: _View, looks: Iterator[_Look], ticks: Iterator[float | None]) -> None:
    """Show one look after the other in the same place; write the last one to stay."""
    look = next(looks)
    try:
        with Screen() as screen:

            def draw() -> None:
                view.output.width = screen.width
                room = screen.height - view.write_heading(look) - 1
                most = min(view.most or room, max(1, room))
                view._replace(most=most).write(look)

            for due in ticks:
                screen.draw(draw)
                if due is None:
                    break
                if not screen.wait(due, lambda: screen.draw(draw)):
                    return
                look = next(looks)
    except KeyboardInterrupt:
        return  # As of top(1): it is how one leaves.
    view.write_heading(look)
    view.write(look)


def _list(view: _View, looks: Iterator[_Look], ticks: Iterator[float | None]) -> None:
    """Write one look after the other."""
    for number, (due, look) in enumerate(zip(ticks, looks, strict=False)):
        if number and not (view.output.as_json or view.output.is_bare):
            view.output.write("")
        if view.output.is_for_person and not view.output.is_bare:
            view.write_heading(look)
        view.write(look)
        sys.stdout.flush()
        if due is not None:
            wait_until(due)
