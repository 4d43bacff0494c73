# SPDX-License-Identifier: Apache-2.0
"""A process opened in /proc with the caller's own rights: the kernel decides who may.

The one place of the client where the kernel's OSError becomes a `cowd.Error`. Reasons are those
that the daemon gives for the same.
"""

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final

from cowd._arguments import as_integer
from cowd._errors import (
    Aborted,
    AccessDenied,
    Error,
    FailedPrecondition,
    InternalError,
    InvalidRequest,
    NoSuchProcess,
    TimedOut,
)
from cowd._mappings import Mapping
from cowd._maps import iter_mappings
from cowd._pagemap import ENTRY_BYTES

__all__ = ["Process", "open_process"]

_PAGE_SIZE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_READ_BYTES: Final = 1 << 20
_OPEN_SECONDS: Final = 2.0
"""Opening takes well under a millisecond; the daemon's opener has as long."""
_SMALL_BYTES: Final = 1 << 16
_LARGEST_PID: Final = (1 << 31) - 1
_PF_EXITING: Final = 0x00000004  # include/linux/sched.h
_PF_KTHREAD: Final = 0x00200000


@dataclass(frozen=True, slots=True)
class Process:
    """An open process, which stays the same one whatever becomes of its pid.

    Attributes:
        start_time_ticks: in clock ticks since boot (/proc/PID/stat, field 22).
        pagemap, maps: descriptors of these files. They stay with the address space that they were
            opened on: after an exit or exec they read nothing.
    """

    pid: int
    start_time_ticks: int
    pagemap: int
    maps: int

    def close(self) -> None:
        """Close the descriptors."""
        os.close(self.pagemap)
        os.close(self.maps)

    def read_entries(self, address: int, count: int) -> bytes:
        """Return the entries of `count` pages from `address`.

        Raises:
            Error: the process has gone, or its address space does not reach that far.
        """
        offset = address // _PAGE_SIZE_BYTES * ENTRY_BYTES
        entries = os.pread(self.pagemap, count * ENTRY_BYTES, offset)
        if len(entries) == count * ENTRY_BYTES:
            return entries
        self.verify_alive()
        raise InvalidRequest(
            f"the range leaves the address space of process {self.pid}: "
            f"keep to the mappings of /proc/{self.pid}/maps",
            reason="OUT_OF_ADDRESS_SPACE",
            pid=self.pid,
        )

    def list_mappings(self, start_address: int = 0, end_address: int = 1 << 64) -> list[Mapping]:
        """Return the mappings in address order, or those that have a part between two addresses.

        Raises:
            Aborted: the process has gone.
        """
        mappings = list(iter_mappings(_iter_maps(self.maps), start_address, end_address))
        self.verify_alive()
        return mappings

    def verify_alive(self) -> None:
        """Raise Aborted if the address space has gone: it has no mappings any more."""
        if not _read_maps(self.maps, 0):
            raise Aborted(
                f"process {self.pid} exited or executed another program while it was read: "
                "ask again",
                reason="PROCESS_GONE",
                pid=self.pid,
            )


@contextmanager
def open_process(pid: int, expected_start_time_ticks: int = 0) -> Iterator[Process]:
    """Open a process while the context lasts.

    Args:
        pid: of a process, not of a thread.
        expected_start_time_ticks: start time that it must have; 0 accepts any.

    Raises:
        Error: there is no such process, the kernel refuses, or it has no address space.
    """
    pid = as_integer(pid, "pid")
    expected_start_time_ticks = as_integer(expected_start_time_ticks, "start time")
    if not 0 < pid <= _LARGEST_PID:
        raise InvalidRequest(
            f"pid is {pid}: it must be from 1 to {_LARGEST_PID}", reason="INVALID_PID", pid=pid
        )
    with ExitStack() as stack:
        try:
            process = _open_self() if pid == os.getpid() else _open_in_time(pid)
        except OSError as error:
            raise _translate(error, pid) from error
        stack.callback(process.close)
        if expected_start_time_ticks not in (0, process.start_time_ticks):
            raise FailedPrecondition(
                f"process {pid} started at {process.start_time_ticks} ticks after boot, not at "
                f"{expected_start_time_ticks}: the pid now belongs to another process",
                reason="START_TIME_DIFFERS",
                pid=pid,
            )
        try:
            yield process
        except OSError as error:  # as of an ioctl on a process that has just gone
            process.verify_alive()
            raise _translate(error, pid) from error


def _open_self() -> Process:
    # By this name even where /proc is that of another pid namespace. It cannot hang.
    return _open("self", os.getpid())


def _open_in_time(pid: int) -> Process:
    """Open another process, in a thread: a process that hangs in exec makes whoever looks hang.

    The kernel waits for a lock there that only a deadly signal ends. Such a thread stays until the
    process moves on, or this one ends.
    """
    lock, found = threading.Lock(), []
    is_done = threading.Event()
    is_late = False

    def open_it() -> None:
        outcome: Process | BaseException
        try:
            outcome = _open(str(pid), pid)
        except BaseException as error:  # noqa: BLE001 (raised below)
            outcome = error
        with lock:
            if is_late and isinstance(outcome, Process):
                outcome.close()
            found.append(outcome)
        is_done.set()

    threading.Thread(target=open_it, name="cowd-open", daemon=True).start()
    try:
        is_done.wait(_OPEN_SECONDS)
    finally:  # Ctrl-C ends the wait as well
        with lock:
            is_late = not found
    if is_late:
        raise TimedOut(
            f"the kernel did not open process {pid} within {_OPEN_SECONDS:g} s: it hangs in exec "
            "or exit. Ask again when it has moved on",
            reason="OPEN_TIMED_OUT",
            pid=pid,
        )
    [outcome] = found
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


def _open(name: str, pid: int) -> Process:
    with ExitStack() as stack:
        directory = os.open(f"/proc/{name}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, directory)
        if name != "self" and not _leads_process(directory, pid):
            raise FileNotFoundError(errno.ENOENT, "a thread, which /proc has, hidden")
        start_time_ticks, _ = _read_stat(directory)
        descriptors = []
        try:
            for file in ("pagemap", "maps"):
                descriptors.append(os.open(file, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory))
        except (PermissionError, ProcessLookupError):
            # For what has no memory the kernel says this, or nothing at all, by release and caller.
            if not _read_stat(directory)[1]:
                raise _without_memory(pid) from None
            raise
        finally:
            if len(descriptors) < 2:
                for descriptor in descriptors:
                    os.close(descriptor)
        process = Process(pid, start_time_ticks, *descriptors)
        if not _read_maps(process.maps, 0):
            process.close()
            raise _without_memory(pid)
        return process


def _leads_process(directory: int, pid: int) -> bool:
    status = _read_small(directory, "status").split(b"\n")
    return b"Tgid:\t%d" % pid in status


def _read_stat(directory: int) -> tuple[int, bool]:
    """Return the start time in ticks, and whether there is an address space (proc(5))."""
    text = _read_small(directory, "stat")
    fields = text[text.rindex(b")") + 2 :].split()  # the name before may hold anything
    has_gone = fields[0] in (b"Z", b"X") or int(fields[6]) & (_PF_EXITING | _PF_KTHREAD)
    return int(fields[19]), not has_gone


def _read_small(directory: int, name: str) -> bytes:
    file = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
    try:
        return os.read(file, _SMALL_BYTES)
    finally:
        os.close(file)


def _without_memory(pid: int) -> Error:
    return FailedPrecondition(
        f"process {pid} has no address space: it is a kernel thread, or its main thread has exited",
        reason="NO_ADDRESS_SPACE",
        pid=pid,
    )


def _translate(error: OSError, pid: int) -> Error:
    if error.errno in (errno.EACCES, errno.EPERM):
        return AccessDenied(
            f"the kernel does not let you inspect process {pid}: it must have your uid and gid, no "
            "more capabilities than you, and be dumpable. If it is yours and changed its uid, set "
            "prctl(PR_SET_DUMPABLE, 1) there, or exec after the change",
            reason="ACCESS_DENIED",
            pid=pid,
        )
    if error.errno in (errno.ENOENT, errno.ESRCH):
        if error.filename == "pagemap":
            return FailedPrecondition(
                "this kernel has no /proc/PID/pagemap: it was built without "
                "CONFIG_PROC_PAGE_MONITOR",
                pid=pid,
            )
        if not os.path.exists("/proc/self"):
            return FailedPrecondition("there is no /proc here to ask: mount it", pid=pid)
        return NoSuchProcess(
            f"no process {pid}: it has ended, or is hidden from you",
            reason="NO_SUCH_PROCESS",
            pid=pid,
        )
    return InternalError(f"cannot read /proc/{pid}: {error.strerror}", pid=pid)


def _iter_maps(maps: int) -> Iterator[bytes]:
    offset = 0
    while chunk := _read_maps(maps, offset):
        offset += len(chunk)
        yield chunk


def _read_maps(maps: int, offset: int) -> bytes:
    try:
        return os.pread(maps, _READ_BYTES, offset)
    except ProcessLookupError:  # ended, and reaped as well (m_start, fs/proc/task_mmu.c)
        return b""
