# SPDX-License-Identifier: Apache-2.0
"""`cowctl watch`: what happens to the pages of a process, as it happens."""

import os
import select
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from datetime import datetime
from mmap import PAGESIZE
from typing import Final, NamedTuple, Self

import click

import cowd
from cowd import PageState
from cowd._runs import join_segments
from cowd.cli.clock import interval_option, iter_ticks, read_seconds, read_time, wait_until
from cowd.cli.looks import Change, Look, count_copied, iter_changes, iter_stretches
from cowd.cli.options import backend_option, make_command, socket_option
from cowd.cli.output import Column, Json, Output, format_word
from cowd.cli.processes import find_process
from cowd.cli.progress import track_pages
from cowd.cli.sources import open_source
from cowd.cli.symbols import symbol_of_state
from cowd.cli.targets import (
    align,
    choose_segments,
    mapping_option,
    name_option,
    parse_words,
    words_argument,
)
from cowd.cli.text import decode_path, format_size, print_message, wrap_text

__all__ = ["command"]

SCHEMA: Final = "cowd.watch/1"

_ATTEMPTS: Final = 3
"""At a process that executes another program while it is looked at."""


class _Row(NamedTuple):
    """A change, and when it was seen."""

    time: datetime
    change: Change


def _name_state(state: PageState | None) -> str | None:
    return None if state is None else state.name.lower()


def _style(change: Change) -> str:
    return symbol_of_state(change.after, copied=change.copied).style if change.after else ""


_COLUMNS: Final[Sequence[Column[_Row]]] = (
    Column("address", "ADDRESS", "first page", lambda row: format_word(row.change.address)),
    Column("page_count", "PAGES", "number of pages", lambda row: row.change.page_count, right=True),
    Column(
        "size_bytes",
        "SIZE",
        "size of all of them",
        lambda row: row.change.size_bytes,
        right=True,
        is_size=True,
        in_table=False,
        in_json=False,
    ),
    Column(
        "from",
        "FROM",
        "state at the look before; - if it was not mapped",
        lambda row: _name_state(row.change.before),
    ),
    Column(
        "to",
        "TO",
        "state now; - if it is not mapped any more",
        lambda row: _name_state(row.change.after),
        style=lambda row: _style(row.change),
    ),
    Column(
        "copied",
        "COPIED",
        "has become a private copy of a page of a file",
        lambda row: row.change.copied,
        style=lambda row: "bold red" if row.change.copied else "",
    ),
    Column(
        "time",
        "TIME",
        "when it was seen",
        lambda row: f"{row.time:%H:%M:%S}",
        in_table=False,
        in_json=False,
    ),
    Column(
        "mapping",
        "MAPPING",
        "file, or name such as [heap]",
        lambda row: decode_path(row.change.mapping.path),
        gives_way=True,
    ),
)


class _Subject(NamedTuple):
    """What is looked at: a process that started then, and pages of it."""

    pid: int
    start_time_ticks: int
    wanted: tuple[int, int] | None
    text: str | None


class _Seen(NamedTuple):
    """One look, and when it was made."""

    look: Look
    at_seconds: float
    time: datetime


@make_command(
    "watch",
    _COLUMNS,
    {
        "cowctl watch 4711": "What happens to private memory of process 4711, every two seconds.",
        "cowctl watch 4711 --mapping words.dat --interval 0.5": "To what is mapped of words.dat.",
        "cowctl watch -C redis-server --count 10": "Of the process redis-server, if there is just "
        "one, for ten looks.",
        "cowctl watch -J 4711 | jq -c 'select(.copied_page_count > 0)'": "For programs: the looks "
        "that found new copies.",
    },
)
@words_argument("{PID | -C NAME} [RANGE]")
@name_option
@mapping_option
@interval_option
@click.option(
    "--count",
    metavar="NUMBER",
    type=click.IntRange(1),
    help="End after so many looks, not counting the first; no end by default.",
)
@backend_option
@socket_option
def command(
    words: Sequence[str],
    name: str | None,
    text: str | None,
    interval_seconds: float,
    count: int | None,
    backend: cowd.BackendName,
    socket: str | None,
    output: Output[_Row],
) -> int:
    """Watch which pages of a process are copied, and change otherwise.

    The process, RANGE and --mapping are as in `cowctl query`. The pages are looked at again and
    again; after each look that found something new, a line says how much, and rows say what. It
    ends with the process, with --count, or with Ctrl-C.
    """
    pid, pages = parse_words(words, name)
    wanted = align(pages) if pages else None
    looks = None if count is None else count + 1
    with open_source(backend, lambda source: _find(source, pid, name), socket) as answered:
        source, found = answered
        subject = _Subject(*found, wanted, text)
        seen = _iter_seen(source, subject, iter_ticks(interval_seconds, looks))
        _write(seen, subject, source.name, output)
    return 0


def _find(source: cowd.Backend, pid: int, name: str | None) -> tuple[int, int]:
    """Return pid and start time of a process that may be looked at."""
    with nullcontext() if name is None else find_process(name) as named:
        pid = named.pid if named else pid
        return pid, source.list_mappings(pid).start_time_ticks


def _see(source: cowd.Backend, subject: _Subject, *, is_first: bool) -> _Seen:
    """Look at the process.

    Raises:
        Error: a subclass of it, see `cowd.Error`.
        click.ClickException: nothing is mapped that is to be looked at, in the first look.
    """
    pid, expected = subject.pid, subject.start_time_ticks
    now, clock = read_seconds(), read_time()
    listed = source.list_mappings(pid, expected_start_time_ticks=expected)
    try:
        segments = choose_segments(listed, subject.wanted, subject.text)
    except click.ClickException:
        if is_first:
            raise
        segments = []
    ranges = [(start, (end - start) // PAGESIZE) for start, end in join_segments(segments)]
    chunks = source.stream_page_flags(pid, ranges, expected_start_time_ticks=expected)
    if is_first:
        total = sum(count for _, count in ranges)
        chunks = track_pages(chunks, f"Reading process {pid}", total)
    mappings = [piece.mapping for piece in segments if piece.mapping]
    return _Seen(Look(mappings, [*iter_stretches(chunks)] if ranges else []), now, clock)


def _iter_seen(
    source: cowd.Backend, subject: _Subject, ticks: Iterator[float | None]
) -> Iterator[_Seen]:
    """Yield one look after the other until the process ends."""
    with _Ending(subject.pid) as ending:
        seen = _see(source, subject, is_first=True)
        for due in ticks:
            yield seen
            if due is None:
                return
            ending.wait_until(due)
            for attempt in range(_ATTEMPTS):
                try:
                    seen = _see(source, subject, is_first=False)
                    break
                except (cowd.NoSuchProcess, cowd.FailedPrecondition):
                    print_message(f"note: process {subject.pid} has ended")
                    return
                except cowd.Aborted:  # It ends, or goes on as another program.
                    if attempt == _ATTEMPTS - 1:
                        raise


class _Ending:
    """Waits for the end of a process, where the kernel tells of it."""

    def __init__(self, pid: int) -> None:
        try:
            self._pidfd: int | None = os.pidfd_open(pid)
        except OSError:
            self._pidfd = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None

    def wait_until(self, due: float) -> None:
        """Wait until a time of time.monotonic, or until the process ends."""
        if self._pidfd is None:
            wait_until(due)
            return
        ended, _, _ = select.select([self._pidfd], [], [], max(0.0, due - time.monotonic()))
        if ended:  # The next look tells how.
            self.__exit__()


def _write(looks: Iterator[_Seen], subject: _Subject, backend: str, output: Output[_Row]) -> None:
    """Write what changed from one look to the next, as soon as it is known."""
    before: _Seen | None = None
    for seen in looks:
        copied = count_copied(seen.look, PAGESIZE)
        if before is None and output.is_for_person:
            print_message(
                f"note: watching process {subject.pid}, of which {copied} pages have been copied; "
                "Ctrl-C ends it"
            )
        changes = _find_changes(before, seen)
        if changes or (output.as_json and before is None):
            head = _make_head(before, seen, changes, copied)
            if not output.as_json and not output.is_bare:
                _write_totals(seen, head, output)
            process: dict[str, Json] = {
                "schema": SCHEMA,
                "pid": subject.pid,
                "start_time_ticks": subject.start_time_ticks,
                "page_size_bytes": PAGESIZE,
                "backend": backend,
            }
            rows = [_Row(seen.time, each) for each in changes]
            output.write_rows(process | head, "changes", rows, one_line=True)
            if not output.as_json and not output.is_bare:
                output.write("")
            sys.stdout.flush()
        before = seen


def _find_changes(before: _Seen | None, seen: _Seen) -> list[Change]:
    if before is None or before.look == seen.look:
        return []
    return [*iter_changes(before.look, seen.look, PAGESIZE)]


def _make_head(
    before: _Seen | None, seen: _Seen, changes: Sequence[Change], in_all: int
) -> dict[str, Json]:
    """Return what there is to say about a look as a whole."""
    elapsed = seen.at_seconds - before.at_seconds if before else 0.0
    copied = sum(each.page_count for each in changes if each.copied)
    return {
        "time": seen.time.isoformat(timespec="milliseconds"),
        "elapsed_seconds": round(elapsed, 3),
        "changed_page_count": sum(each.page_count for each in changes),
        "copied_page_count": copied,
        "copied_pages_per_second": round(copied / elapsed, 1) if elapsed else 0.0,
        "copied_in_all_page_count": in_all,
    }


def _write_totals(seen: _Seen, head: Mapping[str, Json], output: Output[_Row]) -> None:
    changed, rate = head["changed_page_count"], head["copied_pages_per_second"]
    assert isinstance(rate, float)  # noqa: S101
    text = (
        f"{seen.time:%H:%M:%S}: {changed} {'page' if changed == 1 else 'pages'} changed, "
        f"{head['copied_page_count']} copied ({rate:g} pages/s, "
        f"{format_size(round(rate * PAGESIZE))}/s); "
        f"{head['copied_in_all_page_count']} copied in all"
    )
    output.write(*(wrap_text(text, output.width) if output.is_for_person else [text]))
