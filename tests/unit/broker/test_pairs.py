# SPDX-License-Identifier: Apache-2.0
"""What pairs hand over and count, and what ends them: against workers that the test plays."""

import os
import socket
from collections.abc import Collection
from pathlib import Path

import pytest
from cowdaemon import wire
from cowdaemon.broker.peers import Credential
from cowdaemon.config import Settings
from cowdaemon.errors import Reason
from cowdaemon.system.privileges import Capability
from unit.broker.pairing import UID, Pairing, credential

pytestmark = pytest.mark.usefixtures("nothing_is_left")


def count(pairing: Pairing) -> dict[tuple[int, str], int]:
    """Return how many connections the uids of these tests have, by whether they are served."""
    counted = {
        (uid, "refused" if refused else "served"): pairing.pairs.count_connections(uid, refused)
        for uid in (UID, UID + 1, 7)
        for refused in (False, True)
    }
    assert sum(counted.values()) == sum(len(pair.connections) for pair in pairing.pairs)
    return {key: number for key, number in counted.items() if number}


def test_pair_is_found_by_its_credential_and_by_nothing_less(pairing: Pairing) -> None:
    pair = pairing.start(credential())
    assert pairing.pairs.by_key[credential()] is pair
    for other in (
        Credential(UID + 1, 100, (4, 5), Capability(0)),
        Credential(UID, 101, (4, 5), Capability(0)),
        Credential(UID, 100, (4,), Capability(0)),
        Credential(UID, 100, (4, 5), Capability.SYS_PTRACE),
        Credential(UID, 100, (4, 5), Capability(0), b"confined"),
        Reason.CALLER_GONE,
    ):
        assert other not in pairing.pairs.by_key
    assert list(pairing.pairs) == [pair]


def test_worker_is_told_whom_it_serves(pairing: Pairing) -> None:
    pairing.limit(calls_per_worker=7)
    serving, refusing = pairing.start(credential()), pairing.start(Reason.CALLER_GONE)
    assert pairing.zygote.requests == [
        wire.SpawnRequest(serving.worker_id, 0, UID, 100, calls_per_worker=7, groups=(4, 5)),
        wire.SpawnRequest(refusing.worker_id, Reason.CALLER_GONE.number, calls_per_worker=7),
    ]
    assert serving.worker_id != refusing.worker_id
    assert refusing.opener is None
    assert list(pairing.zygote.openers) == [serving.worker_id]


class Generous(Settings):
    """Grants to those who connect with group 100, shows all flags to those who are in group 5."""

    def granted(self, gids: Collection[int]) -> wire.Detail:
        return wire.Detail.SUMMARY if 100 in gids else wire.Detail.NONE

    def sees_all_flags(self, uid: int, gids: Collection[int]) -> bool:
        return uid == UID and 5 in gids


def test_worker_is_told_what_the_settings_have_for_its_caller(pairing: Pairing) -> None:
    """All groups count, that of the process as well as the others."""
    pairing.configure(Generous())
    for key in credential(), credential(gid=101), credential(uid=UID + 1):
        pairing.start(key)
    told = [(request.granted, request.sees_all_flags) for request in pairing.zygote.requests]
    assert told == [
        (wire.Detail.SUMMARY, True),
        (wire.Detail.NONE, True),
        (wire.Detail.SUMMARY, False),
    ]


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
    """Those that are refused count for the uid that made them, and apart."""
    serving, refusing = pairing.start(credential()), pairing.start(Reason.CALLER_GONE)
    numbers = [pairing.connect(serving), pairing.connect(serving)]
    refused = pairing.connect(refusing)
    other = pairing.connect(refusing, uid=7)
    assert len({*numbers, refused, other}) == 4
    assert count(pairing) == {(UID, "served"): 2, (UID, "refused"): 1, (7, "refused"): 1}
    assert pairing.say_closed(serving, numbers[0])
    assert pairing.say_closed(refusing, refused)
    assert count(pairing) == {(UID, "served"): 1, (7, "refused"): 1}
    assert pairing.say_closed(serving, numbers[1])
    assert pairing.say_closed(refusing, other)
    assert count(pairing) == {}
    assert not serving.connections  # nothing is remembered of who has gone


def test_connections_of_a_pair_that_ends_are_counted_no_more(pairing: Pairing) -> None:
    pair, other = pairing.start(credential()), pairing.start(Reason.CALLER_GONE)
    pairing.connect(pair)
    pairing.connect(pair, uid=7)
    pairing.connect(other)
    pairing.pairs.remove(pair)
    assert count(pairing) == {(UID, "refused"): 1}
    assert credential() not in pairing.pairs.by_key
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
    assert not pairing.say(pair, message)
    assert count(pairing) == {(UID, "served"): 1}


@pytest.mark.parametrize("kind", [wire.CONNECTION, wire.OPENER, wire.DRAIN, wire.READY, b"?"])
def test_worker_may_say_nothing_else_of_its_connection(pairing: Pairing, kind: bytes) -> None:
    pair = pairing.start(credential())
    number = pairing.connect(pair)
    assert not pairing.say(pair, wire.Control(kind, number).pack())
    assert count(pairing) == {(UID, "served"): 1}


def test_worker_cannot_close_a_connection_twice_or_another_workers(pairing: Pairing) -> None:
    pair, other = pairing.start(credential()), pairing.start(credential(UID + 1))
    number, others = pairing.connect(pair), pairing.connect(other, UID + 1)
    assert pairing.say_closed(pair, number)
    assert not pairing.say_closed(pair, number)
    assert not pairing.say_closed(pair, others)
    assert count(pairing) == {(UID + 1, "served"): 1}


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


@pytest.mark.parametrize("uid", [UID, None], ids=["served", "discarded"])
def test_broker_lets_go_of_a_connection_before_its_worker_may(
    pairing: Pairing, uid: int | None
) -> None:
    """Whoever closes it last may have to wait for what its client sent along."""
    pair = pairing.start(credential())
    client, inode = pairing.make_client()
    pairing.pairs.hand_over(pair, client, uid)
    assert client.fileno() == -1
    notice, [descriptor] = pairing.hear(pair, 1)
    assert os.fstat(descriptor).st_ino == inode
    last, _ = pairing.hear(pair)
    assert last == (wire.RELEASED if uid else wire.DISCARDED, notice.connection_id)
    assert list(pair.connections.values()) == ([uid] if uid else [])


@pytest.mark.parametrize("uid", [UID, None], ids=["served", "discarded"])
def test_worker_that_does_not_read_is_noticed_without_waiting(
    pairing: Pairing, uid: int | None
) -> None:
    pair = pairing.start(credential())
    with socket.socket() as connection:
        for _ in range(100_000):
            client = connection.dup()
            try:
                pairing.pairs.hand_over(pair, client, uid)
            except BlockingIOError:
                break
            finally:
                client.close()
        else:
            pytest.fail("it takes everything")
    assert bool(pair.connections) == bool(uid)


def test_connection_that_no_worker_takes_is_still_open(pairing: Pairing) -> None:
    """It is to be closed by another worker."""
    pair = pairing.start(credential())
    pairing.worker_of(pair).close()
    client, _ = pairing.make_client()
    for uid in UID, None:
        with pytest.raises(BrokenPipeError):
            pairing.pairs.hand_over(pair, client, uid)
    assert client.fileno() >= 0
    assert count(pairing) == {}


def test_zygote_that_does_not_take_a_request_leaves_nothing(pairing: Pairing) -> None:
    pairing.zygote.failure = BlockingIOError()
    before = len(os.listdir("/proc/self/fd"))
    for key in credential(), Reason.CALLER_GONE:
        with pytest.raises(BlockingIOError):
            pairing.start(key)
        assert key not in pairing.pairs.by_key
    assert len(os.listdir("/proc/self/fd")) == before
