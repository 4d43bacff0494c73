# SPDX-License-Identifier: Apache-2.0
"""What workers have counted is added up, kept when they end, and told to those who may ask."""

import os
from array import array
from pathlib import Path

import pytest
from cowdaemon import wire
from cowdaemon.broker import pairs, statistics
from cowdaemon.broker.pairs import Pair
from cowdaemon.config import Grant, Settings
from cowdaemon.counters import COUNTERS_BYTES, PAGES_READ, WORDS, place_of_refusal
from cowdaemon.errors import Reason
from cowdaemon.limits import STATISTICS_SECONDS
from unit.broker.pairing import Pairing, credential

pytestmark = pytest.mark.usefixtures("nothing_is_left")
GID = 100
GRANTING = Settings(Path("x"), grants=(Grant("x", GID, wire.Detail.SUMMARY),))
ASK = wire.Control(wire.STATISTICS).pack()
MOST = 2**64 - 1


@pytest.fixture(autouse=True)
def _always_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in pairs, statistics:
        monkeypatch.setattr(module, "STATISTICS_SECONDS", 0.0)


def count(pairing: Pairing, pair: Pair, *words: int) -> None:
    """Count, as the worker of a pair, in the first places."""
    os.pwrite(pairing.zygote.counters[pair.worker_id], array("Q", words), 0)


def ask(pairing: Pairing, pair: Pair) -> wire.Statistics:
    assert pairing.say(pair, ASK)
    message, _ = wire.receive(pairing.worker_of(pair), 0, wire.STATISTICS_BYTES)
    told = wire.unpack_broker_message(message)
    assert isinstance(told, wire.Statistics)
    return told


def first_words(told: wire.Statistics) -> list[int]:
    words = array("Q", told.words)
    assert len(words) == WORDS
    return list(words[:2])


def test_words_of_all_workers_are_added_up(pairing: Pairing) -> None:
    """Modulo 2^64, so that no worker can make this fail."""
    root, other = pairing.start(credential(uid=0)), pairing.start(Reason.CALLER_GONE)
    assert first_words(ask(pairing, root)) == [0, 0]
    count(pairing, root, 3, 5)
    count(pairing, other, 4, MOST)
    assert first_words(ask(pairing, root)) == [7, 4]
    assert ask(pairing, root).worker_count == 2


def test_words_of_workers_that_ended_are_kept(pairing: Pairing) -> None:
    root = pairing.start(credential(uid=0))
    for number in range(1, 4):
        other = pairing.start(credential())
        count(pairing, other, 10, number)
        before = first_words(ask(pairing, root))
        pairing.pairs.remove(other)
        assert first_words(ask(pairing, root)) == before
    assert before == [30, 6]


def test_pair_that_could_not_be_started_leaves_nothing(pairing: Pairing) -> None:
    root = pairing.start(credential(uid=0))
    pairing.zygote.failure = BrokenPipeError()
    descriptors = len(os.listdir("/proc/self/fd"))
    with pytest.raises(BrokenPipeError):
        pairing.start(credential())
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert ask(pairing, root).worker_count == 1


def test_sums_are_told_again_for_a_while(pairing: Pairing, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flood of questions costs little."""
    monkeypatch.setattr(statistics, "STATISTICS_SECONDS", 10.0)
    root = pairing.start(credential(uid=0))
    told = ask(pairing, root)
    count(pairing, root, 1, 1)
    pairing.now += 9.9
    assert ask(pairing, root) == told
    pairing.now += 0.2
    assert first_words(ask(pairing, root)) == [1, 1]


def test_refused_and_open_connections_are_told(pairing: Pairing) -> None:
    root, other = pairing.start(credential(uid=0)), pairing.start(Reason.CALLER_GONE)
    number = pairing.connect(root)
    pairing.connect(other)
    pairing.pairs.statistics.count_refusal(Reason.CALLER_GONE)
    told = ask(pairing, root)
    assert told.connection_count == 2
    assert array("Q", told.words)[place_of_refusal(Reason.CALLER_GONE)] == 1
    assert pairing.say_closed(root, number)
    assert ask(pairing, root).connection_count == 1


def test_start_is_told_and_stays(pairing: Pairing) -> None:
    root = pairing.start(credential(uid=0))
    starts = {ask(pairing, root).start_time_nanoseconds for _ in range(2)}
    assert len(starts) == 1
    assert min(starts) > 0


@pytest.mark.parametrize(
    ("settings", "uid", "gid", "is_answered"),
    [
        (Settings(), 0, GID, True),
        (Settings(), 1000, GID, False),
        (GRANTING, 1000, GID, True),
        (GRANTING, 1000, GID + 1, False),
    ],
)
def test_worker_of_anybody_else_that_asks_is_ended(
    pairing: Pairing, settings: Settings, uid: int, gid: int, is_answered: bool
) -> None:
    """It was told that it may not, so it has been taken over."""
    pairing.configure(settings)
    pair = pairing.start(credential(uid, gid))
    assert pairing.zygote.requests[-1].sees_statistics == is_answered
    assert pairing.say(pair, ASK) == is_answered


@pytest.mark.parametrize("reason", [Reason.CALLER_GONE, Reason.TOO_MANY_CONNECTIONS])
def test_refusing_worker_that_asks_is_ended(pairing: Pairing, reason: Reason) -> None:
    pairing.configure(GRANTING)
    assert not pairing.say(pairing.start(reason), ASK)


def test_worker_that_asks_again_at_once_is_ended(
    pairing: Pairing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or one that was taken over would keep the broker busy. Others are served as before.

    Seen to fail with nothing kept of when a worker was told.
    """
    monkeypatch.setattr(pairs, "STATISTICS_SECONDS", STATISTICS_SECONDS)
    root, other = pairing.start(credential(uid=0)), pairing.start(credential(uid=0, gid=GID + 1))
    for _ in range(3):
        ask(pairing, root)
        ask(pairing, other)
        pairing.now += STATISTICS_SECONDS
    ask(pairing, root)
    pairing.now += STATISTICS_SECONDS * 0.99
    assert not pairing.say(root, ASK)
    ask(pairing, other)


def test_worker_that_asks_and_does_not_read_is_ended(pairing: Pairing) -> None:
    """The broker waits for nobody, and keeps nothing for it."""
    root = pairing.start(credential(uid=0))
    assert not all(pairing.say(root, ASK) for _ in range(1000))


def test_worker_cannot_change_the_size_of_its_file(pairing: Pairing) -> None:
    """Or the broker would find it cut off, or memory be had that nothing bounds."""
    pair = pairing.start(credential(uid=0))
    counters = pairing.zygote.counters[pair.worker_id]
    for size_bytes in 0, COUNTERS_BYTES - 8, 1 << 20:
        with pytest.raises(PermissionError):
            os.ftruncate(counters, size_bytes)
    with pytest.raises(PermissionError):
        os.pwrite(counters, b"x", COUNTERS_BYTES)
    os.pwrite(counters, array("Q", [7]), 8 * PAGES_READ)
    assert array("Q", ask(pairing, pair).words)[PAGES_READ] == 7


def test_broker_counts_on_whatever_a_worker_has_written() -> None:
    """Seen to fail with the broker counting where it keeps what ended workers wrote."""
    told = statistics.Statistics()
    file = told.make_counters(1)
    os.pwrite(file, b"\xff" * COUNTERS_BYTES, 0)
    os.close(file)
    told.remove(1)
    told.count_refusal(Reason.TOO_MANY_CONNECTIONS)
    words = array("Q", wire.Statistics.unpack(told.tell(0)).words)
    assert words[place_of_refusal(Reason.TOO_MANY_CONNECTIONS)] == 0
    assert words[PAGES_READ] == 2**64 - 1
