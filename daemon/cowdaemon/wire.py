# SPDX-License-Identifier: Apache-2.0
"""The messages between cowd's processes: fixed sizes, on SOCK_SEQPACKET, descriptors attached.

Used in every process; no state. A message of the wrong size, of an unknown kind or with the wrong
number of descriptors raises WireError, and what was attached is closed: the receiver drops the
peer. Numbers are in host order: both ends run on one machine.

    broker -> zygote    SpawnRequest + [control, room, counters, opener], no opener if it refuses
                        | KillRequest
    zygote -> broker    READY, once
    broker -> worker    Control(CONNECTION) + [client], then Control(RELEASED) or
                        Control(DISCARDED) once the broker has let go of it
                        | Control(OPENER) + [opener] | Control(DRAIN)
                        | Statistics, for each time that it was asked
    worker -> broker    Control(CLOSED), for each released connection that ended
                        | Control(STATISTICS), if the worker may ask that
    worker -> opener    OpenRequest
    opener -> worker    OpenReply + [pagemap, maps] if opened, or + [list] for Purpose.LIST
"""

import array
import os
import socket
import struct
from collections.abc import Sequence
from enum import IntEnum
from typing import Any, Final, NamedTuple

from cowdaemon.counters import COUNTERS_BYTES
from cowdaemon.limits import MOST_NICE

__all__ = [
    "CLOSED",
    "CONNECTION",
    "DISCARDED",
    "DRAIN",
    "MESSAGE_BYTES",
    "OPENER",
    "READY",
    "RELEASED",
    "SPAWN_BYTES",
    "STATISTICS",
    "STATISTICS_BYTES",
    "Control",
    "Detail",
    "KillRequest",
    "OpenReply",
    "OpenRequest",
    "Purpose",
    "SpawnRequest",
    "Statistics",
    "WireError",
    "receive",
    "refuse_descriptors",
    "send",
    "seqpacket_pair",
    "unpack_broker_message",
    "unpack_zygote_request",
]

READY: Final = b"R"
CONNECTION: Final = b"C"
OPENER: Final = b"O"
DRAIN: Final = b"D"
RELEASED: Final = b"L"
DISCARDED: Final = b"T"
CLOSED: Final = b"X"
STATISTICS: Final = b"N"

_GROUPS: Final = 65_536  # NGROUPS_MAX, linux/limits.h
_OPEN_REQUEST: Final = struct.Struct("=Bi")
_OPEN_REPLY: Final = struct.Struct("=iIQ")
_CONTROL: Final = struct.Struct("=cI")
_SPAWN: Final = struct.Struct("=cIIIIBBBBB")
_STATISTICS: Final = struct.Struct(f"=cQII{COUNTERS_BYTES}s")
_KILL: Final = struct.Struct("=cI")
SPAWN_BYTES: Final = _SPAWN.size + 4 * _GROUPS
"""Longest SpawnRequest: a caller may have as many groups as the kernel allows."""
MESSAGE_BYTES: Final = 64
"""Longest message of any other kind, but for Statistics."""
STATISTICS_BYTES: Final = _STATISTICS.size
"""What the broker tells a worker is no longer."""
_SEND_BUFFER_BYTES: Final = 2 * SPAWN_BYTES
_SO_PASSRIGHTS: Final = 83  # asm-generic/socket.h


class WireError(Exception):
    """A peer broke the protocol."""


class Detail(IntEnum):
    """How much a caller is granted of processes that the kernel alone would keep from it."""

    NONE = 0
    SUMMARY = 1
    PAGES = 2


class Purpose(IntEnum):
    """What a process is opened for. SWEEP is SUMMARY of one of many: to be refused is no news.

    LIST opens no process: it asks for the pids that are worth trying, as int32 in a file.
    """

    PAGES = 1
    SUMMARY = 2
    SWEEP = 3
    LIST = 4

    @property
    def needed(self) -> Detail:
        """What a caller must be granted of a process where the kernel refuses it."""
        return Detail.PAGES if self is Purpose.PAGES else Detail.SUMMARY


class Control(NamedTuple):
    """What broker and worker tell each other: `kind`, and which connection it is about (or 0)."""

    kind: bytes
    connection_id: int = 0

    def pack(self) -> bytes:
        """Return the message's bytes."""
        return _CONTROL.pack(*self)

    @classmethod
    def unpack(cls, message: bytes) -> "Control":
        """Return the message in `message`; raise WireError if it is none."""
        return cls(*_unpack(_CONTROL, message))


class OpenRequest(NamedTuple):
    """Open a process; `pid` is 0 for Purpose.LIST."""

    purpose: Purpose
    pid: int

    def pack(self) -> bytes:
        """Return the message's bytes."""
        return _OPEN_REQUEST.pack(*self)

    @classmethod
    def unpack(cls, message: bytes) -> "OpenRequest":
        """Return the message in `message`; raise WireError if it is none."""
        purpose, pid = _unpack(_OPEN_REQUEST, message)
        try:
            return cls(Purpose(purpose), pid)
        except ValueError as error:
            raise WireError(f"there is no purpose {purpose}") from error


class OpenReply(NamedTuple):
    """How an open went: `outcome` is 0, or the number of an errors.Reason.

    `start_time_ticks` is field 22 of /proc/PID/stat, in clock ticks since boot.
    """

    pid: int
    outcome: int
    start_time_ticks: int

    def pack(self) -> bytes:
        """Return the message's bytes."""
        return _OPEN_REPLY.pack(*self)

    @classmethod
    def unpack(cls, message: bytes) -> "OpenReply":
        """Return the message in `message`; raise WireError if it is none."""
        return cls(*_unpack(_OPEN_REPLY, message))


class SpawnRequest(NamedTuple):
    """Fork a worker for this caller; `refusal` is 0, or the number of an errors.Reason to refuse.

    With it go, in this order, the worker's control socket, its room, the file that it counts into
    and its opener's socket.
    `uid`, `gid`, `groups` and `granted` are what GetServerInfo tells the caller about itself; the
    opener decides by them, not the worker. `sees_all_flags` chooses the disclosure mask;
    `sees_statistics` says that the broker answers when it is asked for them, and `nice` how far the
    worker gives way to other processes.
    """

    worker_id: int
    refusal: int = 0
    uid: int = 0
    gid: int = 0
    granted: Detail = Detail.NONE
    sees_all_flags: bool = False
    sees_statistics: bool = False
    calls_per_worker: int = 0
    nice: int = 0
    groups: tuple[int, ...] = ()

    def pack(self) -> bytes:
        """Return the message's bytes."""
        *numbers, groups = self
        return _SPAWN.pack(b"S", *numbers) + array.array("I", groups).tobytes()

    @classmethod
    def unpack(cls, message: bytes) -> "SpawnRequest":
        """Return the message in `message`; raise WireError if it is none."""
        head = _unpack(_SPAWN, message[: _SPAWN.size], b"S")
        _, worker_id, refusal, uid, gid, granted, *rest = head
        sees_all_flags, sees_statistics, calls_per_worker, nice = rest
        groups = array.array("I")
        if max(sees_all_flags, sees_statistics) > 1:
            raise WireError("a truth value is neither 0 nor 1")
        if nice > MOST_NICE:
            raise WireError(f"there is no nice value {nice}")
        try:
            groups.frombytes(message[_SPAWN.size :])
            detail = Detail(granted)
        except ValueError as error:
            raise WireError("groups are cut off, or what is granted is not known") from error
        return cls(
            worker_id,
            refusal,
            uid,
            gid,
            detail,
            bool(sees_all_flags),
            bool(sees_statistics),
            calls_per_worker,
            nice,
            tuple(groups),
        )


class KillRequest(NamedTuple):
    """Kill a worker that should have ended."""

    worker_id: int

    def pack(self) -> bytes:
        """Return the message's bytes."""
        return _KILL.pack(b"K", self.worker_id)

    @classmethod
    def unpack(cls, message: bytes) -> "KillRequest":
        """Return the message in `message`; raise WireError if it is none."""
        return cls(_unpack(_KILL, message, b"K")[1])


class Statistics(NamedTuple):
    """What all workers have done, from the broker; `words` are those of counters.Words, as bytes.

    `start_time_nanoseconds`, since 1970, is when the broker started.
    """

    start_time_nanoseconds: int
    connection_count: int
    worker_count: int
    words: bytes

    def pack(self) -> bytes:
        """Return the message's bytes."""
        return _STATISTICS.pack(STATISTICS, *self)

    @classmethod
    def unpack(cls, message: bytes) -> "Statistics":
        """Return the message in `message`; raise WireError if it is none."""
        return cls(*_unpack(_STATISTICS, message, STATISTICS)[1:])


def unpack_broker_message(message: bytes) -> Control | Statistics:
    """Return what the broker tells a worker; raise WireError if it is neither."""
    return (Statistics if message.startswith(STATISTICS) else Control).unpack(message)


def unpack_zygote_request(message: bytes) -> SpawnRequest | KillRequest:
    """Return what the broker tells the zygote; raise WireError if it is neither."""
    return (SpawnRequest if message.startswith(b"S") else KillRequest).unpack(message)


def _unpack(form: struct.Struct, message: bytes, kind: bytes = b"") -> tuple[Any, ...]:
    if len(message) != form.size or not message.startswith(kind):
        raise WireError(f"{len(message)} bytes are not the message of {form.size} that was due")
    return form.unpack(message)


def seqpacket_pair(
    send_buffer_bytes: int = _SEND_BUFFER_BYTES,
) -> tuple[socket.socket, socket.socket]:
    """Return two connected ends, close-on-exec; by default with room for the longest message."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in ends:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer_bytes)
    return ends


def refuse_descriptors(end: socket.socket) -> bool:
    """Let nobody send descriptors to this end; return whether the kernel can do that.

    To drop the last reference to somebody's descriptor may take as long as they like (a TCP socket
    with SO_LINGER), so whoever must not wait must not be sent any. Accepted connections inherit it.
    Linux commit 77cbe1a6d873 ("af_unix: Introduce SO_PASSRIGHTS.") (in v6.16).
    """
    try:
        end.setsockopt(socket.SOL_SOCKET, _SO_PASSRIGHTS, 0)
    except OSError:
        return False
    return True


def send(peer: socket.socket, message: bytes, descriptors: Sequence[int] = ()) -> None:
    """Send one message with `descriptors` attached; they stay open here.

    Raises:
        OSError: the peer is gone, or (on a non-blocking socket) does not read.
    """
    attached = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
    peer.sendmsg([message], attached if descriptors else [], socket.MSG_NOSIGNAL)


def receive(
    peer: socket.socket, most_descriptors: int = 0, longest_bytes: int = MESSAGE_BYTES
) -> tuple[bytes, list[int]]:
    """Receive one message and what is attached to it, close-on-exec.

    With `most_descriptors` 0 no descriptor can get in: the kernel drops it for want of room.

    Returns:
        The message, empty at the end of the stream, and the descriptors, now the caller's to close.

    Raises:
        WireError: the message or its descriptors are more than there is room for.
        OSError: as from recvmsg.
    """
    room_bytes = socket.CMSG_SPACE(4 * most_descriptors) if most_descriptors else 0
    message, ancillary, flags, _ = peer.recvmsg(longest_bytes, room_bytes, socket.MSG_CMSG_CLOEXEC)
    descriptors = array.array("i")
    for level, kind, payload in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(payload[: len(payload) // 4 * 4])
    excess = len(descriptors) > most_descriptors  # CMSG_SPACE rounds up: one more may fit
    if excess or flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        for descriptor in descriptors:
            os.close(descriptor)
        raise WireError("a message or its descriptors are more than the protocol allows")
    return message, descriptors.tolist()
