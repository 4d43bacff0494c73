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
from cowdaemon.broker.zygote import ZygoteLink
from cowdaemon.errors import Reason
from cowdaemon.limits import WORKER_IDLE_SECONDS, WORKERS, WORKERS_PER_UID

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
    """All pairs, and how many connections each uid has."""

    def __init__(self) -> None:
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
        serving = [key for key in self._pairs if isinstance(key, Credential)]
        of_uid = sum(key.uid == credential.uid for key in serving)
        return len(serving) < WORKERS and of_uid < WORKERS_PER_UID

    def longest_idle(self, uid: int | None = None) -> Pair | None:
        """Return the serving pair that has been without connections longest, of `uid` if given."""
        idle = (
            pair
            for pair in self
            if isinstance(pair.key, Credential)
            and not pair.connections
            and uid in (None, pair.key.uid)
        )
        return min(idle, key=lambda pair: pair.idle_since, default=None)

    def start(self, key: Credential | Reason, zygote: ZygoteLink) -> Pair:
        """Start what serves `key`.

        Raises:
            OSError: a process or descriptor could not be had; nothing is left of the attempt.
        """
        control, worker_control = wire.seqpacket_pair()
        control.setblocking(False)
        pair = Pair(key, next(self._numbers) & 0xFFFFFFFF, control)
        handed = [worker_control]
        try:
            if isinstance(key, Credential):
                handed.append(_start_opener(pair, key))
                ids = (key.uid, key.gid, key.groups)
                refusal = None
            else:
                ids, refusal = (0, 0, ()), key
            descriptors = tuple(end.fileno() for end in handed)
            zygote.spawn(pair.worker_id, refusal, ids, descriptors)
        except OSError:
            control.close()
            if pair.opener:
                signal.pidfd_send_signal(pair.opener.pidfd, signal.SIGKILL)
                pair.opener.reap()
            raise
        finally:
            for end in handed:
                end.close()
        self._pairs[key] = pair
        return pair

    def hand_over(self, pair: Pair, client: socket.socket, uid: int) -> None:
        """Give a connection to the pair's worker; our descriptor of it stays to be closed.

        Raises:
            OSError: the worker is gone or does not read.
        """
        number = next(self._numbers) & 0xFFFFFFFF
        notice = wire.Control(wire.CONNECTION, number).pack()
        wire.send(pair.control, notice, [client.fileno()])
        pair.connections[number] = uid
        self.connections_by_uid[uid] += 1

    def receive(self, pair: Pair) -> bool:
        """Take one message of the worker; return whether the pair lives on."""
        try:
            message, _ = wire.receive(pair.control)
            if not message:
                return False
            kind, number = wire.Control.unpack(message)
            if kind != wire.CLOSED or number not in pair.connections:
                raise wire.WireError("a worker may only say that a connection of its has closed")
        except BlockingIOError:
            return True
        except OSError:
            return False
        except wire.WireError as error:
            _log.error("worker %d broke the protocol and is ended: %s", pair.worker_id, error)
            return False
        self._forget(pair.connections.pop(number))
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
            return False
        return True

    def remove(self, pair: Pair) -> None:
        """Forget a pair; its worker sees its control socket close, its opener the worker's end."""
        del self._pairs[pair.key]
        pair.control.close()
        for uid in pair.connections.values():
            self._forget(uid)

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


def _start_opener(pair: Pair, credential: Credential) -> socket.socket:
    """Fork the pair's opener; return the end that its worker talks to."""
    local, remote = wire.seqpacket_pair()
    broker_pid = os.getpid()
    with local:
        pair.opener = fork_child(
            "cowd-opener",
            lambda: run_opener(credential, local, broker_pid),
            keep=[local.fileno()],
        )
    return remote
