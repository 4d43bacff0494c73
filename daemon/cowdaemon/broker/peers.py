# SPDX-License-Identifier: Apache-2.0
"""Who is calling, as the kernel knows it: ids frozen at connect.

Root, in the broker. uid, gid and groups are authority; the pid never is: it only leads to the
process whose namespaces are looked at, and to the capabilities of a uid 0 caller.
"""

import array
import ctypes
import errno
import os
import select
import socket
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cowdaemon.broker.privileges import Capability

__all__ = [
    "Credential",
    "has_ended",
    "open_peer",
    "read_capabilities",
    "read_groups",
    "read_peer_ids",
    "read_status",
]

_SO_PEERGROUPS: Final = 59  # asm-generic/socket.h, Linux 4.13
_SO_PEERPIDFD: Final = 77  # Linux 6.5

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


def read_groups(client: socket.socket) -> tuple[int, ...]:
    """Return the supplementary groups of whoever connected, as they were then, ascending."""
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
        if error.errno in (errno.ESRCH, errno.EINVAL, errno.ENODATA):
            raise ProcessLookupError(errno.ESRCH, "the peer has ended") from error
        if error.errno != errno.ENOPROTOOPT:
            raise
    # Before SO_PEERPIDFD the number may have been reused: namespaces.place_by_proc() compares uids.
    if pid <= 0:
        raise ProcessLookupError(errno.ESRCH, "the peer is in no pid namespace below ours")
    return os.pidfd_open(pid)


def read_capabilities(pid: int, pidfd: int) -> Capability:
    """Return those of a uid 0 caller's effective capabilities that help it to open a process.

    Raises:
        ProcessLookupError: the process has ended, so what was read may be another's.
    """
    status = read_status(pid)
    if has_ended(pidfd) or status["Uid"].split()[1] != "0":
        raise ProcessLookupError(errno.ESRCH, "the peer has ended or is root no more")
    effective = int(status["CapEff"], 16)
    return Capability(effective & (Capability.SYS_PTRACE | Capability.DAC_READ_SEARCH))


def read_status(pid: int) -> dict[str, str]:
    """Return the lines of /proc/PID/status by their names; reading them never waits."""
    # The name in it may hold anything but a newline, which the kernel escapes.
    text = Path(f"/proc/{pid}/status").read_bytes().decode(errors="replace")
    return dict(line.split(":\t", 1) for line in text.split("\n") if ":\t" in line)


def has_ended(pidfd: int) -> bool:
    """Tell whether the process has ended."""
    ended = select.poll()
    ended.register(pidfd, select.POLLIN)
    return bool(ended.poll(0))
