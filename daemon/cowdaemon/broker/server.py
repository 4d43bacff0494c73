# SPDX-License-Identifier: Apache-2.0
"""The broker's event loop: accept, see who it is, hand the connection on, notice every death.

Root, one thread, never waits on anybody: every descriptor is non-blocking, what could hang is a
process of its own, and whatever does not take a message at once is ended.
"""

import logging
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from systemd import daemon as systemd_daemon

from cowdaemon import wire
from cowdaemon.broker.listener import Listener
from cowdaemon.broker.namespaces import PlacementChild, can_place_by_pidfd, place_by_pidfd
from cowdaemon.broker.pairs import Pair, Pairs
from cowdaemon.broker.peers import (
    Credential,
    open_peer,
    read_capabilities,
    read_groups,
    read_peer_ids,
)
from cowdaemon.broker.privileges import Capability
from cowdaemon.broker.rooms import Rooms
from cowdaemon.broker.zygote import ZygoteLink
from cowdaemon.errors import Reason
from cowdaemon.limits import (
    ACCEPT_PAUSE_SECONDS,
    ACCEPTS_PER_WAKEUP,
    CONNECTIONS,
    CONNECTIONS_PER_UID,
    CONNECTIONS_PER_WORKER,
    DRAIN_SECONDS,
    REFUSED_CONNECTIONS_PER_UID,
    ZYGOTE_START_SECONDS,
)

__all__ = ["Server", "ServerError"]

_log: Final = logging.getLogger(__name__)

_NEVER: Final = float("inf")
_STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class ServerError(Exception):
    """The broker cannot go on; the text says why."""


@dataclass(frozen=True, slots=True)
class _Arrival:
    """An accepted connection whose peer is not yet placed."""

    client: socket.socket
    pid: int
    uid: int
    gid: int
    pidfd: int


class Server:
    """All that the broker does after it has started.

    Args:
        listener: where connections come from.
        rooms: where workers make sockets of their own.
        kpageflags: descriptor for the zygote and its workers.
        user: name of the user that these become.
    """

    def __init__(self, listener: Listener, rooms: Rooms, kpageflags: int, user: str) -> None:
        self._listener = listener
        self._kpageflags = kpageflags
        self._user = user
        self._selector = selectors.DefaultSelector()
        self._catch_stop_signals()
        self._pairs = Pairs(rooms)
        self._placing_uids: list[int] = []
        self._held: list[socket.socket] = []
        self._places_by_pidfd = can_place_by_pidfd()
        self._drain_until: float | None = None
        self._accept_at = _NEVER
        self._zygote = self._start_zygote()
        watchdog_usec = int(os.environ.get("WATCHDOG_USEC", "0"))
        self._watchdog_seconds = watchdog_usec / 2e6 if watchdog_usec else _NEVER

    def run(self) -> None:
        """Serve until a stop signal, then let calls in flight finish.

        Raises:
            ServerError: the zygote could not be started.
        """
        while self._drain_until is None or self._has_to_drain():
            for key, _ in self._selector.select(self._seconds_to_next_deadline()):
                handle: Callable[[], None] = key.data
                handle()
            now = time.monotonic()
            for pair in self._pairs.expired(now):
                self._retire(pair)
            if now >= self._accept_at:
                self._listen(self._zygote.is_ready)
            if not self._zygote.is_ready and now > self._zygote_due:
                raise ServerError(f"the zygote did not start in {ZYGOTE_START_SECONDS:g} s")
            if self._watchdog_seconds != _NEVER:
                _notify("WATCHDOG=1")

    def _has_to_drain(self) -> bool:
        """Tell whether a worker still answers, or any child still lives, within the deadline."""
        if not self._pairs:
            self._close_zygote()
        only_wakeup = len(self._selector.get_map()) == 1
        return not only_wakeup and time.monotonic() < (self._drain_until or 0)

    def _watch(self, descriptor: Any, handle: Callable[[], None]) -> None:  # noqa: ANN401
        self._selector.register(descriptor, selectors.EVENT_READ, handle)

    def _seconds_to_next_deadline(self) -> float | None:
        deadlines = [self._pairs.expires_at(pair) for pair in self._pairs]
        deadlines.append(self._accept_at)
        if self._drain_until is not None:
            deadlines.append(self._drain_until)
        if not self._zygote.is_ready:
            deadlines.append(self._zygote_due)
        next_deadline = min(deadlines, default=_NEVER) - time.monotonic()
        seconds = max(0.0, min(next_deadline, self._watchdog_seconds))
        return None if seconds == _NEVER else seconds

    # Signals

    def _catch_stop_signals(self) -> None:
        self._wakeup, writer = socket.socketpair()
        self._wakeup.setblocking(False)
        writer.setblocking(False)
        self._wakeup_writer = writer
        signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        for number in _STOP_SIGNALS:
            signal.signal(number, lambda *_: None)
        self._watch(self._wakeup, self._stop)

    def _stop(self) -> None:
        self._wakeup.recv(64)
        if self._drain_until is not None:
            self._drain_until = 0.0  # a second signal: at once
            return
        _log.info("stopping: calls in flight have %g s", DRAIN_SECONDS)
        _notify("STOPPING=1")
        self._drain_until = time.monotonic() + DRAIN_SECONDS
        self._listen(False)
        self._listener.remove_file()
        for pair in self._pairs:
            try:
                wire.send(pair.control, wire.Control(wire.DRAIN).pack())
            except OSError:
                self._retire(pair)

    # The zygote

    def _start_zygote(self) -> ZygoteLink:
        try:
            zygote = ZygoteLink(self._user, self._kpageflags)
        except OSError as error:
            raise ServerError(f"the zygote could not be started: {error}") from error
        self._zygote_due = time.monotonic() + ZYGOTE_START_SECONDS
        self._watch(zygote.control, lambda: self._hear_zygote(zygote))
        self._watch(zygote.process.pidfd, lambda: self._bury_zygote(zygote))
        return zygote

    def _hear_zygote(self, zygote: ZygoteLink) -> None:
        """It says one thing, that it is ready; whatever comes after is its end."""
        if zygote.control.fileno() < 0:
            return  # buried in this round
        self._selector.unregister(zygote.control)
        if zygote.receive_ready():
            self._listen(True)
            _notify(f"READY=1\nSTATUS=Listening on {self._listener.path}")
            _log.info("listening on %s", self._listener.path)

    def _bury_zygote(self, zygote: ZygoteLink) -> None:
        """Its workers die with it. Start another: the next connections wait for it."""
        self._selector.unregister(zygote.process.pidfd)
        self._close_zygote()
        status = zygote.process.reap()
        for pair in self._pairs:
            self._remove(pair)
        if self._drain_until is not None:
            return
        if not zygote.is_ready:
            raise ServerError("the zygote did not start: what it wrote above says why")
        _log.error("the zygote ended with status %d and is replaced", status)
        self._listen(False)
        self._zygote = self._start_zygote()

    def _close_zygote(self) -> None:
        """Let it end, and what is left of its workers with it."""
        if self._zygote.control.fileno() < 0:
            return  # it has been told
        if self._zygote.control in self._selector.get_map():
            self._selector.unregister(self._zygote.control)
        self._zygote.close()

    def _listen(self, wanted: bool) -> None:
        self._accept_at = _NEVER
        listening = self._listener.listening
        is_watched = listening in self._selector.get_map()
        if wanted and not is_watched and self._drain_until is None:
            self._watch(listening, self._accept)
        elif not wanted and is_watched:
            self._selector.unregister(listening)

    # Connections

    def _accept(self) -> None:
        for _ in range(ACCEPTS_PER_WAKEUP):
            try:
                client = self._listener.accept()
            except OSError as error:  # no descriptors or memory: some will be given back
                _log.error("cannot accept: %s", error)
                self._listen(False)
                self._accept_at = time.monotonic() + ACCEPT_PAUSE_SECONDS
                return
            if client is None:
                return
            try:
                self._admit(client)
            except OSError as error:
                _log.error("a connection was dropped: %s", error)
                self._discard(client)

    def _admit(self, client: socket.socket) -> None:
        """See who it is, cheapest first, and hand the connection on, or drop it.

        Raises:
            OSError: no descriptors, memory or processes; the connection is still open.
        """
        pid, uid, gid = read_peer_ids(client)
        of_uid = self._pairs.connections_by_uid[uid] + self._placing_uids.count(uid)
        total = self._pairs.connections_by_uid.total() + len(self._placing_uids)
        if of_uid >= CONNECTIONS_PER_UID + REFUSED_CONNECTIONS_PER_UID or total >= CONNECTIONS:
            self._discard(client)
            return
        if of_uid >= CONNECTIONS_PER_UID:
            self._hand_over(client, uid, Reason.TOO_MANY_CONNECTIONS)
            return
        try:
            pidfd = open_peer(client, pid)
        except ProcessLookupError:
            self._hand_over(client, uid, Reason.CALLER_GONE)
            return
        arrival = _Arrival(client, pid, uid, gid, pidfd)
        try:
            if self._places_by_pidfd:
                self._finish_placement(arrival, place_by_pidfd(pidfd))
            else:
                self._place_in_child(arrival)
        except OSError:
            os.close(pidfd)
            raise

    def _place_in_child(self, arrival: _Arrival) -> None:
        placement = PlacementChild(arrival.pid, arrival.uid, arrival.pidfd)
        self._placing_uids.append(arrival.uid)

        def finish() -> None:
            self._selector.unregister(placement.child.pidfd)
            self._placing_uids.remove(arrival.uid)
            try:
                self._finish_placement(arrival, placement.finish())
            except OSError as error:
                _log.error("a connection was dropped: %s", error)
                os.close(arrival.pidfd)
                self._discard(arrival.client)

        self._watch(placement.child.pidfd, finish)

    def _finish_placement(self, arrival: _Arrival, refusal: Reason | None) -> None:
        """Hand the connection on to the worker of its credential, or of its refusal.

        Raises:
            OSError: no descriptors or memory; connection and pidfd are still open.
        """
        key: Credential | Reason
        client, uid = arrival.client, arrival.uid
        try:
            if refusal:
                key = refusal
            else:
                # Of another uid they would be those of what it executes, not of who connected.
                capabilities = (
                    read_capabilities(arrival.pid, arrival.pidfd) if uid == 0 else Capability(0)
                )
                key = Credential(uid, arrival.gid, read_groups(client), capabilities)
        except (ProcessLookupError, FileNotFoundError):
            key = Reason.CALLER_GONE
        os.close(arrival.pidfd)
        self._hand_over(client, uid, key)

    def _hand_over(self, client: socket.socket, uid: int, key: Credential | Reason) -> None:
        """Give the connection to the worker for `key`, or drop it."""
        if not self._zygote.is_ready or self._drain_until is not None:
            self._discard(client)  # a placement that finished meanwhile: the client tries again
            return
        if isinstance(key, Credential) and not self._pairs.find(key):
            key = self._make_room(key)
        pair = self._pairs.find(key)
        if pair and len(pair.connections) >= CONNECTIONS_PER_WORKER:
            self._discard(client)
            return
        try:
            pair = pair or self._start_pair(key)
            self._pairs.hand_over(pair, client, uid)
        except OSError as error:
            _log.error("no worker for uid %d: %s", uid, error)
            if pair:
                self._retire(pair)
            self._discard(client)

    def _discard(self, client: socket.socket) -> None:
        """Close a connection without a word, and without waiting for what was sent along."""
        if self._listener.can_be_held_up and self._drain_until is not None:
            self._held.append(client)  # to the end of the process, which no close holds up
            return
        if self._listener.can_be_held_up and self._zygote.is_ready:
            for _ in range(2):  # once more with a fresh worker, if this one is held up itself
                if client.fileno() < 0:
                    return
                pair = self._pairs.find(Reason.TOO_MANY_CONNECTIONS)
                try:
                    pair = pair or self._start_pair(Reason.TOO_MANY_CONNECTIONS)
                    self._pairs.discard(pair, client)
                except OSError:
                    if pair:
                        self._retire(pair)
                else:
                    return
        client.close()

    def _make_room(self, credential: Credential) -> Credential | Reason:
        """Return the credential once a worker for it fits, after ending an idle one if need be."""
        while (idle := self._pairs.find_idle(credential)) is not None:
            self._retire(idle)
        return credential if self._pairs.has_room(credential) else Reason.TOO_MANY_CREDENTIALS

    # Pairs

    def _start_pair(self, key: Credential | Reason) -> Pair:
        pair = self._pairs.start(key, self._zygote)
        try:
            self._watch(pair.control, lambda: self._hear_worker(pair))
            self._watch_opener(pair)
        except OSError:
            self._retire(pair)
            raise
        return pair

    def _watch_opener(self, pair: Pair) -> None:
        if pair.opener:
            self._watch(pair.opener.pidfd, lambda: self._bury_opener(pair))

    def _hear_worker(self, pair: Pair) -> None:
        if not self._pairs.receive(pair):
            self._retire(pair)

    def _bury_opener(self, pair: Pair) -> None:
        assert pair.opener  # noqa: S101 - for the type checker: it is what was watched
        self._selector.unregister(pair.opener.pidfd)
        if self._pairs.find(pair.key) is not pair:
            pair.opener.reap()
        elif self._pairs.replace_opener(pair):
            self._watch_opener(pair)
        else:
            self._retire(pair)

    def _retire(self, pair: Pair) -> None:
        self._zygote.kill(pair.worker_id)
        self._remove(pair)

    def _remove(self, pair: Pair) -> None:
        if self._pairs.find(pair.key) is pair:
            if pair.control in self._selector.get_map():
                self._selector.unregister(pair.control)
            self._pairs.remove(pair)


def _notify(state: str) -> None:
    """Tell the service manager, if there is one; one that is away just now is no reason to end."""
    try:
        systemd_daemon.notify(state)
    except OSError as error:
        _log.warning("the service manager cannot be told %r: %s", state, error)
