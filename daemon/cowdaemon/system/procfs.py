# SPDX-License-Identifier: Apache-2.0
"""What /proc tells of a process, parsed (proc(5)).

Used in the broker, in its children, and in the zygote. `stat` and `ns` wait for a process that
hangs in exec (exec_update_lock, fs/exec.c); `status` and O_PATH do not.
"""

import errno
import os
import select
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

__all__ = [
    "Stat",
    "has_ended",
    "iter_processes",
    "open_directory",
    "open_in",
    "read_stat",
    "read_status",
    "verify_process",
]

# include/linux/sched.h; shown in field 9 of /proc/PID/stat.
_PF_EXITING: Final = 0x00000004
_PF_KTHREAD: Final = 0x00200000


class Stat(NamedTuple):
    """What /proc/PID/stat says to everybody who sees the process at all."""

    parent_pid: int
    start_time_ticks: int
    has_no_memory: bool


def iter_processes() -> Iterator[tuple[int, int]]:
    """Yield the pid and effective uid of each process that /proc shows us; it never waits.

    The directory of a process belongs to that uid, dumpable or not (pid_getattr, fs/proc/base.c).
    """
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError):  # it has ended
                yield int(name), os.stat(f"/proc/{name}").st_uid


def open_directory(pid: int) -> int:
    """Return an O_PATH descriptor of /proc/PID, which stays with the process."""
    return os.open(f"/proc/{pid}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def open_in(directory: int, name: str) -> int:
    """Open a file of /proc/PID for reading."""
    return os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)


def verify_process(pid: int) -> None:
    """Raise ENOENT for a thread that does not lead its process: /proc shows it, hidden."""
    try:
        os.close(os.pidfd_open(pid))
    except OSError as error:
        if error.errno != errno.EINVAL:  # which older kernels say of a thread, newer ones ENOENT
            raise
        raise FileNotFoundError(errno.ENOENT, "a thread, not a process") from error


def read_stat(directory: int) -> Stat:
    """Return what `stat` says of the process whose directory this is."""
    stat = open_in(directory, "stat")
    try:
        text = os.read(stat, 4096)
    finally:
        os.close(stat)
    fields = text[text.rindex(b")") + 2 :].split()  # the name before may hold anything
    state, parent_pid, flags, start_time_ticks = (fields[index] for index in (0, 1, 6, 19))
    # For these the kernel says EACCES, ESRCH or nothing at all, by release and caller.
    has_no_memory = state in (b"Z", b"X") or bool(int(flags) & (_PF_EXITING | _PF_KTHREAD))
    return Stat(int(parent_pid), int(start_time_ticks), has_no_memory)


def read_status(pid: int | str) -> dict[str, str]:
    """Return the lines of /proc/PID/status by their names; "self" is a pid as well."""
    # The name in it may hold anything but a newline, which the kernel escapes.
    text = Path(f"/proc/{pid}/status").read_bytes().decode(errors="replace")
    return dict(line.split(":\t", 1) for line in text.split("\n") if ":\t" in line)


def has_ended(pidfd: int) -> bool:
    """Tell whether the process has ended."""
    ended = select.poll()
    ended.register(pidfd, select.POLLIN)
    return bool(ended.poll(0))
