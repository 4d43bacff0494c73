# SPDX-License-Identifier: Apache-2.0
"""The process that opens /proc/PID/pagemap on behalf of one credential. The kernel decides.

Root with the caller's file-system ids, set once and for good; no effective capability but SYS_ADMIN
while one descriptor is opened (and, for a uid 0 caller, those of its own that matter). Two kinds of
open: an A-open has the caller's authority and is the kernel's own ptrace_may_access() for it; a
P-open adds SYS_ADMIN, so that the descriptor shows frame numbers. SYS_ADMIN also implies
perfmon_capable(), which widens access on newer kernels, and a target may execute a setuid program
at any moment: so A, P, A, and the P descriptor is handed over only if both A-opens were granted.

An open can be made to hang for ever by the target (exec_update_lock, fs/exec.c). The alarm then
ends this process, and the broker starts another. It also ends when its worker does, or the broker.
"""

import errno
import os
import signal
import socket
from typing import Final, NamedTuple

from cowdaemon import wire
from cowdaemon.broker.peers import Credential
from cowdaemon.broker.privileges import (
    Capability,
    assume_file_system_ids,
    raised,
    read_permitted_capabilities,
    restrict_capabilities,
)
from cowdaemon.confinement import SystemCallFilter, bind_to_parent, close_to_others
from cowdaemon.errors import CowdError, Reason
from cowdaemon.limits import OPENER_SECONDS
from cowdaemon.system_calls import OPENER

__all__ = ["run_opener"]

_REFUSED: Final = (errno.EACCES, errno.EPERM)
_ABSENT: Final = (errno.ENOENT, errno.ESRCH)
# include/linux/sched.h; shown in field 9 of /proc/PID/stat.
_PF_EXITING: Final = 0x00000004
_PF_KTHREAD: Final = 0x00200000

_FILTER: Final = SystemCallFilter(OPENER)  # once, in the broker


def run_opener(credential: Credential, worker: socket.socket, broker_pid: int) -> None:
    """Become the opener of `credential` and serve its worker until that closes its end."""
    permitted = read_permitted_capabilities()
    assume_file_system_ids(credential.uid, credential.gid, credential.groups)
    authority = credential.capabilities & permitted
    restrict_capabilities(authority | Capability.SYS_ADMIN, authority)
    close_to_others()
    bind_to_parent(broker_pid)
    _FILTER.load()
    while True:
        message, _ = wire.receive(worker)
        if not message:
            return
        reply, descriptors = _answer(wire.OpenRequest.unpack(message).pid, broker_pid)
        wire.send(worker, reply.pack(), descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def _answer(pid: int, broker_pid: int) -> tuple[wire.OpenReply, list[int]]:
    signal.setitimer(signal.ITIMER_REAL, OPENER_SECONDS)  # SIGALRM has its default action: die
    descriptors: list[int] = []
    try:
        start_time_ticks = _open_target(pid, broker_pid, descriptors)
        return wire.OpenReply(pid, 0, start_time_ticks), descriptors
    except CowdError as refusal:
        outcome = refusal.reason
    except OSError as error:
        if error.errno in _REFUSED:
            outcome = Reason.ACCESS_DENIED
        elif error.errno in _ABSENT:
            outcome = Reason.NO_SUCH_PROCESS
        else:
            outcome = Reason.INTERNAL_ERROR
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    for descriptor in descriptors:
        os.close(descriptor)
    return wire.OpenReply(pid, outcome.number, 0), []


def _open_target(pid: int, broker_pid: int, descriptors: list[int]) -> int:
    """Append pagemap (showing frames) and maps of `pid`; return its start time in ticks.

    Raises:
        CowdError: a rule of cowd's own refuses.
        OSError: the kernel refuses, or has no such process.
    """
    directory = os.open(f"/proc/{pid}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _verify_process(pid)
        stat = _read_stat(directory)
        if _is_own(pid, stat.parent_pid, broker_pid):
            raise CowdError(Reason.OWN_PROCESS, pid=pid)
        if stat.has_no_memory:
            raise CowdError(Reason.NO_ADDRESS_SPACE, pid=pid)
        try:
            os.close(_open_in(directory, "pagemap"))
            with raised(Capability.SYS_ADMIN):
                descriptors.append(_open_in(directory, "pagemap"))
            os.close(_open_in(directory, "pagemap"))
            descriptors.append(_open_in(directory, "maps"))
        except (PermissionError, ProcessLookupError):
            if _read_stat(directory).has_no_memory:  # it has begun to exit meanwhile
                raise CowdError(Reason.NO_ADDRESS_SPACE, pid=pid) from None
            raise
        return stat.start_time_ticks
    finally:
        os.close(directory)


def _open_in(directory: int, name: str) -> int:
    return os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)


def _verify_process(pid: int) -> None:
    """Raise ENOENT for a thread that does not lead its process: /proc shows it, hidden."""
    try:
        os.close(os.pidfd_open(pid))
    except OSError as error:
        if error.errno != errno.EINVAL:  # which older kernels say of a thread, newer ones ENOENT
            raise
        raise FileNotFoundError(errno.ENOENT, "a thread, not a process") from error


class _Stat(NamedTuple):
    """What /proc/PID/stat says to everybody who sees the process at all (proc(5))."""

    parent_pid: int
    start_time_ticks: int
    has_no_memory: bool


def _read_stat(directory: int) -> _Stat:
    stat = _open_in(directory, "stat")
    try:
        text = os.read(stat, 4096)
    finally:
        os.close(stat)
    fields = text[text.rindex(b")") + 2 :].split()  # the name before may hold anything
    state, parent_pid, flags, start_time_ticks = (fields[index] for index in (0, 1, 6, 19))
    # For these the kernel says EACCES, ESRCH or nothing at all, by release and caller.
    has_no_memory = state in (b"Z", b"X") or bool(int(flags) & (_PF_EXITING | _PF_KTHREAD))
    return _Stat(int(parent_pid), int(start_time_ticks), has_no_memory)


def _is_own(pid: int, parent_pid: int, broker_pid: int) -> bool:
    """Tell whether a process is cowd's: the broker, its children, and the zygote's children."""
    if broker_pid in (pid, parent_pid):
        return True
    try:
        parent = os.open(f"/proc/{parent_pid}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False  # it has no parent that we may see: ours has
    try:
        return _read_stat(parent).parent_pid == broker_pid
    except OSError:
        return False
    finally:
        os.close(parent)
