# SPDX-License-Identifier: Apache-2.0
"""Who is at the other end of a Unix socket, as the kernel kept it when the connection was made.

Used by root, in the broker. Nothing here reads from the connection.
"""

import array
import ctypes
import errno
import os
import socket
import struct
from typing import Final

__all__ = ["open_process", "read_groups", "read_ids", "read_label"]

# asm-generic/socket.h
_SO_PEERSEC: Final = 31
_SO_PEERGROUPS: Final = 59  # Linux 4.13
_SO_PEERPIDFD: Final = 77  # Linux 6.5
_LABEL_BYTES: Final = 1024  # the most that Python asks for; AppArmor's and SELinux's are shorter

_libc: Final = ctypes.CDLL(None, use_errno=True)


def read_ids(client: socket.socket) -> tuple[int, int, int]:
    """Return pid, uid and gid of whoever connected (SO_PEERCRED)."""
    ucred = struct.Struct("iII")
    return ucred.unpack(client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, ucred.size))


def read_groups(client: socket.socket) -> tuple[int, ...]:
    """Return the supplementary groups of whoever connected, ascending."""
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


def read_label(client: socket.socket) -> bytes:
    """Return what the security module calls whoever connected; empty if none labels sockets."""
    try:
        return client.getsockopt(socket.SOL_SOCKET, _SO_PEERSEC, _LABEL_BYTES).rstrip(b"\0")
    except OSError as error:
        if error.errno == errno.ENOPROTOOPT:
            return b""
        raise


def open_process(client: socket.socket, pid: int) -> int:
    """Return a pidfd of the process that connected, which had the number `pid`.

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
    # Before SO_PEERPIDFD the number may have been reused: placement.place_by_proc() compares uids.
    if pid <= 0:
        raise ProcessLookupError(errno.ESRCH, "the peer is in no pid namespace below ours")
    return os.pidfd_open(pid)
