# SPDX-License-Identifier: Apache-2.0
"""The processes of this machine, and which group each belongs to.

Runs as whoever exports: /proc tells everybody what is needed here, unless it is mounted with
hidepid. Pids stay in here and in `scraper`: no export has them.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from mmap import PAGESIZE
from typing import Final, NamedTuple

from cowd._proc import (
    iter_directories,
    open_directory,
    read_beginning,
    read_status,
)
from cowd.exporters.config import GroupRule

__all__ = ["Identity", "Process", "choose_group", "is_alive", "list_processes"]

_UNIT_SUFFIXES: Final = (".service", ".scope")
_SLICE_SUFFIX: Final = ".slice"


class Identity(NamedTuple):
    """Which process this is, even when its pid is another's.

    Not the start time: to read that hangs with a process that hangs in exec. A process's directory
    in /proc has an inode while the process lives, made when it is first looked at
    (proc_pid_make_inode() in fs/proc/base.c). If the kernel forgets that one, the process merely
    seems to be a new one.
    """

    pid: int
    inode: int
    made_at_nanoseconds: int


@dataclass(frozen=True, slots=True)
class Process:
    """A process that has memory of its own.

    Attributes:
        parent_pid: 0 if it has none.
        uid: its effective user id.
        command: its name, of which the kernel keeps 15 bytes (comm). Not what cmdline has of it:
            that is the process's memory, and to read it may hang with the process.
        unit: the service or scope of systemd, as `ps -o unit` has it; "" without one. What a user
            runs by their own systemd is all user@UID.service: inside of it names are the user's.
        cgroup: path of its control group; "" without one.
        page_count: about how many pages it has, swapped out or not.
    """

    identity: Identity
    parent_pid: int
    uid: int
    command: str
    unit: str
    cgroup: str
    page_count: int


def list_processes() -> list[Process]:
    """Return all processes but this one that have memory, and can be seen, by pid.

    Raises:
        OSError: processes cannot be listed.
    """
    return list(_iter_processes())


def is_alive(identity: Identity) -> bool:
    """Whether its pid is that process's still."""
    try:
        directory = open_directory(identity.pid)
    except OSError:
        return False
    try:
        return _identify(identity.pid, directory) == identity
    finally:
        os.close(directory)


def choose_group(process: Process, rules: Iterable[GroupRule]) -> str | None:
    """Return the name of the group of a process; None if no rule fits.

    A rule with braces in its name fits no process that has nothing to put there.
    """
    values = {"command": process.command, "unit": process.unit, "cgroup": process.cgroup}
    for rule in rules:
        if all(_fits(value, getattr(rule, key)) for key, value in values.items()) and all(
            values[key] for key in rule.placeholders
        ):
            return rule.name.format(**values)
    return None


def _fits(value: str, patterns: Sequence[str]) -> bool:
    return not patterns or any(fnmatchcase(value, pattern) for pattern in patterns)


def _iter_processes() -> Iterator[Process]:
    for pid, directory in iter_directories():
        try:
            identity = _identify(pid, directory)
            status = read_status(directory)
            comm = read_beginning(directory, "comm").removesuffix(b"\n")
            cgroup = _parse_cgroup(read_beginning(directory, "cgroup"))
        except OSError:
            continue  # it has ended
        finally:
            os.close(directory)
        if b"VmRSS" not in status:
            continue  # a kernel thread, or a process that is ending
        yield Process(
            identity,
            int(status.get(b"PPid", 0)),
            int(status[b"Uid"].split()[1]),
            comm.decode("utf-8", "backslashreplace"),
            _find_unit(cgroup),
            cgroup,
            _parse_size_bytes(status, b"VmRSS", b"VmSwap") // PAGESIZE,
        )


def _identify(pid: int, directory: int) -> Identity:
    found = os.fstat(directory)
    return Identity(pid, found.st_ino, found.st_ctime_ns)


def _parse_size_bytes(status: dict[bytes, bytes], *keys: bytes) -> int:
    """Return the sum of some sizes, of which each is a number and kB."""
    return sum(int(status[key].split()[0]) * 1024 for key in keys if key in status)


def _parse_cgroup(text: bytes) -> str:
    """Return the path in /proc/PID/cgroup: of cgroup v2, or of systemd's own hierarchy of v1.

    Whoever has a group of their own may call those below it anything that has no newline in it.
    """
    path = b""
    for line in text.split(b"\n"):
        number, _, rest = line.partition(b":")
        controllers, _, found = rest.partition(b":")
        if controllers == b"name=systemd" or (number == b"0" and not path):
            path = found
    return path.decode("utf-8", "backslashreplace")


def _find_unit(cgroup: str) -> str:
    """Return the unit whose control group a path leads to first, as sd_pid_get_unit() does."""
    for part in cgroup.split("/"):
        if part.endswith(_UNIT_SUFFIXES):
            # systemd puts this before a name that could be a file of the kernel's there.
            return part.removeprefix("_")
        if part and not part.endswith(_SLICE_SUFFIX):
            return ""
    return ""
