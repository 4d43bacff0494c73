# SPDX-License-Identifier: Apache-2.0
"""Real processes in other namespaces are told from ours, in both ways of looking at them."""

import os
import select
import signal
from collections.abc import Callable
from typing import Any

import pytest
from cowdaemon.broker import namespaces as module
from cowdaemon.broker.namespaces import PlacementChild, can_place_by_pidfd, place_by_pidfd
from cowdaemon.system.processes import fork_child
from cowdaemon.errors import Reason
from harness.processes import read_status

SECONDS = 10.0
IOCTL_WITHOUT_MEANING = 0xFFFE
PLACES = (Reason.FOREIGN_USER_NAMESPACE, Reason.FOREIGN_PID_NAMESPACE, Reason.CALLER_GONE)

pytestmark = [
    pytest.mark.usefixtures("nothing_is_left"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: to make a pid namespace")


def place_in_child(pid: int, uid: int, pidfd: int) -> Reason | None:
    """Return what a process of its own says that looks at /proc."""
    placement = PlacementChild(pid, uid, pidfd)
    ended, _, _ = select.select([placement.child.pidfd], [], [], SECONDS)
    if not ended:
        signal.pidfd_send_signal(placement.child.pidfd, signal.SIGKILL)
    refusal = placement.finish()
    assert ended, "it hung"
    return refusal


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


@pytest.mark.skipif(not can_place_by_pidfd(), reason="this kernel lacks PIDFD_GET_*_NAMESPACE")
@pytest.mark.parametrize(("command", "reason"), NAMESPACES)
def test_place_by_pidfd(
    start_placed: Callable[..., Any], command: list[str], reason: Reason | None
) -> None:
    assert place_by_pidfd(start_placed(*command).pidfd) is reason


@pytest.mark.parametrize(("command", "reason"), NAMESPACES)
def test_place_by_proc(
    start_placed: Callable[..., Any], command: list[str], reason: Reason | None
) -> None:
    placed = start_placed(*command)
    if os.geteuid() and reason:
        pytest.skip("needs root: to look into the namespaces of a process in another one")
    uid = int(read_status(placed.pid)["Uid"].split()[1])
    assert place_in_child(placed.pid, uid, placed.pidfd) is reason


def test_process_of_another_uid_than_the_peers_is_another(
    start_placed: Callable[..., Any],
) -> None:
    """Its number passed on before we held it; so did its namespaces."""
    placed = start_placed()
    uid = os.geteuid() + 1
    assert place_in_child(placed.pid, uid, placed.pidfd) is Reason.CALLER_GONE


@pytest.mark.parametrize("reaped", [False, True], ids=["zombie", "reaped"])
def test_process_that_has_ended_is_told_to_be_gone(reaped: bool) -> None:
    child = fork_child("cowd-test", signal.pause, keep=[])
    signal.pidfd_send_signal(child.pidfd, signal.SIGKILL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    pidfd = os.dup(child.pidfd)
    if reaped:
        child.reap()
    try:
        if can_place_by_pidfd():
            assert place_by_pidfd(pidfd) is Reason.CALLER_GONE
        assert place_in_child(child.pid, os.geteuid(), pidfd) is Reason.CALLER_GONE
    finally:
        os.close(pidfd)
        if not reaped:
            child.reap()


def test_placement_that_hangs_is_ended_by_its_alarm_and_says_nothing(
    start_placed: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    placed = start_placed()
    monkeypatch.setattr(module, "PLACEMENT_SECONDS", 0.05)
    monkeypatch.setattr(module, "_own_namespace", lambda _: os.read(os.pipe()[0], 1))
    refusal = place_in_child(placed.pid, os.geteuid(), placed.pidfd)
    assert refusal is Reason.CALLER_GONE


def test_kernel_that_does_not_tell_namespaces_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PIDFD_GET_USER_NAMESPACE", IOCTL_WITHOUT_MEANING)
    assert not can_place_by_pidfd()


def test_reasons_of_placement_fit_the_byte_that_they_travel_in() -> None:
    assert all(reason.number < 256 for reason in PLACES)
