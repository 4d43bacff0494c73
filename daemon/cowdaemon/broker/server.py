# SPDX-License-Identifier: Apache-2.0
"""The broker's event loop: accept, see who it is, hand the connection on, notice every death.

Root, one thread, never waits on anybody: every descriptor is non-blocking, what could hang is a
process of its own, and whatever does not take a message at once is ended.
"""

import logging
import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Final

from cowdaemon import limits, wire
from cowdaemon.broker.audit import Audit
from cowdaemon.broker.pairs import Pair, Pairs
from cowdaemon.broker.peers import Credential, Peer
from cowdaemon.broker.placement import judge_placement, place_by_pidfd, place_by_proc
from cowdaemon.broker.rooms import Rooms
from cowdaemon.broker.zygote import ZygoteLink
from cowdaemon.config import Settings
from cowdaemon.errors import Reason
from cowdaemon.listener import Listener
from cowdaemon.system import manager, namespaces
from cowdaemon.system.journal import Journal
from cowdaemon.system.processes import fork_child
from cowdaemon.system.readiness import Readiness

__all__ = ["Server", "ServerError"]

_log: Final = logging.getLogger(__name__)


class ServerError(Exception):
    """The broker cannot go on; the text says why."""


class Server:
    """All that the broker does after it has started.

    Args:
        listener: where connections come from.
        rooms: where workers make sockets of their own.
        settings: what the configuration says.
        journal: where records of refusals go.
        user: name of the user that zygote and workers become.
        stop_signals: readable when a signal says to stop.
    """

    def __init__(
        self,
        listener: Listener,
        rooms: Rooms,
        settings: Settings,
        journal: Journal,
        user: str,
        stop_signals: socket.socket,
    ) -> None:
        self._listener = listener
        self._settings = settings
        self._user = user
        self._stop_signals = stop_signals
        self._audit = Audit(journal)
        self._pairs = Pairs(rooms, settings, journal)
        self._placing: list[Peer] = []
        self._held: list[socket.socket] = []
        self._can_ask_pidfd = namespaces.can_ask_pidfd()
        self._accept_at: float | None = None
        self._drain_until: float | None = None
        self._idle_since = time.monotonic()
        # By hand, nobody would start it again.
        self._idle_exit_seconds = settings.limits.idle_exit_seconds if listener.is_inherited else 0
        self._readiness = Readiness()
        self._readiness.watch(stop_signals, self._stop)
        self._zygote = self._start_zygote()
        self._watchdog_seconds = manager.read_watchdog_seconds()

    def run(self) -> None:
        """Serve until a stop signal, or until nobody asks; then let calls in flight finish.

        Raises:
            ServerError: the zygote could not be started.
        """
        while self._drain_until is None or self._has_to_drain(self._drain_until):
            self._readiness.wait(self._seconds_to_wait())
            self._look_at_the_clock(time.monotonic())
            if self._watchdog_seconds:
                manager.notify("WATCHDOG=1")
        self._audit.flush(at_once=True)

    def _seconds_to_wait(self) -> float | None:
        if self._is_busy or self._accept_at or self._drain_until or self._audit.dropped:
            return limits.TICK_SECONDS
        return min(filter(None, (self._watchdog_seconds, self._idle_exit_seconds)), default=None)

    @property
    def _is_busy(self) -> bool:
        return bool(self._pairs.by_key or self._placing or self._held or not self._zygote.is_ready)

    def _look_at_the_clock(self, now: float) -> None:
        self._audit.flush()
        for pair in self._pairs.expired(now):
            self._retire(pair)
        held, self._held = self._held, []
        for client in held:
            self._discard(client)
        if self._accept_at and now >= self._accept_at:
            self._listen(self._zygote.is_ready)
        if not self._zygote.is_ready and now > self._zygote_due:
            raise ServerError(f"the zygote did not start in {limits.ZYGOTE_START_SECONDS:g} s")
        if self._is_busy or self._drain_until is not None:
            self._idle_since = now
        elif self._idle_exit_seconds and now - self._idle_since >= self._idle_exit_seconds:
            # Who connects from here on waits in the socket, for the cowd that this starts.
            self._leave(
                f"nobody has asked for {self._idle_exit_seconds} s: leaving until somebody does"
            )

    def _has_to_drain(self, until: float) -> bool:
        """Tell whether a worker still answers, or any child still lives, within the deadline."""
        if not self._pairs.by_key:
            self._close_zygote()
        return len(self._readiness) > 1 and time.monotonic() < until  # than the signals

    def _stop(self) -> None:
        self._stop_signals.recv(64)
        if self._drain_until is not None:
            self._drain_until = 0.0  # a second signal: at once
            return
        self._leave(f"stopping: calls in flight have {limits.DRAIN_SECONDS:g} s")

    def _leave(self, why: str) -> None:
        _log.info("%s", why)
        manager.notify(f"STOPPING=1\nSTATUS={why}")
        self._drain_until = time.monotonic() + limits.STOP_SECONDS
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
            zygote = ZygoteLink(self._user, self._settings.limits)
        except OSError as error:
            raise ServerError(f"the zygote could not be started: {error}") from error
        self._zygote_due = time.monotonic() + limits.ZYGOTE_START_SECONDS
        self._readiness.watch(zygote.control, lambda: self._hear_zygote(zygote))
        self._readiness.watch(zygote.process.pidfd, lambda: self._bury_zygote(zygote))
        return zygote

    def _hear_zygote(self, zygote: ZygoteLink) -> None:
        """It says one thing, that it is ready; its end is seen by its pidfd."""
        self._readiness.forget(zygote.control)
        if zygote.receive_ready():
            self._listen(True)
            manager.notify(f"READY=1\nSTATUS=Listening on {self._listener.path}")
            _log.info("listening on %s", self._listener.path)

    def _bury_zygote(self, zygote: ZygoteLink) -> None:
        """Its workers die with it. Start another: the next connections wait for it."""
        self._readiness.forget(zygote.process.pidfd)
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
        self._readiness.forget(self._zygote.control)
        self._zygote.close()

    # Connections

    def _listen(self, wanted: bool) -> None:
        self._accept_at = None
        self._readiness.forget(self._listener.listening)
        if wanted and self._drain_until is None:
            self._readiness.watch(self._listener.listening, self._accept)

    def _accept(self) -> None:
        for _ in range(limits.ACCEPTS_PER_WAKEUP):
            try:
                client = self._listener.accept()
            except OSError as error:  # no descriptors or memory: some will be given back
                _log.error("cannot accept: %s", error)
                self._listen(False)
                self._accept_at = time.monotonic() + limits.ACCEPT_PAUSE_SECONDS
                return
            if client is None:
                return
            self._serve_or_drop(client, partial(self._admit, client))

    def _serve_or_drop(self, client: socket.socket, serve: Callable[[], None]) -> None:
        try:
            serve()
        except OSError as error:
            _log.error("a connection was dropped: %s", error)
            self._discard(client)

    def _admit(self, client: socket.socket) -> None:
        """See who it is, cheapest first, and hand the connection on, or drop it.

        Raises:
            OSError: no descriptors, memory or processes; the connection is still open.
        """
        peer, most = Peer(client), self._settings.limits
        placing = [other.uid for other in self._placing]
        served = self._pairs.count_connections(peer.uid, refused=False)
        if sum(len(pair.connections) for pair in self._pairs) + len(placing) >= most.connections:
            self._note_refusal(peer, Reason.TOO_MANY_CONNECTIONS)
            self._discard(client)
        elif served + placing.count(peer.uid) >= most.connections_per_uid:
            self._refuse(peer, Reason.TOO_MANY_CONNECTIONS)
        elif not peer.hold_process():
            self._refuse(peer, Reason.CALLER_GONE)
        elif self._can_ask_pidfd:
            self._finish_placement(peer, place_by_pidfd(peer.pidfd))
        else:
            self._place_in_child(peer)

    def _place_in_child(self, peer: Peer) -> None:
        place = partial(place_by_proc, peer.pid, peer.uid, peer.pidfd, os.getpid())
        try:
            child = fork_child("cowd-placement", place, keep=[peer.pidfd])
        except OSError:
            peer.release_process()
            raise
        self._placing.append(peer)

        def finish() -> None:
            self._readiness.forget(child.pidfd)
            self._placing.remove(peer)
            self._serve_or_drop(
                peer.client, lambda: self._finish_placement(peer, judge_placement(child.reap()))
            )

        self._readiness.watch(child.pidfd, finish)

    def _finish_placement(self, peer: Peer, refusal: Reason | None) -> None:
        """Hand the connection on to the worker of its credential, or of its refusal.

        Raises:
            OSError: no descriptors or memory; the connection is still open.
        """
        key: Credential | Reason
        try:
            key = refusal or self._judge(peer.read_credential())
        except (ProcessLookupError, FileNotFoundError):
            key = Reason.CALLER_GONE
        finally:
            peer.release_process()
        if isinstance(key, Reason):
            self._refuse(peer, key)
        else:
            self._hand_over(peer, key)

    def _judge(self, credential: Credential) -> Credential | Reason:
        """Return the credential once a worker for it fits, or why cowd does not serve it."""
        if not self._settings.may_connect(credential.uid, credential.gids):
            return Reason.CALLER_NOT_ALLOWED
        if credential in self._pairs.by_key:
            return credential
        while crowd := self._pairs.crowd(credential):
            idle = [pair for pair in crowd if not pair.connections]
            if not idle:
                return Reason.TOO_MANY_CREDENTIALS
            self._retire(min(idle, key=lambda pair: pair.idle_since))
        return credential

    def _note_refusal(self, peer: Peer, reason: Reason) -> None:
        self._audit.record(peer, "refused", reason.name)
        self._pairs.statistics.count_refusal(reason)

    def _refuse(self, peer: Peer, reason: Reason) -> None:
        self._note_refusal(peer, reason)
        refused = self._pairs.count_connections(peer.uid, refused=True)
        if refused >= limits.REFUSED_CONNECTIONS_PER_UID:
            self._discard(peer.client)
        else:
            self._hand_over(peer, reason)

    def _hand_over(self, peer: Peer, key: Credential | Reason) -> None:
        """Give the connection to the worker for `key`, or drop it."""
        pair = self._pairs.by_key.get(key)
        is_full = pair and pair.refuses and len(pair.connections) >= limits.REFUSED_PER_REASON
        if is_full or not self._is_serving:  # it stopped during a placement: the client tries again
            self._discard(peer.client)
            return
        try:
            self._give(key, peer.client, peer.uid)
        except OSError as error:
            _log.error("no worker for uid %d: %s", peer.uid, error)
            self._discard(peer.client)

    def _discard(self, client: socket.socket) -> None:
        """Close a connection without a word, and without waiting for what was sent along."""
        if not self._listener.can_be_held_up:
            client.close()
        for _ in range(2):  # once more with a fresh worker, if the first is held up itself
            if client.fileno() >= 0 and self._is_serving:
                with suppress(OSError):
                    self._give(Reason.TOO_MANY_CONNECTIONS, client, None)
        if client.fileno() >= 0:
            self._held.append(client)  # until there is a worker for it, or to the process's end

    @property
    def _is_serving(self) -> bool:
        return self._zygote.is_ready and self._drain_until is None

    # Pairs

    def _give(self, key: Credential | Reason, client: socket.socket, uid: int | None) -> None:
        """Hand a connection to the pair of `key`, made if need be; see Pairs.hand_over().

        Raises:
            OSError: that did not work, and the pair is retired.
        """
        pair = self._pairs.by_key.get(key) or self._start_pair(key)
        try:
            self._pairs.hand_over(pair, client, uid)
        except OSError:
            self._retire(pair)
            raise

    def _start_pair(self, key: Credential | Reason) -> Pair:
        pair = self._pairs.start(key, self._zygote)
        self._readiness.watch(pair.control, lambda: self._hear_worker(pair))
        self._watch_opener(pair)
        return pair

    def _watch_opener(self, pair: Pair) -> None:
        if pair.opener:
            self._readiness.watch(pair.opener.pidfd, lambda: self._bury_opener(pair))

    def _hear_worker(self, pair: Pair) -> None:
        if not self._pairs.receive(pair):
            self._retire(pair)

    def _bury_opener(self, pair: Pair) -> None:
        assert pair.opener  # noqa: S101 - for the type checker: it is what was watched
        self._readiness.forget(pair.opener.pidfd)
        if self._pairs.by_key.get(pair.key) is not pair:
            pair.opener.reap()
        else:
            if not self._pairs.replace_opener(pair):
                self._retire(pair)
            self._watch_opener(pair)

    def _retire(self, pair: Pair) -> None:
        self._zygote.kill(pair.worker_id)
        self._remove(pair)

    def _remove(self, pair: Pair) -> None:
        if self._pairs.by_key.get(pair.key) is pair:
            self._readiness.forget(pair.control)
            self._pairs.remove(pair)
