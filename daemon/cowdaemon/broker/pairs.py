# SPDX-License-Identifier: Apache-2.0
"""The opener and worker of each credential, and the refusing worker of each refusal.

Root, in the broker. A pair's sockets are its identity: what was accepted from a credential goes to
that credential's worker and nowhere else, and no message ever names a caller. A pair ends when its
worker does; a connection lives in its worker alone, so it is closed with it.
"""

import itertools
import logging
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from cowdaemon import wire
from cowdaemon.broker.opener import run_opener
from cowdaemon.broker.peers import Credential
from cowdaemon.broker.processes import Child, fork_child
from cowdaemon.broker.rooms import Rooms
from cowdaemon.broker.zygote import ZygoteLink
from cowdaemon.errors import Reason
from cowdaemon.limits import (
    OPENER_BUFFER_BYTES,
    WORKER_IDLE_SECONDS,
    WORKERS,
    WORKERS_PER_UID,
)

__all__ = ["Pair", "Pairs"]

_log: Final = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Pair:
    """What serves one credential, or refuses for one reason.

    `connections` maps the number of each open connection to the uid it counts for.
    """

    key: Credential | Reason
    worker_id: int
    control: socket.socket
    opener: Child | None = None
    connections: dict[int, int] = field(default_factory=dict)
    idle_since: float = field(default_factory=time.monotonic)


class Pairs:
    """All pairs, and how many connections each uid has.

    Args:
        rooms: where their workers make their own sockets.
    """

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms
        self._pairs: dict[Credential | Reason, Pair] = {}
        self._numbers = itertools.count(1)
        self.connections_by_uid: Counter[int] = Counter()

    def __iter__(self) -> Iterator[Pair]:
        return iter(list(self._pairs.values()))

    def __len__(self) -> int:
        return len(self._pairs)

    def find(self, key: Credential | Reason) -> Pair | None:
        """Return the pair of `key`, if it has one."""
        return self._pairs.get(key)

    def has_room(self, credential: Credential) -> bool:
        """Tell whether a worker for one more credential of this uid fits the limits."""
        return not self._in_the_way(credential)

    def find_idle(self, credential: Credential) -> Pair | None:
        """Return the pair to end for the credential: idle for longest, of those in its way."""
        idle = [pair for pair in self._in_the_way(credential) if not pair.connections]
        return min(idle, key=lambda pair: pair.idle_since, default=None)

    def _in_the_way(self, credential: Credential) -> list[Pair]:
        serving = [pair for pair in self if isinstance(pair.key, Credential)]
        of_uid = [key for key in self._pairs if _uid_of(key) == credential.uid]
        if len(of_uid) >= WORKERS_PER_UID:  # nobody else makes room for it then
            return [self._pairs[key] for key in of_uid]
        return serving if len(serving) >= WORKERS else []

    def start(self, key: Credential | Reason, zygote: ZygoteLink) -> Pair:
        """Start what serves `key`.

        Raises:
            OSError: a process or descriptor could not be had; nothing is left of the attempt.
        """
        control, worker_control = wire.seqpacket_pair()
        control.setblocking(False)
        wire.refuse_descriptors(control)
        pair = Pair(key, next(self._numbers) & 0xFFFFFFFF, control)
        handed = [worker_control.detach()]
        try:
            handed.append(self._rooms.make(pair.worker_id))
            request = wire.SpawnRequest(pair.worker_id)
            if isinstance(key, Credential):
                handed.append(_start_opener(pair, key).detach())
                request = request._replace(uid=key.uid, gid=key.gid, groups=key.groups)
            else:
                request = request._replace(refusal=key.number)
            zygote.spawn(request, handed)
        except OSError:
            self._kill_opener(pair)
            self._end(pair)
            raise
        finally:
            for descriptor in handed:
                os.close(descriptor)
        self._pairs[key] = pair
        return pair

    def hand_over(self, pair: Pair, client: socket.socket, uid: int) -> None:
        """Give a connection to the pair's worker; it is closed here.

        Raises:
            OSError: the worker is gone or does not read. The connection is open if it did not
                get there.
        """
        connection_id = self._send_client(pair, client)
        pair.connections[connection_id] = uid
        self.connections_by_uid[uid] += 1
        wire.send(pair.control, wire.Control(wire.RELEASED, connection_id).pack())

    def discard(self, pair: Pair, client: socket.socket) -> None:
        """Have the pair's worker close a connection, which may keep whoever does it waiting.

        Raises:
            OSError: as in hand_over.
        """
        connection_id = self._send_client(pair, client)
        wire.send(pair.control, wire.Control(wire.DISCARDED, connection_id).pack())

    def _send_client(self, pair: Pair, client: socket.socket) -> int:
        # The worker lets go of it after the message that follows, so ours is never the last.
        connection_id = next(self._numbers) & 0xFFFFFFFF
        notice = wire.Control(wire.CONNECTION, connection_id).pack()
        wire.send(pair.control, notice, [client.fileno()])
        client.close()
        return connection_id

    def receive(self, pair: Pair) -> bool:
        """Take one message of the worker; return whether the pair lives on."""
        try:
            message, _ = wire.receive(pair.control)
            if not message:
                return False
            kind, connection_id = wire.Control.unpack(message)
            if kind != wire.CLOSED or connection_id not in pair.connections:
                raise wire.WireError("a worker may only say that a connection of its has closed")
        except BlockingIOError:
            return True
        except OSError:
            return False
        except wire.WireError as error:
            _log.error("worker %d broke the protocol and is ended: %s", pair.worker_id, error)
            return False
        self._forget(pair.connections.pop(connection_id))
        if not pair.connections:
            pair.idle_since = time.monotonic()
        return True

    def replace_opener(self, pair: Pair) -> bool:
        """Reap the pair's opener and start another; return whether the pair lives on.

        One that a signal ended was stuck in a target, or killed; one that failed would fail again.
        """
        opener, pair.opener = pair.opener, None
        if opener is None or not isinstance(pair.key, Credential):
            return True
        status = opener.reap()
        if status >= 0:
            return status == 0
        _log.warning(
            "opener %d of uid %d ended by %s and is replaced",
            opener.pid,
            pair.key.uid,
            signal.Signals(-status).name,
        )
        try:
            with _start_opener(pair, pair.key) as remote:
                notice = wire.Control(wire.OPENER).pack()
                wire.send(pair.control, notice, [remote.fileno()])
        except OSError:
            self._kill_opener(pair)
            return False
        return True

    def remove(self, pair: Pair) -> None:
        """Forget a pair; its worker sees its control socket close."""
        del self._pairs[pair.key]
        self._end(pair)
        for uid in pair.connections.values():
            self._forget(uid)

    def _kill_opener(self, pair: Pair) -> None:
        """Kill and reap an opener that nobody watches yet."""
        if pair.opener:
            signal.pidfd_send_signal(pair.opener.pidfd, signal.SIGKILL)
            pair.opener.reap()
            pair.opener = None

    def _end(self, pair: Pair) -> None:
        pair.control.close()
        if pair.opener:  # whoever else its worker may have given its end to
            signal.pidfd_send_signal(pair.opener.pidfd, signal.SIGKILL)
        self._rooms.remove(pair.worker_id)

    def expired(self, now: float) -> list[Pair]:
        """Return the pairs that have had no connection for long enough."""
        return [pair for pair in self if self.expires_at(pair) <= now]

    def expires_at(self, pair: Pair) -> float:
        """Return when the pair ends if nobody connects, on the monotonic clock."""
        return float("inf") if pair.connections else pair.idle_since + WORKER_IDLE_SECONDS

    def _forget(self, uid: int) -> None:
        self.connections_by_uid[uid] -= 1
        if not self.connections_by_uid[uid]:
            del self.connections_by_uid[uid]


def _uid_of(key: Credential | Reason) -> int | None:
    return key.uid if isinstance(key, Credential) else None


def _start_opener(pair: Pair, credential: Credential) -> socket.socket:
    """Fork the pair's opener; return the end that its worker talks to."""
    local, remote = wire.seqpacket_pair(OPENER_BUFFER_BYTES)
    broker_pid = os.getpid()
    with local:
        pair.opener = fork_child(
            "cowd-opener",
            lambda: run_opener(credential, local, broker_pid),
            keep=[local.fileno()],
        )
    return remote
