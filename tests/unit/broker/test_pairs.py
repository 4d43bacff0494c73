# SPDX-License-Identifier: Apache-2.0
"""What pairs hand over and count, and what ends them: against workers that the test plays."""

import os
import socket
from pathlib import Path

import pytest
from cowdaemon import wire
from cowdaemon.broker.peers import Credential
from cowdaemon.system.privileges import Capability
from cowdaemon.errors import Reason
from unit.broker.pairing import UID, Pairing, credential

pytestmark = [
    pytest.mark.usefixtures("nothing_is_left"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: openers take on ids")


def test_pair_is_found_by_its_credential_and_by_nothing_less(pairing: Pairing) -> None:
    pair = pairing.start(credential())
    assert pairing.pairs.find(credential()) is pair
    for other in (
        Credential(UID + 1, 100, (4, 5), Capability(0)),
        Credential(UID, 101, (4, 5), Capability(0)),
        Credential(UID, 100, (4,), Capability(0)),
        Credential(UID, 100, (4, 5), Capability.SYS_PTRACE),
        Reason.CALLER_GONE,
    ):
        assert pairing.pairs.find(other) is None
    assert list(pairing.pairs) == [pair]
    assert len(pairing.pairs) == 1


def test_worker_is_told_whom_it_serves(pairing: Pairing) -> None:
    serving, refusing = pairing.start(credential()), pairing.start(Reason.CALLER_GONE)
    assert pairing.zygote.requests == [
        wire.SpawnRequest(serving.worker_id, 0, UID, 100, groups=(4, 5)),
        wire.SpawnRequest(refusing.worker_id, Reason.CALLER_GONE.number),
    ]
    assert serving.worker_id != refusing.worker_id
    assert refusing.opener is None
    assert list(pairing.zygote.openers) == [serving.worker_id]


def test_worker_has_a_room_of_its_own_until_its_pair_ends(pairing: Pairing) -> None:
    pairs = [pairing.start(credential()), pairing.start(Reason.CALLER_GONE)]
    rooms = [
        Path(os.readlink(f"/proc/self/fd/{pairing.zygote.handed[pair.worker_id][1]}"))
        for pair in pairs
    ]
    assert len(set(rooms)) == 2
    for pair, room in zip(pairs, rooms, strict=True):
        assert room.is_dir()
        pairing.pairs.remove(pair)
        assert not room.exists()


def test_connections_are_counted_by_uid_until_the_worker_says_that_they_closed(
    pairing: Pairing,
) -> None:
    """Those that are refused count for the uid that made them."""
    counted = pairing.pairs.connections_by_uid
    serving, refusing = pairing.start(credential()), pairing.start(Reason.CALLER_GONE)
    numbers = [pairing.connect(serving), pairing.connect(serving)]
    refused = pairing.connect(refusing)
    other = pairing.connect(refusing, uid=7)
    assert len({*numbers, refused, other}) == 4
    assert counted == {UID: 3, 7: 1}
    assert counted.total() == 4
    assert pairing.say_closed(serving, numbers[0])
    assert pairing.say_closed(refusing, refused)
    assert counted == {UID: 1, 7: 1}
    assert pairing.say_closed(serving, numbers[1])
    assert pairing.say_closed(refusing, other)
    assert dict(counted) == {}  # nothing is remembered of who has gone


def test_connections_of_a_pair_that_ends_are_counted_no_more(pairing: Pairing) -> None:
    pair, other = pairing.start(credential()), pairing.start(Reason.CALLER_GONE)
    pairing.connect(pair)
    pairing.connect(pair, uid=7)
    pairing.connect(other)
    pairing.pairs.remove(pair)
    assert dict(pairing.pairs.connections_by_uid) == {UID: 1}
    assert pairing.pairs.find(credential()) is None
    assert wire.receive(pairing.worker_of(pair)) == (b"", [])


def test_worker_that_says_nothing_lives_on(pairing: Pairing) -> None:
    """A wake-up for nothing must not wait for a message."""
    assert pairing.pairs.receive(pairing.start(credential()))


def test_worker_that_ends_ends_the_pair(pairing: Pairing) -> None:
    pair = pairing.start(credential())
    pairing.worker_of(pair).close()
    assert not pairing.pairs.receive(pair)


@pytest.mark.parametrize(
    "message",
    [
        wire.Control(wire.CLOSED, 4711).pack(),
        wire.Control(wire.CLOSED, 0).pack(),
        wire.CLOSED,
        wire.Control(wire.CLOSED, 2).pack() + b"\0",
        wire.OpenRequest(wire.Purpose.PAGES, 1).pack(),
        wire.SpawnRequest(1).pack(),
        bytes(wire.MESSAGE_BYTES),
        bytes(wire.MESSAGE_BYTES + 1),
        bytes(100_000),
    ],
    ids=lambda message: repr(message[:8]),
)
def test_worker_that_breaks_the_protocol_is_ended(pairing: Pairing, message: bytes) -> None:
    pair = pairing.start(credential())
    number = pairing.connect(pair)
    assert number != 4711
    counted = dict(pairing.pairs.connections_by_uid)
    assert not pairing.say(pair, message)
    assert dict(pairing.pairs.connections_by_uid) == counted


@pytest.mark.parametrize("kind", [wire.CONNECTION, wire.OPENER, wire.DRAIN, wire.READY, b"?"])
def test_worker_may_say_nothing_else_of_its_connection(pairing: Pairing, kind: bytes) -> None:
    pair = pairing.start(credential())
    number = pairing.connect(pair)
    assert not pairing.say(pair, wire.Control(kind, number).pack())
    assert dict(pairing.pairs.connections_by_uid) == {UID: 1}


def test_worker_cannot_close_a_connection_twice_or_another_workers(pairing: Pairing) -> None:
    pair, other = pairing.start(credential()), pairing.start(credential(UID + 1))
    number, others = pairing.connect(pair), pairing.connect(other, UID + 1)
    assert pairing.say_closed(pair, number)
    assert not pairing.say_closed(pair, number)
    assert not pairing.say_closed(pair, others)
    assert dict(pairing.pairs.connections_by_uid) == {UID + 1: 1}


def test_descriptors_of_a_worker_stay_out(pairing: Pairing) -> None:
    """Newer kernels do not even let it send them; of older ones the broker leaves no room."""
    pair = pairing.start(credential())
    number = pairing.connect(pair)
    before = len(os.listdir("/proc/self/fd"))
    try:
        wire.send(pairing.worker_of(pair), wire.Control(wire.CLOSED, number).pack(), [0, 1, 2])
    except PermissionError:
        return
    assert not pairing.pairs.receive(pair)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("hand_over", [True, False], ids=["served", "discarded"])
def test_broker_lets_go_of_a_connection_before_its_worker_may(
    pairing: Pairing, hand_over: bool
) -> None:
    """Whoever closes it last may have to wait for what its client sent along."""
    pair = pairing.start(credential())
    client, inode = pairing.make_client()
    if hand_over:
        pairing.pairs.hand_over(pair, client, UID)
    else:
        pairing.pairs.discard(pair, client)
    assert client.fileno() == -1
    notice, [descriptor] = pairing.hear(pair, 1)
    assert os.fstat(descriptor).st_ino == inode
    last, _ = pairing.hear(pair)
    kind = wire.RELEASED if hand_over else wire.DISCARDED
    assert last == (kind, notice.connection_id)
    assert len(pair.connections) == hand_over
    assert pairing.pairs.connections_by_uid.total() == hand_over


@pytest.mark.parametrize("method", ["hand_over", "discard"])
def test_worker_that_does_not_read_is_noticed_without_waiting(
    pairing: Pairing, method: str
) -> None:
    pair = pairing.start(credential())
    arguments = [UID] if method == "hand_over" else []
    with socket.socket() as connection:
        for _ in range(100_000):
            client = connection.dup()
            try:
                getattr(pairing.pairs, method)(pair, client, *arguments)
            except BlockingIOError:
                break
            finally:
                client.close()
        else:
            pytest.fail("it takes everything")
    # Of the last one it may have got the connection, but not the word that follows.
    counted = pairing.pairs.connections_by_uid[UID]
    assert counted == len(pair.connections)
    assert bool(counted) == (method == "hand_over")


def test_connection_that_no_worker_takes_is_still_open(pairing: Pairing) -> None:
    """It is to be closed by another worker."""
    pair = pairing.start(credential())
    pairing.worker_of(pair).close()
    client, _ = pairing.make_client()
    with pytest.raises(BrokenPipeError):
        pairing.pairs.hand_over(pair, client, UID)
    with pytest.raises(BrokenPipeError):
        pairing.pairs.discard(pair, client)
    assert client.fileno() >= 0
    assert dict(pairing.pairs.connections_by_uid) == {}


def test_zygote_that_does_not_take_a_request_leaves_nothing(pairing: Pairing) -> None:
    pairing.zygote.failure = BlockingIOError()
    before = len(os.listdir("/proc/self/fd"))
    for key in credential(), Reason.CALLER_GONE:
        with pytest.raises(BlockingIOError):
            pairing.start(key)
        assert pairing.pairs.find(key) is None
    assert len(os.listdir("/proc/self/fd")) == before
