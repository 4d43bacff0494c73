# SPDX-License-Identifier: Apache-2.0
"""The process that opens /proc/PID/pagemap on behalf of one credential. The kernel decides.

Root with the caller's file-system ids, set once and for good; no effective capability but SYS_ADMIN
while one descriptor is opened (and, for a uid 0 caller, those of its own that matter). Two kinds of
open: an A-open has the caller's authority and is the kernel's own ptrace_may_access() for it; a
P-open adds SYS_ADMIN, so that the descriptor shows frame numbers. SYS_ADMIN also implies
perfmon_capable(), which widens access on newer kernels, and a target may execute a setuid program
at any moment: so A, P, A, and the P descriptor is handed over only if both A-opens were granted.

What the kernel refuses to the caller, a grant of the configuration may still open: the same again,
with SYS_PTRACE and DAC_READ_SEARCH. This process has them only if there is such a grant.

An open can be made to hang for ever by the target (exec_update_lock, fs/exec.c). The alarm then
ends this process, and the broker starts another. It also ends when its worker does, or the broker.
"""

import array
import errno
import os
import signal
import socket
from typing import Final, NamedTuple, NoReturn

from cowdaemon import wire
from cowdaemon.broker.audit import Audit, Target
from cowdaemon.broker.peers import Credential
from cowdaemon.errors import CowdError, Reason
from cowdaemon.limits import AUDIT_SECONDS, OPENER_SECONDS
from cowdaemon.system import privileges, procfs
from cowdaemon.system.confinement import SystemCallFilter, bind_to_parent, close_to_others
from cowdaemon.system.journal import Journal
from cowdaemon.system.privileges import Capability, raised
from cowdaemon.system.processes import STOP_SIGNAL
from cowdaemon.system.sealed_files import make_sealed_file

__all__ = ["run_opener"]

_REFUSED: Final = (errno.EACCES, errno.EPERM)
_ABSENT: Final = (errno.ENOENT, errno.ESRCH)
_ON_RECORD: Final = (Reason.ACCESS_DENIED, Reason.OWN_PROCESS)
_ANY_PROCESS: Final = Capability.SYS_PTRACE | Capability.DAC_READ_SEARCH


def run_opener(
    credential: Credential,
    granted: wire.Detail,
    worker: socket.socket,
    journal: Journal,
    system_calls: SystemCallFilter,
    broker_pid: int,
) -> NoReturn:
    """Become the opener of `credential` and serve its worker until that closes its end."""
    permitted = privileges.read_permitted_capabilities()
    privileges.assume_file_system_ids(credential.uid, credential.gid, credential.groups)
    authority = credential.capabilities & permitted
    by_grant = _ANY_PROCESS & permitted if granted else Capability(0)
    privileges.restrict_capabilities(authority | by_grant | Capability.SYS_ADMIN, authority)
    close_to_others()
    bind_to_parent(broker_pid)
    worker.settimeout(AUDIT_SECONDS)
    audit = Audit(journal)
    opener = _Opener(credential, granted, by_grant, audit, broker_pid)
    signal.signal(STOP_SIGNAL, lambda *_: _leave(audit))
    system_calls.load()
    while _serve(worker, opener):
        audit.flush()
    _leave(audit)


def _leave(audit: Audit) -> NoReturn:
    """End, whatever is under way, but not without a word of the records that were dropped."""
    audit.flush(at_once=True)
    os._exit(0)


def _serve(worker: socket.socket, opener: "_Opener") -> bool:
    """Answer a request, if one comes in time; return whether the worker is still there."""
    try:
        message, _ = wire.receive(worker)
    except TimeoutError:
        return True
    if message:
        descriptors: list[int] = []
        reply = opener.answer(wire.OpenRequest.unpack(message), descriptors)
        wire.send(worker, reply.pack(), descriptors)
        _close(descriptors)
    return bool(message)


class _Opener(NamedTuple):
    """Opens processes with the authority of one credential."""

    credential: Credential
    granted: wire.Detail
    by_grant: Capability
    audit: Audit
    broker_pid: int

    def answer(self, request: wire.OpenRequest, descriptors: list[int]) -> wire.OpenReply:
        """Append what was opened to `descriptors`; return how it went."""
        signal.setitimer(signal.ITIMER_REAL, OPENER_SECONDS)  # SIGALRM has its default action: die
        pid, outcome, start_time_ticks = request.pid, 0, 0
        try:
            if request.purpose is wire.Purpose.LIST:
                self._list_processes(descriptors)
            else:
                start_time_ticks = self._open(request, descriptors)
        except (CowdError, OSError) as error:
            reason = _reason_of(error)
            outcome = reason.number
            _close(descriptors)
            if reason in _ON_RECORD and request.purpose is not wire.Purpose.SWEEP:
                self.audit.record(self.credential, "refused", reason.name, _describe(pid))
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        return wire.OpenReply(pid, outcome, start_time_ticks)

    def _open(self, request: wire.OpenRequest, descriptors: list[int]) -> int:
        """Open a process as the caller, else by grant; return its start time in ticks."""
        try:
            return self._open_target(request.pid, descriptors)
        except OSError as error:
            is_refusal = error.errno in _REFUSED + _ABSENT  # what is hidden looks absent
            if not is_refusal or self.granted < request.purpose.needed:
                raise
        _close(descriptors)
        with raised(self.by_grant):
            start_time_ticks = self._open_target(request.pid, descriptors)
            target = _describe(request.pid)
        self.audit.record(self.credential, "granted", request.purpose.name, target)
        return start_time_ticks

    def _open_target(self, pid: int, descriptors: list[int]) -> int:
        """Append pagemap (showing frames) and maps of `pid`; return its start time in ticks.

        Raises:
            CowdError: a rule of cowd's own refuses.
            OSError: the kernel refuses, or has no such process.
        """
        directory = procfs.open_directory(pid)
        try:
            procfs.verify_process(pid)
            stat = procfs.read_stat(directory)
            if _is_own(pid, stat.parent_pid, self.broker_pid):
                raise CowdError(Reason.OWN_PROCESS, pid=pid)
            if stat.has_no_memory:
                raise CowdError(Reason.NO_ADDRESS_SPACE, pid=pid)
            try:
                os.close(procfs.open_in(directory, "pagemap"))
                with raised(Capability.SYS_ADMIN):
                    descriptors.append(procfs.open_in(directory, "pagemap"))
                os.close(procfs.open_in(directory, "pagemap"))
                descriptors.append(procfs.open_in(directory, "maps"))
            except (PermissionError, ProcessLookupError):
                if procfs.read_stat(directory).has_no_memory:  # it has begun to exit meanwhile
                    raise CowdError(Reason.NO_ADDRESS_SPACE, pid=pid) from None
                raise
            return stat.start_time_ticks
        finally:
            os.close(directory)

    def _list_processes(self, descriptors: list[int]) -> None:
        """Append a sealed file with the pids that are worth trying, ascending, as int32."""
        # Those of other uids the kernel would refuse anyway, without more authority.
        anybodys = bool(self.by_grant | self.credential.capabilities)
        with raised(self.by_grant):
            listed = procfs.iter_processes()
            pids = sorted(pid for pid, uid in listed if anybodys or uid == self.credential.uid)
        descriptors.append(make_sealed_file("processes", array.array("i", pids).tobytes()))


def _reason_of(error: CowdError | OSError) -> Reason:
    if isinstance(error, CowdError):
        return error.reason
    if error.errno in _REFUSED:
        return Reason.ACCESS_DENIED
    return Reason.NO_SUCH_PROCESS if error.errno in _ABSENT else Reason.INTERNAL_ERROR


def _close(descriptors: list[int]) -> None:
    while descriptors:
        os.close(descriptors.pop())


def _describe(pid: int) -> Target:
    """Return what a record says of a process; reading it never waits."""
    try:
        status = procfs.read_status(pid)
    except OSError:
        return Target(pid, -1, "")  # it has ended
    return Target(pid, int(status["Uid"].split()[1]), status["Name"])


def _is_own(pid: int, parent_pid: int, broker_pid: int) -> bool:
    """Tell whether a process is cowd's: the broker, its children, and the zygote's children."""
    if broker_pid in (pid, parent_pid):
        return True
    try:
        return int(procfs.read_status(parent_pid)["PPid"]) == broker_pid
    except OSError:
        return False  # hidden from us; a child of our zygote the kernel would have refused already
