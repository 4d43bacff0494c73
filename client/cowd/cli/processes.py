# SPDX-License-Identifier: Apache-2.0
"""Processes by the name of their command, as `ps -C` has it, from /proc.

Runs with the caller's own rights: a /proc mounted with hidepid shows other users' processes to
nobody but root. A process that ends while it is looked at is left out.
"""

import os
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import lru_cache
from typing import Final, NamedTuple

import click

from cowd._proc import (
    iter_directories,
    open_directory,
    read_arguments,
    read_beginning,
    read_commands,
    read_status,
)
from cowd.cli.text import (
    MESSAGE_PREFIX,
    cut_text,
    decode_path,
    escape_text,
    measure_terminal,
    measure_text,
)

__all__ = [
    "NamedProcess",
    "find_process",
    "find_uid",
    "iter_inspectable",
    "iter_pids",
    "read_name",
    "read_names",
]

_MOST_LISTED: Final = 20
"""Of several matches: a person looks for one, and a page is what they can look at."""


class NamedProcess(NamedTuple):
    """A process that a name was found to belong to.

    `directory` is a descriptor of its directory in /proc, which is of no other process that may get
    the same pid.
    """

    pid: int
    directory: int


@contextmanager
def find_process(name: str, *, with_children: bool = False) -> Iterator[NamedProcess]:
    """Yield the one process whose command has this name; cowctl itself does not count.

    Args:
        name: of the command.
        with_children: those that a process of that name has forked count as one with it: most have
            the name still.

    Raises:
        click.ClickException: there is none, or there are several; at the end: it has ended.
    """
    found: list[NamedProcess] = []
    count = 0
    with ExitStack() as stack:
        parents = _list_pids(os.fsencode(name)) if with_children else frozenset()
        for process in _iter_processes(os.fsencode(name)):
            if _read_parent(process) in parents:
                os.close(process.directory)
                continue
            count += 1
            if len(found) < _MOST_LISTED:
                found.append(process)
                stack.callback(os.close, process.directory)
            else:
                os.close(process.directory)
        if not found:
            raise click.ClickException(
                f"no process has the command name {name!r}: `ps -e` lists the names that you can "
                "see"
            )
        if count > 1:
            raise click.ClickException(_describe_several(name, found, count))
        yield found[0]
        if not _is_alive(found[0].directory):
            raise click.ClickException(
                f"process {found[0].pid}, found by its name, ended while it was read: ask again"
            )


def iter_inspectable() -> Iterator[tuple[int, str]]:
    """Yield pid and name of the caller's processes, of root all, that have an address space.

    The kernel may refuse some of them none the less. Nothing is yielded where none can be listed.
    """
    uid = os.geteuid()
    with suppress(click.ClickException):
        for pid, directory in _iter_directories():
            try:
                status = read_status(directory)
                if b"VmSize" in status and uid in (0, _find_uid(status)):
                    yield pid, decode_path(read_beginning(directory, "comm").removesuffix(b"\n"))
            finally:
                os.close(directory)


def iter_pids(names: Collection[str], uids: Collection[int]) -> Iterator[int]:
    """Yield the processes that have an address space, a name and a user.

    Args:
        names: of commands, as in `find_process`; with none any name will do.
        uids: effective user ids; with none any user will do.

    Raises:
        click.ClickException: processes cannot be listed.
    """
    encoded = [os.fsencode(name) for name in names]
    for pid, directory in _iter_directories():
        try:
            if encoded and not any(_has_name(directory, name) for name in encoded):
                continue
            status = read_status(directory)
            if b"VmSize" in status and (not uids or _find_uid(status) in uids):
                yield pid
        finally:
            os.close(directory)


def find_uid(user: str) -> int:
    """Return the id of a user who is given by name or number.

    Raises:
        click.ClickException: there is none of that name.
    """
    import pwd

    try:
        return pwd.getpwnam(user).pw_uid
    except (KeyError, ValueError):
        if user.isascii() and user.isdecimal():
            return int(user)
    raise click.ClickException(f"there is no user {user!r}: `getent passwd` lists them")


def read_names(pid: int) -> tuple[str | None, str | None]:
    """Return the user and the command of a process; None for what cannot be read any more."""
    try:
        directory = open_directory(pid)
    except OSError:
        return None, None
    try:
        uid = _find_uid(read_status(directory))
        comm = read_beginning(directory, "comm")
    finally:
        os.close(directory)
    return (
        None if uid is None else _name_user(uid),
        decode_path(comm.removesuffix(b"\n")) or None,
    )


def read_name(pid: int) -> str | None:
    """Return the name of a process's command; None if there is no such process any more."""
    return read_names(pid)[1]


def _list_pids(name: bytes) -> frozenset[int]:
    """Return the pids of the processes of that name."""
    pids = set()
    for process in _iter_processes(name):
        pids.add(process.pid)
        os.close(process.directory)
    return frozenset(pids)


def _read_parent(process: NamedProcess) -> int:
    """Return the pid of a process's parent; 0 if it has none, or has gone."""
    return int(read_status(process.directory).get(b"PPid", 0))


def _iter_processes(name: bytes) -> Iterator[NamedProcess]:
    """Yield the processes of that name by their numbers.

    Raises:
        click.ClickException: processes cannot be listed.
    """
    for pid, directory in _iter_directories():
        if _has_name(directory, name) and _is_alive(directory):
            yield NamedProcess(pid, directory)
        else:
            os.close(directory)


def _iter_directories() -> Iterator[tuple[int, int]]:
    """Yield pid and descriptor of each process but cowctl, by their numbers.

    Raises:
        click.ClickException: processes cannot be listed.
    """
    try:
        yield from iter_directories()
    except OSError as error:
        raise click.ClickException(
            f"cannot list processes in /proc: {error.strerror}: give a PID instead of -C"
        ) from error


def _has_name(directory: int, name: bytes) -> bool:
    return name in read_commands(directory)


def _is_alive(directory: int) -> bool:
    """Whether the process has not ended, whether or not its parent has noticed."""
    state = read_status(directory).get(b"State", b"")
    return state.partition(b" ")[0] not in (b"", b"Z", b"X")


def _describe_several(name: str, found: list[NamedProcess], count: int) -> str:
    """Return a sentence, a table that fits a terminal, and the next step, in lines."""
    table = [("PID", "USER", "COMMAND")]
    table += [_describe(process) for process in found]
    pid_width = max(len(pid) for pid, _, _ in table)
    user_width = max(measure_text(user) for _, user, _ in table)
    width = measure_terminal() if sys.stderr.isatty() else 80
    width -= len(MESSAGE_PREFIX) + pid_width + user_width + 2
    lines = [f"{count} processes have the command name {name!r}:"]
    for pid, user, command in table:
        padding = " " * (user_width - measure_text(user))
        cut = cut_text(command, max(1, width), keep="start")
        lines.append(f"{pid:>{pid_width}} {user}{padding} {cut}")
    if count > len(found):
        lines.append(f"and {count - len(found)} more")
    return "\n".join([*lines, "give one of these as PID instead of -C"])


def _describe(process: NamedProcess) -> tuple[str, str, str]:
    """Return the cells of a process; "?" for what cannot be read any more."""
    uid = _find_uid(read_status(process.directory))
    if uid is None:
        return str(process.pid), "?", "?"
    arguments = b" ".join(read_arguments(process.directory)).decode("utf-8", "backslashreplace")
    user = escape_text(_name_user(uid))
    return str(process.pid), user, escape_text(arguments) or "-"


def _find_uid(status: Mapping[bytes, bytes]) -> int | None:
    """Return the effective user id; None if the process has gone."""
    uids = status.get(b"Uid", b"").split()
    return int(uids[1]) if uids else None


@lru_cache(maxsize=1024)
def _name_user(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
