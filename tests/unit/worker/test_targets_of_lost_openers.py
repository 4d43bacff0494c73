# SPDX-License-Identifier: Apache-2.0
"""An opener that is lost, stuck or wrong costs a call no more than it must."""

import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from cowdaemon import wire
from cowdaemon.errors import CowdError, Reason
from cowdaemon.limits import OPENER_SECONDS, STUCK_KEPT_SECONDS
from cowdaemon.worker import targets as module
from cowdaemon.worker.targets import Targets
from unit.worker.opener_player import (
    SECONDS,
    START_TIME_TICKS,
    Opener,
    PlayOpener,
    open_own_files,
)

pytestmark = pytest.mark.usefixtures("nothing_is_left")


def test_opener_that_breaks_the_protocol_is_not_believed(play_opener: PlayOpener) -> None:
    with pytest.raises(wire.WireError):
        Targets(play_opener(lambda _: b"?").remote).open(1)


def test_answer_to_another_request_is_not_believed(play_opener: PlayOpener) -> None:
    reply = wire.OpenReply(2, Reason.ACCESS_DENIED.number, 0)
    with pytest.raises(wire.WireError):
        Targets(play_opener(lambda _: reply.pack()).remote).open(1)


def test_lost_opener_is_replaced_and_asked_again(play_opener: PlayOpener) -> None:
    """The replacement comes after the loss was noticed: the call waits for it."""
    lost, replacement = play_opener(lambda _: None), play_opener(open_own_files)
    targets = Targets(lost.remote)

    def replace() -> None:
        assert lost.lost.wait(SECONDS)
        targets.adopt_opener(replacement.remote)

    with ThreadPoolExecutor(1) as threads:
        replacing = threads.submit(replace)
        assert targets.open(7).is_alive()
        replacing.result()
    assert (lost.asked, replacement.asked) == ([7], [7])


def test_opener_may_be_replaced_before_its_loss_is_noticed(play_opener: PlayOpener) -> None:
    replacement = play_opener(open_own_files)

    def be_replaced(_: int) -> None:
        targets.adopt_opener(replacement.remote)

    lost = play_opener(be_replaced)
    targets = Targets(lost.remote)
    assert targets.open(7).is_alive()
    assert targets.open(8).is_alive()
    assert (lost.asked, replacement.asked) == ([7], [7, 8])


def test_opener_lost_between_calls_is_replaced(play_opener: PlayOpener) -> None:
    lost, replacement = play_opener(open_own_files), play_opener(open_own_files)
    targets = Targets(lost.remote)
    targets.open(7)
    lost._end.shutdown(socket.SHUT_RDWR)
    assert lost.lost.wait(SECONDS)
    targets.adopt_opener(replacement.remote)
    assert targets.open(8).is_alive()
    assert replacement.asked == [8]


def test_opener_lost_twice_is_given_up(play_opener: PlayOpener) -> None:
    """It may be the target that ends them: a third is not risked for this call."""
    openers: list[Opener] = []

    def be_lost(_: int) -> None:
        if len(openers) < 3:
            openers.append(play_opener(be_lost))
            targets.adopt_opener(openers[-1].remote)

    openers.append(play_opener(be_lost))
    targets = Targets(openers[0].remote)
    with pytest.raises(CowdError) as refusal:
        targets.open(7)
    assert refusal.value.reason is Reason.OPENER_LOST
    assert [opener.asked for opener in openers] == [[7], [7], []]


def test_opener_that_is_not_replaced_is_told(
    play_opener: PlayOpener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "OPENER_REPLACED_SECONDS", 0.01)
    targets = Targets(play_opener(lambda _: None).remote)
    for pid in (7, 8):
        with pytest.raises(CowdError) as refusal:
            targets.open(pid)
        assert refusal.value.reason is Reason.OPENER_LOST


def test_process_that_its_opener_was_stuck_in_is_left_alone_for_a_while(
    play_opener: PlayOpener, clock: Callable[[float], None]
) -> None:
    """The next opener would get stuck in it too, and who asks for others would wait behind it."""
    replacement = play_opener(open_own_files)

    def be_stuck(_: int) -> None:
        targets.adopt_opener(replacement.remote)
        clock(OPENER_SECONDS)  # then its alarm ends it

    targets = Targets(play_opener(be_stuck).remote)
    for seconds in (0, 0, STUCK_KEPT_SECONDS - 0.01):
        clock(seconds)
        with pytest.raises(CowdError) as refusal:
            targets.open(4711)
        assert refusal.value.reason is Reason.OPEN_TIMED_OUT
        assert "4711" in str(refusal.value)
    assert targets.open(8).is_alive()
    clock(0.02)
    assert targets.open(4711).is_alive()
    assert replacement.asked == [8, 4711]


def test_opener_that_not_even_its_alarm_ends_is_given_up(
    play_opener: PlayOpener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A late answer must not be taken for the next one's: the end is closed."""
    monkeypatch.setattr(module, "OPENER_SECONDS", 0.05 - 1)  # a second more is waited
    monkeypatch.setattr(module, "_STUCK_SECONDS", 0.04)
    released = threading.Event()

    def be_stuck(_: int) -> None:
        assert released.wait(SECONDS)

    stuck, replacement = play_opener(be_stuck), play_opener(open_own_files)
    targets = Targets(stuck.remote)
    with pytest.raises(CowdError) as refusal:
        targets.open(7)
    assert refusal.value.reason is Reason.OPEN_TIMED_OUT
    assert stuck.remote.fileno() == -1
    targets.adopt_opener(replacement.remote)
    assert targets.open(8).pid == 8
    released.set()


def test_threads_get_each_their_own_answer(play_opener: PlayOpener) -> None:
    """One asks at a time: the next thing that comes from the opener is its answer."""
    targets = Targets(play_opener(open_own_files).remote)
    pids = list(range(1, 33))
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(targets.open, pids))
    assert [target.pid for target in found] == pids
    assert [target.start_time_ticks - START_TIME_TICKS for target in found] == pids
