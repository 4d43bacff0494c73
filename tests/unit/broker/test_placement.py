# SPDX-License-Identifier: Apache-2.0
"""Real processes in other namespaces are told from ours, in both ways of looking at them."""

import os
import select
import signal
from functools import partial

import pytest
from cowdaemon.broker import placement as module
from cowdaemon.broker.placement import judge_placement, place_by_pidfd, place_by_proc
from cowdaemon.errors import Reason
from cowdaemon.system import namespaces
from cowdaemon.system.namespaces import can_ask_pidfd
from cowdaemon.system.processes import FAILED, fork_child
from harness.processes import read_status, wait_to_be_killed
from unit.children import StartPlaced

SECONDS = 10.0
PLACES = (Reason.FOREIGN_USER_NAMESPACE, Reason.FOREIGN_PID_NAMESPACE, Reason.CALLER_GONE)

pytestmark = pytest.mark.usefixtures("nothing_is_left")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: to make a pid namespace")


def place_in_child(pid: int, uid: int, pidfd: int) -> Reason | None:
    """Return what a process of its own says that looks at /proc."""
    place = partial(place_by_proc, pid, uid, pidfd, os.getpid())
    child = fork_child("cowd-placement", place, keep=[pidfd])
    ended, _, _ = select.select([child.pidfd], [], [], SECONDS)
    if not ended:
        signal.pidfd_send_signal(child.pidfd, signal.SIGKILL)
    status = child.reap()
    assert ended, "it hung"
    return judge_placement(status)


NAMESPACES = [
    pytest.param([], None, id="ours"),
    pytest.param(["unshare", "--user"], Reason.FOREIGN_USER_NAMESPACE, id="user"),
    pytest.param(
        ["unshare", "--user", "--map-root-user"], Reason.FOREIGN_USER_NAMESPACE, id="user, as root"
    ),
    pytest.param(
        ["unshare", "--user", "--pid", "--fork"], Reason.FOREIGN_USER_NAMESPACE, id="user and pid"
    ),
    pytest.param(
        ["unshare", "--pid", "--fork"],
        Reason.FOREIGN_PID_NAMESPACE,
        id="pid",
        marks=needs_root,
    ),
    pytest.param(
        ["unshare", "--net", "--mount", "--ipc", "--uts"], None, id="others", marks=needs_root
    ),
]


@pytest.mark.skipif(not can_ask_pidfd(), reason="this kernel lacks PIDFD_GET_*_NAMESPACE")
@pytest.mark.parametrize(("command", "reason"), NAMESPACES)
def test_pidfd_tells_who_lives_in_other_namespaces(
    start_placed: StartPlaced, command: list[str], reason: Reason | None
) -> None:
    assert place_by_pidfd(start_placed(*command).pidfd) is reason


@pytest.mark.parametrize(("command", "reason"), NAMESPACES)
def test_proc_tells_who_lives_in_other_namespaces(
    start_placed: StartPlaced, command: list[str], reason: Reason | None
) -> None:
    placed = start_placed(*command)
    if os.geteuid() and reason:
        pytest.skip("needs root: to look into the namespaces of a process in another one")
    uid = int(read_status(placed.pid)["Uid"].split()[1])
    assert place_in_child(placed.pid, uid, placed.pidfd) is reason


def test_process_of_another_uid_than_the_peers_is_another(
    start_placed: StartPlaced,
) -> None:
    """Its number passed on before we held it; so did its namespaces."""
    placed = start_placed()
    uid = os.geteuid() + 1
    assert place_in_child(placed.pid, uid, placed.pidfd) is Reason.CALLER_GONE


@pytest.mark.parametrize("reaped", [False, True], ids=["zombie", "reaped"])
def test_process_that_has_ended_is_told_to_be_gone(reaped: bool) -> None:
    child = fork_child("cowd-test", wait_to_be_killed, keep=[])
    signal.pidfd_send_signal(child.pidfd, signal.SIGKILL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    pidfd = os.dup(child.pidfd)
    if reaped:
        child.reap()
    try:
        if can_ask_pidfd():
            assert place_by_pidfd(pidfd) is Reason.CALLER_GONE
        assert place_in_child(child.pid, os.geteuid(), pidfd) is Reason.CALLER_GONE
    finally:
        os.close(pidfd)
        if not reaped:
            child.reap()


def test_placement_that_hangs_is_ended_by_its_alarm_and_says_nothing(
    start_placed: StartPlaced, monkeypatch: pytest.MonkeyPatch
) -> None:
    placed = start_placed()
    monkeypatch.setattr(module, "PLACEMENT_SECONDS", 0.05)
    monkeypatch.setattr(namespaces, "own", lambda _: os.read(os.pipe()[0], 1))
    refusal = place_in_child(placed.pid, os.geteuid(), placed.pidfd)
    assert refusal is Reason.CALLER_GONE


def test_process_that_looks_for_another_broker_than_its_own_places_nobody(
    start_placed: StartPlaced,
) -> None:
    """Its broker died, and it would not be told."""
    placed = start_placed()
    place = partial(place_by_proc, placed.pid, os.geteuid(), placed.pidfd, os.getppid())
    status = fork_child("cowd-placement", place, keep=[placed.pidfd]).reap()
    assert status == FAILED
    assert judge_placement(status) is Reason.CALLER_GONE


def test_reason_travels_as_an_exit_status() -> None:
    for reason in PLACES:
        assert 0 < reason.number < 256
        assert reason.number != FAILED
        assert judge_placement(reason.number) is reason
    assert judge_placement(0) is None


@pytest.mark.parametrize("status", [FAILED, -signal.SIGALRM, -signal.SIGKILL])
def test_process_that_failed_places_nobody(status: int) -> None:
    assert judge_placement(status) is Reason.CALLER_GONE


def test_status_of_no_reason_lets_nobody_in() -> None:
    """As of an interpreter that could not go on."""
    assert judge_placement(255)
