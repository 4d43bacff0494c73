# SPDX-License-Identifier: Apache-2.0
"""How many pairs there are, which makes room, when one expires, and what becomes of its opener."""

import os
import signal
import socket
from collections.abc import Callable

import pytest
from cowdaemon import wire
from cowdaemon.broker import pairs as module
from cowdaemon.broker.pairs import Pair
from cowdaemon.broker.peers import Credential
from cowdaemon.system.privileges import Capability
from cowdaemon.system.processes import FAILED, Child, fork_child
from cowdaemon.errors import Reason
from cowdaemon.limits import WORKER_IDLE_SECONDS
from harness.processes import Departure, read_children
from harness.programs import NOBODY
from unit.broker.pairing import SECONDS, Pairing, credential

pytestmark = [
    pytest.mark.usefixtures("nothing_is_left"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: openers take on ids")


def test_number_of_workers_is_bounded_in_all_and_by_uid(
    pairing: Pairing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refusing workers do not count: there is one a reason at most."""
    monkeypatch.setattr(module, "WORKERS", 4)
    monkeypatch.setattr(module, "WORKERS_PER_UID", 2)
    pairing.start(Reason.CALLER_GONE)
    pairing.start(Reason.TOO_MANY_CREDENTIALS)
    pairing.start(credential(gid=1))
    assert pairing.pairs.has_room(credential(gid=2))
    pairing.start(credential(gid=2))
    assert not pairing.pairs.has_room(credential(gid=3))
    assert pairing.pairs.has_room(credential(uid=7))
    pairing.start(credential(uid=7))
    pairing.start(credential(uid=8))
    assert not pairing.pairs.has_room(credential(uid=9))


def test_pair_that_has_been_idle_longest_makes_room(
    pairing: Pairing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WORKERS", 4)
    monkeypatch.setattr(module, "WORKERS_PER_UID", 9)
    pairing.start(Reason.CALLER_GONE)  # in nobody's way
    pairs = []
    for uid in range(4):
        pairing.now += 1
        assert pairing.pairs.find_idle(credential(uid=9)) is None  # nobody has to
        pairs.append(pairing.start(credential(uid=uid)))
    assert pairing.pairs.find_idle(credential(uid=9)) is pairs[0]
    number = pairing.connect(pairs[0])
    assert pairing.pairs.find_idle(credential(uid=9)) is pairs[1]
    pairing.now += 1
    pairing.say_closed(pairs[0], number)  # idle from now on
    assert pairing.pairs.find_idle(credential(uid=9)) is pairs[1]
    for pair in pairs[1:]:
        pairing.connect(pair)
    assert pairing.pairs.find_idle(credential(uid=9)) is pairs[0]
    pairing.connect(pairs[0])
    assert pairing.pairs.find_idle(credential(uid=9)) is None
    assert not pairing.pairs.has_room(credential(uid=9))


def test_nobody_makes_room_for_a_uid_that_has_its_share(
    pairing: Pairing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WORKERS", 3)
    monkeypatch.setattr(module, "WORKERS_PER_UID", 2)
    pairing.start(credential(uid=7))  # idle for longest
    pairing.now += 1
    own = [pairing.start(credential(gid=gid)) for gid in (1, 2)]
    assert pairing.pairs.find_idle(credential(gid=3)) is own[0]
    pairing.connect(own[0])
    assert pairing.pairs.find_idle(credential(gid=3)) is own[1]
    pairing.connect(own[1])
    assert pairing.pairs.find_idle(credential(gid=3)) is None


def test_pair_expires_when_nobody_has_connected_for_a_while(pairing: Pairing) -> None:
    """From its start, or from when its last connection closed."""
    pair, busy = pairing.start(credential()), pairing.start(Reason.CALLER_GONE)
    started = pairing.now
    numbers = [pairing.connect(busy), pairing.connect(busy)]
    assert pairing.pairs.expires_at(pair) == started + WORKER_IDLE_SECONDS
    assert pairing.pairs.expires_at(busy) == float("inf")
    assert pairing.pairs.expired(started + WORKER_IDLE_SECONDS - 0.01) == []
    assert pairing.pairs.expired(started + WORKER_IDLE_SECONDS) == [pair]
    for number in numbers:
        assert pairing.pairs.expires_at(busy) == float("inf")
        pairing.now += 5
        pairing.say_closed(busy, number)
    assert pairing.pairs.expires_at(busy) == started + 10 + WORKER_IDLE_SECONDS


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
    assert pair.opener.reap() == -signal.SIGKILL


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
        (lambda: None, True),
        (lambda: os._exit(FAILED), False),
        (lambda: os._exit(1), False),
    ],
    ids=["its worker has gone", "it failed", "it exited"],
)
def test_opener_that_ended_by_itself_is_not_replaced(
    pairing: Pairing, end: Callable[[], None], lives_on: bool
) -> None:
    """One that failed would fail again; and with a worker gone the pair is about to end."""
    pair = pairing.start(credential())
    pair.opener = fork_child("cowd-opener", end, keep=[])
    assert pairing.pairs.replace_opener(pair) is lives_on
    assert pair.opener is None


def test_opener_that_cannot_be_replaced_ends_the_pair(
    pairing: Pairing, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Pair, __: Credential) -> socket.socket:
        raise OSError("no more processes")

    pair = pairing.start(credential())
    pair.opener = killed_child()
    monkeypatch.setattr(module, "_start_opener", fail)
    assert not pairing.pairs.replace_opener(pair)


def killed_child() -> Child:
    child = fork_child("cowd-opener", signal.pause, keep=[])
    signal.pidfd_send_signal(child.pidfd, signal.SIGKILL)
    return child
