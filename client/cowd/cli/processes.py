# SPDX-License-Identifier: Apache-2.0
"""Processes by the name of their command, as `ps -C` has it, from /proc.

Runs with the caller's own rights: a /proc mounted with hidepid shows other users' processes to
nobody but root. A process that ends while it is looked at is left out.
"""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import click

from cowd.cli.text import MESSAGE_PREFIX, cut_text, escape_text, measure_text

__all__ = ["NamedProcess", "find_process", "verify_unchanged"]

_PROC: Final = Path("/proc")
_LONGEST_COMM_BYTES: Final = 15  # TASK_COMM_LEN - 1, include/linux/sched.h
_ENDED: Final = (b"Z", b"X")
_MOST_LISTED: Final = 20
"""Of several matches: a person looks for one, and a page is what they can look at."""


class NamedProcess(NamedTuple):
    """A process that a name was found to belong to.

    `start_time_ticks` is in clock ticks since boot, as the caller's time namespace shows it: it
    differs from what the daemon says if the two are in different ones.
    """

    pid: int
    start_time_ticks: int


def find_process(name: str) -> NamedProcess:
    """Return the one process whose command has this name; cowctl itself does not count.

    Raises:
        click.ClickException: there is none, or there are several.
    """
    found = list(_iter_processes(os.fsencode(name)))
    if not found:
        raise click.ClickException(
            f"no process has the command name {name!r}: `ps -e` lists the names that you can see"
        )
    if len(found) > 1:
        raise click.ClickException(_describe_several(name, found))
    return found[0]


def verify_unchanged(process: NamedProcess) -> None:
    """Raise click.ClickException if the pid does not belong to the process that was found."""
    found = _read_process(process.pid)
    if found != process:
        raise click.ClickException(
            f"process {process.pid}, found by its name, ended while it was read: ask again"
        )


def _iter_processes(name: bytes) -> Iterator[NamedProcess]:
    """Yield the processes of that name by their numbers.

    Raises:
        click.ClickException: processes cannot be listed.
    """
    try:
        pids = sorted(int(entry) for entry in os.listdir(_PROC) if entry.isdecimal())
    except OSError as error:
        raise click.ClickException(
            f"cannot list processes in {_PROC}: {error.strerror}: give a PID instead of -C"
        ) from error
    for pid in pids:
        process = _read_process(pid) if pid != os.getpid() and _has_name(pid, name) else None
        if process is not None:
            yield process


def _has_name(pid: int, name: bytes) -> bool:
    try:
        comm = (_PROC / str(pid) / "comm").read_bytes().removesuffix(b"\n")
        if comm == name:
            return True
        # Longer names are cut in comm; what the program was started as has all of them.
        if len(comm) < _LONGEST_COMM_BYTES or not name.startswith(comm):
            return False
        return os.path.basename(_read_arguments(pid)[0]) == name
    except OSError:
        return False


def _read_process(pid: int) -> NamedProcess | None:
    """Return the process, or None if it has ended, whether or not its parent has noticed."""
    try:
        stat = (_PROC / str(pid) / "stat").read_bytes()
    except OSError:
        return None
    state, *fields = stat[stat.rindex(b")") + 2 :].split()  # the name before may hold anything
    return None if state in _ENDED else NamedProcess(pid, int(fields[18]))


def _read_arguments(pid: int) -> list[bytes]:
    r"""Return argv: at least one, empty for a kernel thread."""
    return (_PROC / str(pid) / "cmdline").read_bytes().removesuffix(b"\0").split(b"\0")


def _describe_several(name: str, found: list[NamedProcess]) -> str:
    """Return a sentence, a table that fits a terminal, and the next step, in lines."""
    table = [("PID", "USER", "COMMAND")]
    table += [_describe(process.pid) for process in found[:_MOST_LISTED]]
    pid_width = max(len(pid) for pid, _, _ in table)
    user_width = max(measure_text(user) for _, user, _ in table)
    width = shutil.get_terminal_size().columns if sys.stderr.isatty() else 80
    width -= len(MESSAGE_PREFIX) + pid_width + user_width + 2
    lines = [f"{len(found)} processes have the command name {name!r}:"]
    for pid, user, command in table:
        padding = " " * (user_width - measure_text(user))
        cut = cut_text(command, max(1, width), keep="start")
        lines.append(f"{pid:>{pid_width}} {user}{padding} {cut}")
    if len(found) > _MOST_LISTED:
        lines.append(f"and {len(found) - _MOST_LISTED} more")
    return "\n".join([*lines, "give one of these as PID instead of -C"])


def _describe(pid: int) -> tuple[str, str, str]:
    """Return the cells of a process; "?" for what cannot be read any more."""
    try:
        status = (_PROC / str(pid) / "status").read_text("utf-8", "backslashreplace")
        [uid] = [line.split()[2] for line in status.splitlines() if line.startswith("Uid:")]
        arguments = b" ".join(_read_arguments(pid)).decode("utf-8", "backslashreplace")
    except (OSError, ValueError):
        return str(pid), "?", "?"
    return str(pid), escape_text(_name_user(int(uid))), escape_text(arguments) or "-"


def _name_user(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
