# SPDX-License-Identifier: Apache-2.0
"""What a process was opened for decides what it is used for; and which processes there are."""

import os
from collections.abc import Callable

import pytest
from cowdaemon import wire
from cowdaemon.errors import CowdError, Reason
from cowdaemon.limits import OPENER_SECONDS, STUCK_KEPT_SECONDS
from cowdaemon.wire import Purpose
from cowdaemon.worker import targets as module
from cowdaemon.worker.targets import Targets
from unit.worker.opener_player import (
    PlayOpener,
    Reply,
    list_pids,
    open_own_files,
)

pytestmark = pytest.mark.usefixtures("nothing_is_left")

OF_SUMMARIES = pytest.mark.parametrize("purpose", [Purpose.SUMMARY, Purpose.SWEEP])


def refusal(targets: Targets, pid: int, purpose: Purpose) -> Reason:
    with pytest.raises(CowdError) as refused:
        targets.open(pid, purpose)
    return refused.value.reason


@OF_SUMMARIES
@pytest.mark.usefixtures("clock")
def test_target_opened_for_a_summary_serves_nothing_else(
    play_opener: PlayOpener, purpose: Purpose
) -> None:
    opener = play_opener(open_own_files)
    targets = Targets(opener.remote)
    target = targets.open(7, purpose)
    assert targets.open(7) is not target
    assert opener.purposes == [purpose, Purpose.PAGES]


@OF_SUMMARIES
@pytest.mark.usefixtures("clock")
def test_caller_who_is_granted_summaries_is_refused_pages(
    play_opener: PlayOpener, purpose: Purpose
) -> None:
    answers = iter([open_own_files(7), (Reason.ACCESS_DENIED.number, [])])
    targets = Targets(play_opener(lambda _: next(answers)).remote)
    assert targets.open(7, purpose).is_alive()
    assert refusal(targets, 7, Purpose.PAGES) is Reason.ACCESS_DENIED


@OF_SUMMARIES
@pytest.mark.usefixtures("clock")
def test_target_kept_for_its_pages_serves_summaries(
    play_opener: PlayOpener, purpose: Purpose
) -> None:
    opener = play_opener(open_own_files)
    targets = Targets(opener.remote)
    target = targets.open(7)
    assert targets.open(7, purpose) is target
    assert opener.purposes == [Purpose.PAGES]


@OF_SUMMARIES
@pytest.mark.usefixtures("clock")
def test_summaries_push_out_nothing_that_is_kept(
    play_opener: PlayOpener, monkeypatch: pytest.MonkeyPatch, purpose: Purpose
) -> None:
    monkeypatch.setattr(module, "TARGETS_KEPT", 1)
    opener = play_opener(open_own_files)
    targets = Targets(opener.remote)
    target = targets.open(7)
    before = opener.count_descriptors()
    for pid in (8, 9):
        targets.open(pid, purpose)
    assert opener.count_descriptors() == before
    assert targets.open(7) is target


@pytest.mark.parametrize("purpose", [Purpose.PAGES, Purpose.SUMMARY, Purpose.SWEEP])
def test_process_that_an_opener_was_stuck_in_is_left_alone_whatever_for(
    play_opener: PlayOpener, clock: Callable[[float], None], purpose: Purpose
) -> None:
    replacement = play_opener(open_own_files)

    def be_stuck(_: int) -> None:
        targets.adopt_opener(replacement.remote)
        clock(OPENER_SECONDS)

    targets = Targets(play_opener(be_stuck).remote)
    for again in (purpose, Purpose.SWEEP, Purpose.SUMMARY, Purpose.PAGES):
        assert refusal(targets, 7, again) is Reason.OPEN_TIMED_OUT
    assert replacement.asked == []
    clock(STUCK_KEPT_SECONDS + 0.01)
    assert targets.open(7, purpose).is_alive()


def test_pids_are_those_of_the_openers_list(play_opener: PlayOpener) -> None:
    opener = play_opener(lambda _: list_pids(1, 300, 2**31 - 1))
    assert list(Targets(opener.remote).list_pids()) == [1, 300, 2**31 - 1]
    assert (opener.purposes, opener.asked) == ([Purpose.LIST], [0])


def test_list_may_be_empty(play_opener: PlayOpener) -> None:
    assert list(Targets(play_opener(lambda _: list_pids()).remote).list_pids()) == []


def test_list_is_read_no_further_than_pids_can_be(
    play_opener: PlayOpener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PIDS", 2)
    targets = Targets(play_opener(lambda _: list_pids(1, 2, 3)).remote)
    assert list(targets.list_pids()) == [1, 2]


def test_list_that_could_not_be_made(play_opener: PlayOpener) -> None:
    targets = Targets(play_opener(lambda _: (Reason.INTERNAL_ERROR.number, [])).remote)
    with pytest.raises(CowdError) as failure:
        targets.list_pids()
    assert failure.value.reason is Reason.INTERNAL_ERROR


@pytest.mark.parametrize(
    ("purpose", "outcome", "count"),
    [
        (Purpose.PAGES, 0, 0),
        (Purpose.SUMMARY, 0, 1),
        (Purpose.LIST, 0, 0),
        (Purpose.LIST, 0, 2),
        (Purpose.PAGES, Reason.ACCESS_DENIED.number, 2),
        (Purpose.LIST, Reason.INTERNAL_ERROR.number, 1),
    ],
)
def test_answer_with_other_descriptors_than_are_due_is_not_believed(
    play_opener: PlayOpener, purpose: Purpose, outcome: int, count: int
) -> None:
    def answer(_: int) -> Reply:
        return outcome, [os.memfd_create("uninvited") for _ in range(count)]

    targets = Targets(play_opener(answer).remote)
    with pytest.raises(wire.WireError):
        targets.list_pids() if purpose is Purpose.LIST else targets.open(7, purpose)
