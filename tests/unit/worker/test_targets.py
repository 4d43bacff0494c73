# SPDX-License-Identifier: Apache-2.0
"""Targets are opened, kept for a moment, and never answered for when they have gone."""

import mmap
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cowdaemon.errors import CowdError, Reason
from cowdaemon.limits import TARGET_KEPT_SECONDS
from cowdaemon.worker import targets as module
from cowdaemon.worker.targets import Targets
from unit.worker.opener_player import (
    START_TIME_TICKS,
    PlayOpener,
    Reply,
    open_files,
    open_own_files,
)

pytestmark = pytest.mark.usefixtures("nothing_is_left")


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    """A process that lives until it is killed."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as cat:
        assert cat.stdin
        assert cat.stdout
        cat.stdin.write(b"x")  # it runs its program now, and no more this one's
        cat.stdin.flush()
        assert cat.stdout.read(1)
        yield cat
        cat.kill()


def test_target_is_what_the_opener_opened(play_opener: PlayOpener) -> None:
    pid = os.getpid()
    target = Targets(play_opener(open_files).remote).open(pid)
    assert (target.pid, target.start_time_ticks) == (pid, START_TIME_TICKS + pid)
    assert os.readlink(f"/proc/self/fd/{target.pagemap}") == f"/proc/{pid}/pagemap"
    assert target.is_alive()
    first = Path("/proc/self/maps").read_text().partition("-")[0]
    assert target.list_mappings()[0].start_address == int(first, 16)


def test_mappings_are_numbered_as_they_are_listed(
    play_opener: PlayOpener, child: subprocess.Popen[bytes]
) -> None:
    target = Targets(play_opener(open_files).remote).open(child.pid)
    mappings = target.list_mappings()
    assert len(mappings) > 1
    assert target.number_mappings().tolist() == [
        [mapping.start_address // mmap.PAGESIZE, mapping.end_address // mmap.PAGESIZE, mapping.kind]
        for mapping in mappings
    ]


@pytest.mark.usefixtures("clock")
def test_target_is_kept_for_the_next_call(play_opener: PlayOpener) -> None:
    opener = play_opener(open_own_files)
    targets = Targets(opener.remote)
    target = targets.open(7)
    assert targets.open(7) is target
    assert opener.asked == [7]


def test_access_is_asked_for_again_after_a_while(
    play_opener: PlayOpener, clock: Callable[[float], None]
) -> None:
    opener = play_opener(open_own_files)
    targets = Targets(opener.remote)
    target = targets.open(7)
    clock(TARGET_KEPT_SECONDS * 0.99)
    assert targets.open(7) is target
    clock(TARGET_KEPT_SECONDS * 0.02)  # using it has not kept it any longer
    assert targets.open(7) is not target
    assert opener.asked == [7, 7]


def test_access_that_was_lost_is_refused_after_a_while(
    play_opener: PlayOpener, clock: Callable[[float], None]
) -> None:
    answers = iter([open_own_files(7), (Reason.ACCESS_DENIED.number, [])])
    targets = Targets(play_opener(lambda _: next(answers)).remote)
    targets.open(7)
    clock(TARGET_KEPT_SECONDS * 1.01)
    with pytest.raises(CowdError) as refusal:
        targets.open(7)
    assert refusal.value.reason is Reason.ACCESS_DENIED


def test_descriptors_are_closed_when_a_target_is_dropped(
    play_opener: PlayOpener, clock: Callable[[float], None]
) -> None:
    opener = play_opener(open_own_files)
    targets = Targets(opener.remote)
    before = opener.count_descriptors()
    targets.open(7)
    clock(TARGET_KEPT_SECONDS * 0.75)
    targets.open(8)
    assert opener.count_descriptors() == before + 4
    clock(TARGET_KEPT_SECONDS * 0.5)
    targets.drop_expired()
    assert opener.count_descriptors() == before + 2
    clock(TARGET_KEPT_SECONDS * 0.75)
    targets.drop_expired()
    assert opener.count_descriptors() == before


def test_target_in_use_outlives_its_being_dropped(
    play_opener: PlayOpener, clock: Callable[[float], None]
) -> None:
    targets = Targets(play_opener(open_own_files).remote)
    target = targets.open(7)
    clock(TARGET_KEPT_SECONDS * 1.01)
    targets.drop_expired()
    assert target.is_alive()


@pytest.mark.usefixtures("clock")
def test_a_bounded_number_is_kept_and_the_oldest_goes(
    play_opener: PlayOpener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TARGETS_KEPT", 3)
    opener = play_opener(open_own_files)
    targets = Targets(opener.remote)
    before = opener.count_descriptors()
    for pid in (1, 2, 3, 4, 5):
        targets.open(pid)
    assert opener.count_descriptors() == before + 6
    for pid in (5, 4, 3):
        targets.open(pid)
    assert opener.asked == [1, 2, 3, 4, 5]
    targets.open(1)
    assert opener.asked == [1, 2, 3, 4, 5, 1]


def test_process_that_has_ended_is_not_answered_for_from_memory(
    play_opener: PlayOpener, child: subprocess.Popen[bytes]
) -> None:
    opener = play_opener(
        lambda pid: (Reason.NO_SUCH_PROCESS.number, []) if child.returncode else open_files(pid)
    )
    targets = Targets(opener.remote)
    target = targets.open(child.pid)
    assert target.is_alive()
    child.kill()
    child.wait()
    assert not target.is_alive()
    assert target.list_mappings() == []
    with pytest.raises(CowdError) as refusal:
        targets.open(child.pid)
    assert refusal.value.reason is Reason.NO_SUCH_PROCESS
    assert opener.asked == [child.pid] * 2


def test_process_that_executed_another_program_is_opened_again(play_opener: PlayOpener) -> None:
    """pid and start time stay; what was opened stays with the address space that has gone."""
    command = ["/bin/sh", "-c", "echo; read line; exec cat"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as shell:
        assert shell.stdin
        assert shell.stdout
        assert shell.stdout.read(1)
        opener = play_opener(open_files)
        targets = Targets(opener.remote)
        target = targets.open(shell.pid)
        shell.stdin.write(b"go\n")
        shell.stdin.flush()
        shell.stdin.write(b"echoed by cat\n")
        shell.stdin.flush()
        assert shell.stdout.readline() == b"echoed by cat\n"
        assert not target.is_alive()
        assert targets.open(shell.pid) is not target
        assert opener.asked == [shell.pid] * 2


@pytest.mark.parametrize("reaped", [False, True], ids=["zombie", "reaped"])
def test_process_that_ends_while_it_is_opened_is_told_to_be_gone(
    play_opener: PlayOpener, child: subprocess.Popen[bytes], reaped: bool
) -> None:
    """Of a zombie maps reads nothing, of a process that was reaped it fails with ESRCH."""

    def open_and_kill(pid: int) -> Reply:
        reply = open_files(pid)
        child.kill()
        if reaped:
            child.wait()
        else:
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        return reply

    with pytest.raises(CowdError) as refusal:
        Targets(play_opener(open_and_kill).remote).open(child.pid)
    gone = (Reason.NO_ADDRESS_SPACE, Reason.PROCESS_GONE, Reason.NO_SUCH_PROCESS)
    assert refusal.value.reason in gone


OF_AN_OPENER = [
    Reason.ACCESS_DENIED,
    Reason.NO_SUCH_PROCESS,
    Reason.OWN_PROCESS,
    Reason.NO_ADDRESS_SPACE,
    Reason.INTERNAL_ERROR,
]


@pytest.mark.parametrize("reason", OF_AN_OPENER, ids=lambda reason: reason.name)
def test_refusal_is_raised_and_not_remembered(play_opener: PlayOpener, reason: Reason) -> None:
    answers = iter([(reason.number, []), open_own_files(7)])
    opener = play_opener(lambda _: next(answers))
    targets = Targets(opener.remote)
    with pytest.raises(CowdError) as refusal:
        targets.open(4711)
    assert refusal.value.reason is reason
    assert str(refusal.value) == reason.sentence.format(pid=4711)
    assert targets.open(4711).is_alive()
    assert opener.asked == [4711, 4711]


def test_outcome_that_is_not_known_is_an_internal_error(play_opener: PlayOpener) -> None:
    with pytest.raises(CowdError) as refusal:
        Targets(play_opener(lambda _: (9999, [])).remote).open(1)
    assert refusal.value.reason is Reason.INTERNAL_ERROR
