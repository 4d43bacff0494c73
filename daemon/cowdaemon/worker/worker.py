# SPDX-License-Identifier: Apache-2.0
"""The process that serves one credential: takes its connections from the broker, and answers.

Unprivileged, forked from the zygote. The control socket is the identity: whatever comes through it
belongs to the one credential that the worker was made for. Ends when the broker closes that socket.
"""

import logging
import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, NoReturn, Protocol

import grpc

from cowdaemon import wire
from cowdaemon.limits import (
    CONNECTION_IDLE_SECONDS,
    DRAIN_SECONDS,
    FLUSH_SECONDS,
    METADATA_BYTES,
    READING_SECONDS,
    REQUEST_BYTES,
    STREAMS_PER_CONNECTION,
    TARGET_KEPT_SECONDS,
    THREAD_STACK_BYTES,
    WORK_SECONDS,
)
from cowdaemon.worker.inner_listener import InnerListener
from cowdaemon.worker.privileges import Confinement
from cowdaemon.worker.relay import Relay

__all__ = ["Service", "run_worker"]

_log: Final = logging.getLogger(__name__)

_SERVER_OPTIONS: Final = (
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", REQUEST_BYTES),
    ("grpc.max_metadata_size", METADATA_BYTES),
    ("grpc.max_concurrent_streams", STREAMS_PER_CONNECTION),
    ("grpc.max_connection_idle_ms", CONNECTION_IDLE_SECONDS * 1000),
    ("grpc.http2.max_ping_strikes", 2),
)


class Service(Protocol):
    """What a worker answers with."""

    def make_handler(self) -> grpc.GenericRpcHandler:
        """Return the handler of all its calls."""

    def adopt_opener(self, opener: socket.socket) -> None:
        """Use this opener from now on: the one before is gone."""

    def take_statistics(self, statistics: wire.Statistics) -> None:
        """Pass on what the broker has answered."""

    def drop_expired(self) -> None:
        """Let go of what is kept for a while only."""

    def longest_work_seconds(self) -> float:
        """Return how long a call has stood still."""

    def await_idle(self, work_seconds: float, reading_seconds: float) -> None:
        """Return when all calls have been answered and their answers read, or after so long."""


def run_worker(
    control: socket.socket,
    room: int,
    service: Service,
    confinement: Confinement,
    calls_per_worker: int,
) -> None:
    """Serve connections that come through `control` until it closes; return to end the process.

    Args:
        control: to the broker.
        room: descriptor of the directory that is this worker's alone.
        service: what answers.
        confinement: what closes this process in.
        calls_per_worker: how many calls it works on at once.
    """
    confinement.confine_start(room)
    threading.stack_size(THREAD_STACK_BYTES)
    calls = ThreadPoolExecutor(calls_per_worker, "call")
    server = grpc.server(calls, [service.make_handler()], options=_SERVER_OPTIONS)
    inner = InnerListener(room, server.add_insecure_port)
    server.start()
    confinement.confine_worker()
    connections = _Connections(control, inner)
    arrived: dict[int, socket.socket] = {}  # not to be let go of before the broker has
    control.settimeout(TARGET_KEPT_SECONDS)
    while True:
        service.drop_expired()
        if service.longest_work_seconds() > WORK_SECONDS:
            _log.error("a call stands still in its target: the worker ends, others take its place")
            return
        try:
            message, descriptors = wire.receive(control, 1, wire.STATISTICS_BYTES)
        except TimeoutError:
            continue
        if not message:
            return
        received = [socket.socket(fileno=descriptor) for descriptor in descriptors]
        match wire.unpack_broker_message(message), received:
            case wire.Control(wire.CONNECTION, connection_id), [client]:
                arrived[connection_id] = client
            case wire.Control(wire.RELEASED, connection_id), []:
                connections.add(connection_id, arrived.pop(connection_id))
            case wire.Control(wire.DISCARDED, connection_id), []:
                arrived.pop(connection_id).close()
            case wire.Control(wire.OPENER), [opener]:
                service.adopt_opener(opener)
            case wire.Statistics() as statistics, []:
                service.take_statistics(statistics)
            case wire.Control(wire.DRAIN), []:
                # Aside, because a call in flight may still need another opener.
                drain = partial(_drain, server, service, connections)
                threading.Thread(target=drain, name="drain", daemon=True).start()
            case _:
                raise wire.WireError("the broker sent what no worker takes")


def _drain(server: grpc.Server, service: Service, connections: "_Connections") -> NoReturn:
    """Answer the calls in flight, and those that come until there are none, and end the process.

    gRPC's own way, to stop the server first, fails the next call of every client that does not look
    at its connection between two calls, with CANCELLED, which nobody takes for "ask again".
    """
    service.await_idle(DRAIN_SECONDS, READING_SECONDS)
    # Who still has to take an answer out of the sockets between writes while it reads (HTTP/2's
    # WINDOW_UPDATE), and gives up when it cannot.
    time.sleep(FLUSH_SECONDS)
    connections.close_to_clients()
    time.sleep(FLUSH_SECONDS)  # what they had sent by then becomes calls
    service.await_idle(READING_SECONDS, FLUSH_SECONDS)
    # grpcio 1.51 waits for idle clients to leave until the grace is over: so a short one.
    server.stop(FLUSH_SECONDS).wait()
    connections.finish()
    os._exit(0)


class _Connections:
    """The connections being relayed; the broker is told of each that ends."""

    def __init__(self, control: socket.socket, inner: InnerListener) -> None:
        self._control = control
        self._inner = inner
        self._ids: dict[Relay, int] = {}
        self._changed = threading.Condition()
        self._are_closed = False

    def add(self, connection_id: int, client: socket.socket) -> None:
        with self._changed:
            if self._are_closed:
                client.close()
            else:
                self._ids[Relay(client, self._inner.connect(), self._end)] = connection_id

    def close_to_clients(self) -> None:
        """Take nothing more from them: what they write next fails, and they connect again."""
        with self._changed:
            self._are_closed = True
            for relay in self._ids:
                relay.close_to_client()

    def finish(self) -> None:
        """Carry what has been answered to those who read it, and end."""
        with self._changed:
            for relay in self._ids:
                relay.finish()
            self._changed.wait_for(lambda: not self._ids, READING_SECONDS)

    def _end(self, relay: Relay) -> None:
        with self._changed:
            connection_id = self._ids.pop(relay)
            self._changed.notify_all()
        try:
            wire.send(self._control, wire.Control(wire.CLOSED, connection_id).pack())
        except OSError:
            os._exit(0)  # the broker is gone, or takes no more from us: this is the end
