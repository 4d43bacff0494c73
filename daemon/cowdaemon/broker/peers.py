# SPDX-License-Identifier: Apache-2.0
"""Who is calling, as the kernel knows it: ids frozen at connect, and where the process lives.

Root, in the broker. uid, gid and groups are authority; the pid never is: it only leads to the
namespaces, and a peer that cannot be placed in cowd's own is refused.
"""

import array
import ctypes
import errno
import fcntl
import os
import select
import signal
import socket
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cowdaemon.broker.privileges import Capability, bind_to_parent
from cowdaemon.errors import Reason
from cowdaemon.limits import PLACEMENT_SECONDS

__all__ = [
    "Credential",
    "can_place_by_pidfd",
    "open_peer",
    "place_by_pidfd",
    "place_by_proc",
    "read_capabilities",
    "read_credential",
    "read_peer_ids",
]

_SO_PEERGROUPS: Final = 59  # asm-generic/socket.h, Linux 4.13
_SO_PEERPIDFD: Final = 77  # Linux 6.5
# PIDFD_GET_PID_NAMESPACE and PIDFD_GET_USER_NAMESPACE, linux/pidfd.h: Linux commit 5b08bd408534
# ("pidfs: allow retrieval of namespace file descriptors") (in v6.11).
_PIDFD_GET_PID_NAMESPACE: Final = 0xFF05
_PIDFD_GET_USER_NAMESPACE: Final = 0xFF09

_libc: Final = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Credential:
    """One identity: whoever has the same is served by the same opener and worker.

    `groups` is ascending. `capabilities` is empty but for uid 0: what another uid holds when it
    is looked at may come from a setuid program that it executed after it connected.
    """

    uid: int
    gid: int
    groups: tuple[int, ...]
    capabilities: Capability


def read_peer_ids(client: socket.socket) -> tuple[int, int, int]:
    """Return pid, uid and gid of whoever connected, as they were then (SO_PEERCRED)."""
    ucred = struct.Struct("iII")
    return ucred.unpack(client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, ucred.size))


def read_credential(
    client: socket.socket, uid: int, gid: int, capabilities: Capability
) -> Credential:
    """Return the credential of a connection whose ids have been read."""
    return Credential(uid, gid, _read_groups(client), capabilities)


def _read_groups(client: socket.socket) -> tuple[int, ...]:
    # Python's getsockopt() stops at 1,024 bytes, which is 256 groups.
    length = ctypes.c_uint32(0)
    groups = array.array("I")
    while True:
        room = (ctypes.c_uint32 * (length.value // groups.itemsize))()
        if _libc.getsockopt(
            client.fileno(), socket.SOL_SOCKET, _SO_PEERGROUPS, room, ctypes.byref(length)
        ):
            if ctypes.get_errno() != errno.ERANGE:  # ERANGE: the length now says how much it takes
                raise OSError(ctypes.get_errno(), "SO_PEERGROUPS")
            continue
        groups.frombytes(bytes(room)[: length.value])
        return tuple(sorted(groups))


def open_peer(client: socket.socket, pid: int) -> int:
    """Return a pidfd of the process that connected.

    Raises:
        ProcessLookupError: it has ended.
    """
    try:
        return array.array("i", client.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD, 4))[0]
    except OSError as error:
        if error.errno != errno.ENOPROTOOPT:
            raise ProcessLookupError(errno.ESRCH, "the peer has ended") from error
    # Before SO_PEERPIDFD the number may have been reused: place_by_proc() compares the uid.
    if pid <= 0:
        raise ProcessLookupError(errno.ESRCH, "the peer is in no pid namespace below ours")
    return os.pidfd_open(pid)


def _own_namespace(kind: str) -> tuple[int, int]:
    found = os.stat(f"/proc/self/ns/{kind}")
    return found.st_dev, found.st_ino


def can_place_by_pidfd() -> bool:
    """Try whether the kernel tells the namespaces of a pidfd."""
    pidfd = os.pidfd_open(os.getpid())
    try:
        os.close(fcntl.ioctl(pidfd, _PIDFD_GET_USER_NAMESPACE))
    except OSError:
        return False
    finally:
        os.close(pidfd)
    return True


def place_by_pidfd(pidfd: int) -> Reason | None:
    """Return why the process must be refused for where it lives; None if it lives with us.

    Does not wait on the process, whatever that does.
    """
    for request, kind, refusal in (
        (_PIDFD_GET_USER_NAMESPACE, "user", Reason.FOREIGN_USER_NAMESPACE),
        (_PIDFD_GET_PID_NAMESPACE, "pid", Reason.FOREIGN_PID_NAMESPACE),
    ):
        try:
            namespace = fcntl.ioctl(pidfd, request)
        except OSError:  # ESRCH: it has ended
            return Reason.CALLER_GONE
        try:
            found = os.fstat(namespace)
        finally:
            os.close(namespace)
        if (found.st_dev, found.st_ino) != _own_namespace(kind):
            return refusal
    return None


def place_by_proc(pid: int, uid: int, pidfd: int, answer: int, broker_pid: int) -> None:
    """Write the number of place_by_pidfd()'s answer to `answer`, found without its ioctls; 0: none.

    To be run in a process of its own: opening /proc/PID/ns takes a lock that the process may hold
    for ever (exec_update_lock), so the alarm ends us, and no answer means refused.
    """
    bind_to_parent(broker_pid)
    signal.setitimer(signal.ITIMER_REAL, PLACEMENT_SECONDS)
    refusal = 0
    try:
        for kind, reason in (
            ("user", Reason.FOREIGN_USER_NAMESPACE),
            ("pid", Reason.FOREIGN_PID_NAMESPACE),
        ):
            found = os.stat(f"/proc/{pid}/ns/{kind}")
            if (found.st_dev, found.st_ino) != _own_namespace(kind):
                refusal = refusal or reason.number
        # Without SO_PEERPIDFD the pid may have passed to another process before we held it.
        if _read_status(pid)["Uid"].split()[1] != str(uid) or _has_ended(pidfd):
            refusal = Reason.CALLER_GONE.number
    except OSError:
        refusal = Reason.CALLER_GONE.number
    os.write(answer, bytes([refusal]))


def read_capabilities(pid: int, pidfd: int) -> Capability:
    """Return those of a uid 0 caller's effective capabilities that help it to open a process.

    Raises:
        ProcessLookupError: the process has ended, so what was read may be another's.
    """
    status = _read_status(pid)
    if _has_ended(pidfd) or status["Uid"].split()[1] != "0":
        raise ProcessLookupError(errno.ESRCH, "the peer has ended or is root no more")
    effective = int(status["CapEff"], 16)
    return Capability(effective & (Capability.SYS_PTRACE | Capability.DAC_READ_SEARCH))


def _read_status(pid: int) -> dict[str, str]:
    text = Path(f"/proc/{pid}/status").read_text(errors="replace")
    return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)


def _has_ended(pidfd: int) -> bool:
    ended = select.poll()
    ended.register(pidfd, select.POLLIN)
    return bool(ended.poll(0))
