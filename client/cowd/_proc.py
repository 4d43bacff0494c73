# SPDX-License-Identifier: Apache-2.0
"""What /proc tells everybody of a process, by a descriptor of its directory.

Runs with the caller's own rights. Nothing here waits for a process that hangs in exec, as to read
its stat would. Whatever of a process that has ended is empty.
"""

import os
from collections.abc import Iterator
from functools import partial
from typing import Final

__all__ = [
    "iter_directories",
    "open_directory",
    "read_arguments",
    "read_beginning",
    "read_commands",
    "read_status",
]

_PROC: Final = "/proc"
_LONGEST_COMM_BYTES: Final = 15  # TASK_COMM_LEN - 1, include/linux/sched.h
_BEGINNING_BYTES: Final = 4096
_STATUS_BYTES: Final = 1 << 20  # with 65,536 groups (NGROUPS_MAX) of eleven characters


def open_directory(pid: int) -> int:
    """Return an O_PATH descriptor of a process, the receiver's to close.

    It is of no other process that may get the same pid.

    Raises:
        OSError: there is no such process, or no descriptor.
    """
    return os.open(f"{_PROC}/{pid}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def iter_directories() -> Iterator[tuple[int, int]]:
    """Yield pid and descriptor, as of `open_directory`, of each process but this one, by pid.

    Raises:
        OSError: processes cannot be listed.
    """
    for pid in sorted(int(entry) for entry in os.listdir(_PROC) if entry.isdecimal()):
        if pid == os.getpid():
            continue
        try:
            directory = open_directory(pid)
        except OSError:
            continue
        yield pid, directory


def read_beginning(directory: int, name: str, most_bytes: int = _BEGINNING_BYTES) -> bytes:
    """Return what a person would look at of a file, which may have any length; b"" without one."""
    try:
        with open(name, "rb", buffering=0, opener=partial(os.open, dir_fd=directory)) as file:
            return file.read(most_bytes)
    except OSError:
        return b""


def read_status(directory: int) -> dict[bytes, bytes]:
    """Return the lines of status by their keys."""
    lines = read_beginning(directory, "status", _STATUS_BYTES).split(b"\n")
    return {key: value for key, _, value in (line.partition(b":\t") for line in lines)}


def read_arguments(directory: int) -> list[bytes]:
    r"""Return argv: at least one, empty for a kernel thread."""
    return read_beginning(directory, "cmdline").removesuffix(b"\0").split(b"\0")


def read_commands(directory: int) -> list[bytes]:
    """Return the names of the command, as `ps -C` has them: comm, and what it is the beginning of.

    Longer names are cut in comm; what was started has all of them: a program, or a script after its
    interpreter.
    """
    comm = read_beginning(directory, "comm").removesuffix(b"\n")
    if len(comm) < _LONGEST_COMM_BYTES:
        return [comm]
    names = map(os.path.basename, read_arguments(directory)[:2])
    return [comm, *(name for name in names if name != comm and name.startswith(comm))]
