# SPDX-License-Identifier: Apache-2.0
"""The relay carries every byte, passes on every end, and holds no more than a buffer."""

import os
import socket
import struct
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from cowdaemon.limits import RELAY_BUFFER_BYTES
from cowdaemon.worker import worker
from cowdaemon.worker.relay import Relay

SECONDS = 10.0
"""For whatever has to happen; it takes milliseconds."""
STUCK_SECONDS = 0.2
"""A writer that gets rid of nothing for so long is taken to be stopped."""
FLOOD_BYTES = 16 << 20
PART = bytes(64 << 10)

pytestmark = pytest.mark.usefixtures("nothing_is_left")


class Relayed:
    """A relay between a client's socket and a server's, whose far ends are here."""

    def __init__(
        self,
        client: tuple[socket.socket, socket.socket],
        server: tuple[socket.socket, socket.socket],
    ) -> None:
        (self.client, to_client), (self.server, to_server) = client, server
        self.inner = (to_client, to_server)
        self.client.settimeout(SECONDS)
        self.server.settimeout(SECONDS)
        self.ends: list[tuple[Relay, list[int]]] = []
        self.ended = threading.Event()
        self.relay = Relay(to_client, to_server, self._note_end)

    def _note_end(self, relay: Relay) -> None:
        self.ends.append((relay, [end.fileno() for end in self.inner]))
        self.ended.set()

    def verify_ended(self) -> None:
        """It said once that it has ended, and both its sockets were closed then."""
        assert self.ended.wait(SECONDS)
        assert self.ends == [(self.relay, [-1, -1])]


@pytest.fixture
def relayed() -> Iterator[Relayed]:
    relayed = Relayed(socket.socketpair(), socket.socketpair())
    with relayed.client, relayed.server:
        yield relayed
    relayed.verify_ended()


def receive_all(end: socket.socket) -> bytes:
    return b"".join(iter(lambda: end.recv(1 << 20), b""))


def test_bytes_arrive_both_ways_at_once(relayed: Relayed) -> None:
    request, reply = os.urandom(3_000_001), os.urandom(2_000_003)

    def speak(end: socket.socket, said: bytes) -> None:
        end.sendall(said)
        end.shutdown(socket.SHUT_WR)

    with ThreadPoolExecutor(3) as threads:
        threads.submit(speak, relayed.client, request)
        threads.submit(speak, relayed.server, reply)
        heard = threads.submit(receive_all, relayed.server)
        assert receive_all(relayed.client) == reply
        assert heard.result() == request
    assert relayed.ended.wait(SECONDS)


def test_single_bytes_are_not_held_back(relayed: Relayed) -> None:
    for number in range(10):
        for source, sink in (relayed.client, relayed.server), (relayed.server, relayed.client):
            source.sendall(bytes([number]))
            assert sink.recv(16) == bytes([number])


@pytest.mark.parametrize("first", ["client", "server"])
def test_half_closed_connection_still_carries_the_other_way(relayed: Relayed, first: str) -> None:
    """What an end said before it closed arrives, and so does the answer to it."""
    ends = [relayed.client, relayed.server]
    done, other = ends if first == "client" else ends[::-1]
    done.sendall(b"question")
    done.shutdown(socket.SHUT_WR)
    assert receive_all(other) == b"question"
    assert not relayed.ended.is_set()
    other.sendall(b"answer")
    assert done.recv(16) == b"answer"
    other.shutdown(socket.SHUT_WR)
    assert receive_all(done) == b""
    assert relayed.ended.wait(SECONDS)


@pytest.mark.parametrize("first", ["client", "server"])
def test_end_that_goes_away_ends_the_other(relayed: Relayed, first: str) -> None:
    """Closed with bytes unread, a Unix socket resets its peer: neither direction can go on."""
    ends = [relayed.client, relayed.server]
    gone, other = ends if first == "client" else ends[::-1]
    other.sendall(b"unread")
    assert gone.recv(1, socket.MSG_PEEK)
    gone.close()
    try:
        other.sendall(PART)  # finds a closed door here, or behind the relay
        assert other.recv(1) == b""
        assert relayed.ended.wait(SECONDS)
    except (BrokenPipeError, ConnectionResetError):
        assert relayed.ended.wait(SECONDS)


def test_reset_by_tcp_ends_both() -> None:
    """A reset that arrives while the relay waits to read, as the kernel reports it."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        client = socket.create_connection(listening.getsockname())
        relayed = Relayed((client, listening.accept()[0]), socket.socketpair())
    with relayed.client, relayed.server:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        assert relayed.server.recv(1) == b""
        relayed.verify_ended()


def test_finish_carries_what_was_sent_and_no_more(relayed: Relayed) -> None:
    """Neither end has closed, and neither is waited for; what was answered is still read."""
    accepted = flood(relayed.server)
    relayed.relay.finish()
    assert len(receive_all(relayed.client)) == accepted
    assert relayed.server.recv(1) == b""
    relayed.verify_ended()
    with pytest.raises(BrokenPipeError):
        relayed.client.send(b"more")


def test_closed_to_its_client_it_carries_what_was_sent_and_every_answer(relayed: Relayed) -> None:
    """The server is not told: to it, a client that has gone wants no answer any more."""
    relayed.client.sendall(b"request")
    relayed.relay.close_to_client()
    with pytest.raises(BrokenPipeError):
        relayed.client.send(b"more")
    assert relayed.server.recv(100) == b"request"
    relayed.server.setblocking(False)
    with pytest.raises(BlockingIOError):
        relayed.server.recv(1)
    relayed.server.settimeout(SECONDS)
    relayed.server.sendall(b"answer")
    assert relayed.client.recv(100) == b"answer"
    relayed.relay.finish()
    assert relayed.client.recv(1) == b""
    relayed.verify_ended()


def test_connection_that_comes_after_closing_to_clients_is_closed() -> None:
    """It would be relayed to a server that is about to stop, and wait there."""
    connections = worker._Connections(None, None)  # type: ignore[arg-type]
    connections.close_to_clients()
    ours, theirs = socket.socketpair()
    with ours:
        connections.add(1, theirs)
        assert ours.recv(1) == b""


def test_finish_of_a_relay_that_has_ended_is_nothing(relayed: Relayed) -> None:
    relayed.client.close()
    relayed.server.close()
    relayed.verify_ended()
    relayed.relay.finish()


def flood(source: socket.socket) -> int:
    """Write until nothing goes any more; return how many bytes went."""
    source.settimeout(STUCK_SECONDS)
    went = 0
    try:
        while went < FLOOD_BYTES:
            went += source.send(PART)
    except TimeoutError:
        pass
    return went


@pytest.mark.parametrize("writer", ["client", "server"])
def test_sink_that_does_not_read_stops_its_source(relayed: Relayed, writer: str) -> None:
    """Between them are two sockets' buffers and one of the relay's; and not a byte is lost."""
    ends, inner = [relayed.client, relayed.server], list(relayed.inner)
    source, sink = ends if writer == "client" else ends[::-1]
    onward = inner[1] if writer == "client" else inner[0]
    sockets = sum(end.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) for end in (source, onward))
    accepted = flood(source)
    assert accepted <= sockets + RELAY_BUFFER_BYTES

    # The other direction is not held up by it.
    sink.sendall(b"still here")
    assert source.recv(16) == b"still here"

    source.shutdown(socket.SHUT_WR)
    assert len(receive_all(sink)) == accepted


def test_writer_that_is_stuck_does_not_keep_a_relay_whose_server_has_gone(
    relayed: Relayed,
) -> None:
    """A client that reads nothing and goes on writing: the server's end is noticed by that."""
    assert flood(relayed.server)
    relayed.server.close()
    relayed.client.sendall(b"more")
    relayed.verify_ended()


def test_threads_of_a_stuck_relay_end_with_its_ends(relayed: Relayed) -> None:
    assert flood(relayed.client)
    relayed.server.close()
    relayed.client.close()
    assert relayed.ended.wait(SECONDS)
