# SPDX-License-Identifier: Apache-2.0
"""How many pairs there are, which makes room, when one expires, and what becomes of its opener."""

import os
import signal
import socket
from collections.abc import Callable

import pytest
from cowdaemon import wire
from cowdaemon.broker.pairs import Pair, Pairs
from cowdaemon.broker.peers import Credential
from cowdaemon.errors import Reason
from cowdaemon.system.privileges import Capability
from cowdaemon.system.processes import FAILED, STOP_SIGNAL, Child, fork_child
from harness.processes import Departure, read_children, wait_to_be_killed
from harness.programs import NOBODY
from unit.broker.pairing import SECONDS, Pairing, credential

pytestmark = pytest.mark.usefixtures("nothing_is_left")
IDLE_SECONDS = 3
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: openers take on ids")


def test_nobody_is_in_the_way_while_there_is_room(pairing: Pairing) -> None:
    """Refusing workers do not count: there is one a reason at most."""
    pairing.limit(workers=4, workers_per_uid=2)
    pairing.start(Reason.CALLER_GONE)
    pairing.start(Reason.TOO_MANY_CREDENTIALS)
    for key in credential(gid=1), credential(gid=2), credential(uid=7), credential(uid=8):
        assert pairing.pairs.crowd(key) == []
        pairing.start(key)


def test_uid_that_has_its_share_is_in_its_own_way_alone(pairing: Pairing) -> None:
    """Also where there would be room for others, and where all are full."""
    pairing.limit(workers=3, workers_per_uid=2)
    pairing.start(Reason.CALLER_GONE)
    own = [pairing.start(credential(gid=gid)) for gid in (1, 2)]
    assert pairing.pairs.crowd(credential(gid=3)) == own
    assert pairing.pairs.crowd(credential(uid=7)) == []
    other = pairing.start(credential(uid=7))
    assert pairing.pairs.crowd(credential(gid=3)) == own
    assert pairing.pairs.crowd(credential(uid=7, gid=3)) == [*own, other]


def test_whoever_serves_is_in_the_way_where_all_are_full(pairing: Pairing) -> None:
    """Whether it has connections or not; those that refuse are in nobody's."""
    pairing.limit(workers=2, workers_per_uid=2)
    pairing.start(Reason.CALLER_GONE)
    serving = [pairing.start(credential()), pairing.start(credential(uid=7))]
    pairing.connect(serving[0])
    assert pairing.pairs.crowd(credential(uid=8)) == serving
    pairing.pairs.remove(serving[0])
    assert pairing.pairs.crowd(credential(uid=8)) == []


def test_pair_expires_when_nobody_has_connected_for_a_while(pairing: Pairing) -> None:
    """From its start, or from when its last connection closed."""
    pairing.limit(worker_idle_seconds=IDLE_SECONDS)
    pair, busy = pairing.start(credential()), pairing.start(Reason.CALLER_GONE)
    numbers = [pairing.connect(busy), pairing.connect(busy)]
    assert pairing.pairs.expired(pairing.now + IDLE_SECONDS - 0.01) == []
    assert pairing.pairs.expired(pairing.now + IDLE_SECONDS) == [pair]
    for number in numbers:
        assert pairing.pairs.expired(pairing.now + 1e9) == [pair]
        pairing.now += 5
        pairing.say_closed(busy, number)
    assert pairing.pairs.expired(pairing.now + IDLE_SECONDS - 0.01) == [pair]
    assert pairing.pairs.expired(pairing.now + IDLE_SECONDS) == [pair, busy]


@needs_root
def test_opener_is_started_with_its_worker_and_ends_with_it(real_pairing: Pairing) -> None:
    pair = real_pairing.start(Credential(NOBODY.uid, NOBODY.gid, (), Capability(0)))
    assert pair.opener
    end = real_pairing.zygote.openers[pair.worker_id]
    wire.send(end, wire.OpenRequest(wire.Purpose.PAGES, 1).pack())
    assert wire.OpenReply.unpack(wire.receive(end)[0]).outcome == Reason.ACCESS_DENIED.number
    with Departure([pair.opener.pid]) as departure:
        end.close()
        assert departure.wait(SECONDS) == []


@needs_root
def test_zygote_that_does_not_take_a_request_leaves_no_opener(real_pairing: Pairing) -> None:
    real_pairing.zygote.failure = BrokenPipeError()
    with pytest.raises(BrokenPipeError):
        real_pairing.start(Credential(NOBODY.uid, NOBODY.gid, (), Capability(0)))
    assert "cowd-opener" not in [child.name for child in read_children(os.getpid())]


@needs_root
def test_opener_ends_with_its_pair_whoever_holds_its_other_end(real_pairing: Pairing) -> None:
    pair = real_pairing.start(Credential(NOBODY.uid, NOBODY.gid, (), Capability(0)))
    assert pair.opener
    with Departure([pair.opener.pid]) as departure:
        real_pairing.pairs.remove(pair)
        assert departure.wait(SECONDS) == []
    assert pair.opener.reap() in (0, -STOP_SIGNAL)  # before it could catch it


@needs_root
def test_opener_that_was_killed_is_replaced(real_pairing: Pairing) -> None:
    pair = real_pairing.start(Credential(NOBODY.uid, NOBODY.gid, (), Capability(0)))
    killed = pair.opener
    assert killed
    signal.pidfd_send_signal(killed.pidfd, signal.SIGKILL)
    assert real_pairing.pairs.replace_opener(pair)
    assert pair.opener
    assert pair.opener.pid != killed.pid
    message, [descriptor] = wire.receive(real_pairing.worker_of(pair), 1)
    assert wire.Control.unpack(message).kind == wire.OPENER
    with socket.socket(fileno=descriptor) as end:
        end.settimeout(SECONDS)
        wire.send(end, wire.OpenRequest(wire.Purpose.PAGES, 1).pack())
        assert wire.OpenReply.unpack(wire.receive(end)[0]).outcome == Reason.ACCESS_DENIED.number


@pytest.mark.parametrize(
    ("end", "lives_on"),
    [
        (lambda: 0, True),
        (lambda: FAILED, False),
        (lambda: 1, False),
    ],
    ids=["its worker has gone", "it failed", "it exited"],
)
def test_opener_that_ended_by_itself_is_not_replaced(
    pairing: Pairing, end: Callable[[], int], lives_on: bool
) -> None:
    """One that failed would fail again; and with a worker gone the pair is about to end."""
    pair = pairing.start(credential())
    pair.opener = fork_child("cowd-opener", end, keep=[])
    assert pairing.pairs.replace_opener(pair) is lives_on
    assert pair.opener is None


def test_opener_that_cannot_be_replaced_ends_the_pair(
    pairing: Pairing, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Pairs, __: Pair, ___: Credential) -> socket.socket:
        raise OSError("no more processes")

    pair = pairing.start(credential())
    pair.opener = killed_child()
    monkeypatch.setattr(Pairs, "_start_opener", fail)
    assert not pairing.pairs.replace_opener(pair)


def killed_child() -> Child:
    child = fork_child("cowd-opener", wait_to_be_killed, keep=[])
    signal.pidfd_send_signal(child.pidfd, signal.SIGKILL)
    return child
