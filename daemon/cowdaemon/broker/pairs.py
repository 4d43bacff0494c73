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
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from cowdaemon import wire
from cowdaemon.broker.opener import run_opener
from cowdaemon.broker.peers import Credential
from cowdaemon.broker.rooms import Rooms
from cowdaemon.broker.statistics import Statistics
from cowdaemon.broker.zygote import ZygoteLink
from cowdaemon.config import Settings
from cowdaemon.errors import Reason
from cowdaemon.limits import OPENER_BUFFER_BYTES, STATISTICS_SECONDS
from cowdaemon.system.confinement import SystemCallFilter
from cowdaemon.system.journal import Journal
from cowdaemon.system.processes import Child, fork_child
from cowdaemon.system.system_calls import OPENER

__all__ = ["Pair", "Pairs"]

_log: Final = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Pair:
    """What serves one credential, or refuses for one reason.

    `connections` maps the number of each open connection to the uid it counts for. The worker keeps
    the statistics that it was told until `told_until`, and asks no sooner.
    """

    key: Credential | Reason
    worker_id: int
    control: socket.socket
    opener: Child | None = None
    connections: dict[int, int] = field(default_factory=dict)
    idle_since: float = field(default_factory=time.monotonic)
    told_until: float = 0.0

    @property
    def refuses(self) -> bool:
        """Whether it does nothing but say no."""
        return isinstance(self.key, Reason)


class Pairs:
    """All pairs; `by_key` is to be read only. `statistics` is what their workers have done.

    Args:
        rooms: where their workers make their own sockets.
        settings: what is granted to whom, and how many there may be.
        journal: what the openers write their records to.

    Raises:
        PrivilegeError: this machine has filters of system calls, and they do not work.
    """

    def __init__(self, rooms: Rooms, settings: Settings, journal: Journal) -> None:
        self._rooms = rooms
        self._settings = settings
        self._journal = journal
        self._system_calls = SystemCallFilter(OPENER)
        self.by_key: dict[Credential | Reason, Pair] = {}
        self.statistics: Final = Statistics()
        self._numbers = itertools.count(1)

    def __iter__(self) -> Iterator[Pair]:
        return iter(list(self.by_key.values()))

    def count_connections(self, uid: int, refused: bool) -> int:
        """Return how many connections a uid has that are refused, or served."""
        of_kind = (pair for pair in self.by_key.values() if pair.refuses == refused)
        return sum(list(pair.connections.values()).count(uid) for pair in of_kind)

    def crowd(self, credential: Credential) -> list[Pair]:
        """Return the pairs of which one must end first, if one for `credential` is too many."""
        serving = [pair for pair in self if not pair.refuses]
        of_uid = [pair for pair in serving if pair.key.uid == credential.uid]  # type: ignore[union-attr]
        if len(of_uid) >= self._settings.limits.workers_per_uid:
            return of_uid  # nobody else makes room for it then
        return serving if len(serving) >= self._settings.limits.workers else []

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
            handed.append(self.statistics.make_counters(pair.worker_id))
            if isinstance(key, Credential):
                handed.append(self._start_opener(pair, key).detach())
            zygote.spawn(self._describe(pair), handed)
        except OSError:
            self._end(pair)
            if pair.opener:
                pair.opener.reap()
            raise
        finally:
            for descriptor in handed:
                os.close(descriptor)
        self.by_key[key] = pair
        return pair

    def _describe(self, pair: Pair) -> wire.SpawnRequest:
        key, calls = pair.key, self._settings.limits.calls_per_worker
        if isinstance(key, Reason):
            return wire.SpawnRequest(pair.worker_id, key.number, calls_per_worker=calls)
        return wire.SpawnRequest(
            pair.worker_id,
            uid=key.uid,
            gid=key.gid,
            granted=self._settings.granted(key.gids),
            sees_all_flags=self._settings.sees_all_flags(key.uid, key.gids),
            sees_statistics=self._sees_statistics(key),
            calls_per_worker=calls,
            nice=self._settings.nice(key.gids),
            groups=key.groups,
        )

    def _sees_statistics(self, key: Credential | Reason) -> bool:
        return isinstance(key, Credential) and self._settings.sees_statistics(key.uid, key.gids)

    def _start_opener(self, pair: Pair, credential: Credential) -> socket.socket:
        """Fork the pair's opener; return the end that its worker talks to."""
        local, remote = wire.seqpacket_pair(OPENER_BUFFER_BYTES)
        granted = self._settings.granted(credential.gids)
        broker_pid = os.getpid()
        with local:
            pair.opener = fork_child(
                "cowd-opener",
                lambda: run_opener(
                    credential, granted, local, self._journal, self._system_calls, broker_pid
                ),
                keep=[local.fileno(), *self._journal.descriptors],
            )
        return remote

    def hand_over(self, pair: Pair, client: socket.socket, uid: int | None) -> None:
        """Give a connection to the pair's worker, to serve for `uid` or, without one, to close.

        Raises:
            OSError: the worker is gone or does not read. The connection is open if it did not
                get there.
        """
        connection_id = next(self._numbers) & 0xFFFFFFFF
        notice = wire.Control(wire.CONNECTION, connection_id).pack()
        wire.send(pair.control, notice, [client.fileno()])
        client.close()
        if uid is not None:
            pair.connections[connection_id] = uid
        # The worker lets go of it after this, so that ours is never the last reference.
        kind = wire.DISCARDED if uid is None else wire.RELEASED
        wire.send(pair.control, wire.Control(kind, connection_id).pack())

    def receive(self, pair: Pair) -> bool:
        """Take one message of the worker; return whether the pair lives on."""
        try:
            message, _ = wire.receive(pair.control)
            if not message:
                return False
            match wire.Control.unpack(message):
                case wire.Control(wire.CLOSED, number) if number in pair.connections:
                    del pair.connections[number]
                    pair.idle_since = time.monotonic()
                    return True
                case wire.Control(wire.STATISTICS, 0) if self._may_ask(pair):
                    return self._tell_statistics(pair)
                case _:
                    raise wire.WireError("it said what it may not say")
        except BlockingIOError:
            return True
        except OSError:
            return False
        except wire.WireError as error:
            _log.error("worker %d broke the protocol and is ended: %s", pair.worker_id, error)
            return False

    def _may_ask(self, pair: Pair) -> bool:
        return self._sees_statistics(pair.key) and time.monotonic() >= pair.told_until

    def _tell_statistics(self, pair: Pair) -> bool:
        connection_count = sum(len(each.connections) for each in self)
        pair.told_until = time.monotonic() + STATISTICS_SECONDS
        try:
            wire.send(pair.control, self.statistics.tell(connection_count))
        except OSError:
            return False
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
        name = signal.Signals(-status).name
        _log.warning("opener of uid %d ended by %s and is replaced", pair.key.uid, name)
        try:
            with self._start_opener(pair, pair.key) as remote:
                notice = wire.Control(wire.OPENER).pack()
                wire.send(pair.control, notice, [remote.fileno()])
        except OSError:
            return False
        return True

    def remove(self, pair: Pair) -> None:
        """Forget a pair; its worker sees its control socket close."""
        del self.by_key[pair.key]
        self._end(pair)

    def expired(self, now: float) -> list[Pair]:
        """Return the pairs that have had no connection for long enough."""
        since = now - self._settings.limits.worker_idle_seconds
        return [pair for pair in self if not pair.connections and pair.idle_since <= since]

    def _end(self, pair: Pair) -> None:
        pair.control.close()
        if pair.opener:  # whoever else its worker may have given its end to
            pair.opener.stop()
        self._rooms.remove(pair.worker_id)
        self.statistics.remove(pair.worker_id)
