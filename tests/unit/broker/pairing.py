# SPDX-License-Identifier: Apache-2.0
"""Pairs whose zygote and workers are played: what they are handed is kept."""

import os
import socket
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from cowdaemon import wire
from cowdaemon.broker.pairs import Pair, Pairs
from cowdaemon.broker.peers import Credential
from cowdaemon.broker.rooms import Rooms
from cowdaemon.config import Limits, Settings
from cowdaemon.errors import Reason
from cowdaemon.system.journal import Journal
from cowdaemon.system.privileges import Capability

SECONDS = 10.0
UID = 1000


def credential(uid: int = UID, gid: int = 100) -> Credential:
    return Credential(uid, gid, (4, 5), Capability(0))


class Zygote:
    """Takes the place of the link to the zygote; what workers are handed is kept here."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self.requests: list[wire.SpawnRequest] = []
        self.counters: dict[int, int] = {}
        self.handed: dict[int, list[int]] = {}
        self.workers: dict[int, socket.socket] = {}
        self.openers: dict[int, socket.socket] = {}
        self.failure: OSError | None = None

    def spawn(self, request: wire.SpawnRequest, descriptors: Sequence[int]) -> None:
        if self.failure:
            raise self.failure
        self.requests.append(request)
        control, room, counters, *opener = map(os.dup, descriptors)
        for descriptor in room, counters:
            self._stack.callback(os.close, descriptor)
        self.handed[request.worker_id] = [control, room, counters, *opener]
        self.counters[request.worker_id] = counters
        self.workers[request.worker_id] = self._take(control)
        if opener:
            self.openers[request.worker_id] = self._take(opener[0])

    def _take(self, descriptor: int) -> socket.socket:
        end = socket.socket(fileno=descriptor)
        end.settimeout(SECONDS)
        return self._stack.enter_context(end)


class Pairing:
    """Pairs under test, and the clock that they look at."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self.rooms = Rooms(directory / "cowd.sock")
        stack.callback(self.rooms.close)
        self.limit()
        self.zygote = Zygote(stack)
        self.now = time.monotonic()
        self._stack = stack

    def limit(self, **limits: int) -> None:
        """Begin anew, with these limits."""
        self.configure(Settings(limits=Limits(**limits)))

    def configure(self, settings: Settings) -> None:
        """Begin anew, with these settings."""
        self.pairs = Pairs(self.rooms, settings, Journal())

    def start(self, key: Credential | Reason) -> Pair:
        pair = self.pairs.start(key, self.zygote)  # type: ignore[arg-type]
        assert pair.idle_since > 0  # of the real clock, which the class holds on to
        pair.idle_since = self.now
        return pair

    def worker_of(self, pair: Pair) -> socket.socket:
        """Return the worker's end of a pair's control socket."""
        return self.zygote.workers[pair.worker_id]

    def hear(self, pair: Pair, descriptor_count: int = 0) -> tuple[wire.Control, list[int]]:
        """Return what the worker was told last, with what came along."""
        message, descriptors = wire.receive(self.worker_of(pair), descriptor_count)
        for descriptor in descriptors:
            self._stack.callback(os.close, descriptor)
        return wire.Control.unpack(message), descriptors

    def make_client(self) -> tuple[socket.socket, int]:
        """Return a connection, and the inode number by which it is known wherever it goes."""
        client, _ = (self._stack.enter_context(end) for end in socket.socketpair())
        return client, os.fstat(client.fileno()).st_ino

    def connect(self, pair: Pair, uid: int = UID) -> int:
        """Hand over a connection; return its number, as the worker was told it."""
        client, inode = self.make_client()
        self.pairs.hand_over(pair, client, uid)
        assert client.fileno() == -1
        notice, [descriptor] = self.hear(pair, 1)
        assert os.fstat(descriptor).st_ino == inode
        released, _ = self.hear(pair)
        assert notice == (wire.CONNECTION, notice.connection_id)
        assert released == (wire.RELEASED, notice.connection_id)
        return notice.connection_id

    def say(self, pair: Pair, message: bytes) -> bool:
        """Have the worker say something; return whether the pair lives on."""
        wire.send(self.worker_of(pair), message)
        return self.pairs.receive(pair)

    def say_closed(self, pair: Pair, number: int) -> bool:
        return self.say(pair, wire.Control(wire.CLOSED, number).pack())
