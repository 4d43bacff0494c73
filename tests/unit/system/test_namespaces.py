# SPDX-License-Identifier: Apache-2.0
"""Namespaces of real processes, by pidfd and by /proc: both ways tell the same."""

import os
import signal

import pytest
from cowdaemon.system import namespaces as module
from cowdaemon.system.namespaces import can_ask_pidfd, of_pid, of_pidfd, own
from cowdaemon.system.processes import Child, fork_child
from harness.processes import wait_to_be_killed
from unit.children import StartPlaced

IOCTL_WITHOUT_MEANING = 0xFFFE
KINDS = ("pid", "user")

pytestmark = pytest.mark.usefixtures("nothing_is_left")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: to look into others")
needs_ioctls = pytest.mark.skipif(
    not can_ask_pidfd(), reason="this kernel lacks PIDFD_GET_*_NAMESPACE"
)


@pytest.mark.parametrize("kind", KINDS)
def test_own_namespace_is_ours_in_every_way_of_asking(kind: str) -> None:
    assert own(kind) == of_pid(os.getpid(), kind)
    if can_ask_pidfd():
        pidfd = os.pidfd_open(os.getpid())
        assert own(kind) == of_pidfd(pidfd, kind)
        os.close(pidfd)


@needs_root
@needs_ioctls
@pytest.mark.parametrize(
    ("command", "differing"),
    [
        (["unshare", "--user"], {"user"}),
        (["unshare", "--pid", "--fork"], {"pid"}),
        (["unshare", "--user", "--pid", "--fork"], {"user", "pid"}),
        (["unshare", "--net", "--mount", "--ipc", "--uts"], set()),
    ],
    ids=["user", "pid", "both", "others"],
)
def test_other_namespaces_are_told_alike_in_both_ways(
    start_placed: StartPlaced, command: list[str], differing: set[str]
) -> None:
    placed = start_placed(*command)
    for kind in KINDS:
        found = of_pidfd(placed.pidfd, kind)
        assert found == of_pid(placed.pid, kind)
        assert (found != own(kind)) == (kind in differing)


@pytest.fixture
def zombie() -> Child:
    """A process that has ended; it is to be reaped."""
    child = fork_child("cowd-test", wait_to_be_killed, keep=[])
    signal.pidfd_send_signal(child.pidfd, signal.SIGKILL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    return child


@needs_ioctls
@pytest.mark.parametrize("kind", KINDS)
def test_pidfd_of_a_process_that_has_ended_tells_nothing(zombie: Child, kind: str) -> None:
    """Neither before it is reaped nor after."""
    pidfd = os.dup(zombie.pidfd)
    try:
        with pytest.raises(OSError):  # noqa: PT011 - which error it is the kernel may choose
            of_pidfd(pidfd, kind)
        zombie.reap()
        with pytest.raises(OSError):  # noqa: PT011
            of_pidfd(pidfd, kind)
    finally:
        os.close(pidfd)


@pytest.mark.parametrize("kind", KINDS)
def test_zombie_looks_alive_in_proc_until_it_is_reaped(zombie: Child, kind: str) -> None:
    """Which is why a placement by /proc looks whether the peer has ended, too."""
    assert of_pid(zombie.pid, kind) == own(kind)
    zombie.reap()
    with pytest.raises(FileNotFoundError):
        of_pid(zombie.pid, kind)


def test_kernel_that_does_not_tell_namespaces_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(module._REQUESTS, "user", IOCTL_WITHOUT_MEANING)
    assert not can_ask_pidfd()
