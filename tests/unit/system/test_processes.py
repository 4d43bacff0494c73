# SPDX-License-Identifier: Apache-2.0
"""Forked children keep what they were told to, and end where they are."""

import errno
import os
import signal
import sys
from collections.abc import Callable

import pytest
from cowdaemon.system.processes import FAILED, fork_child
from harness.processes import read_children, wait_to_be_killed

pytestmark = pytest.mark.usefixtures("nothing_is_left")


def test_child_holds_what_it_was_told_to_keep_and_nothing_else() -> None:
    reader, writer = os.pipe()

    def tell() -> int:
        os.write(writer, " ".join(os.listdir("/proc/self/fd")).encode())
        return 0

    with open("/dev/null", "rb"):
        child = fork_child("cowd-child", tell, keep=[writer])
    os.close(writer)
    assert child.reap() == 0
    with open(reader) as file:
        held = {int(number) for number in file.read().split()}
    assert held >= {2, writer}
    assert len(held) == 3  # the third reads the directory


@pytest.mark.parametrize(
    ("end", "status"),
    [
        (lambda: 0, 0),
        (lambda: 3, 3),
        (lambda: os._exit(4), 4),
        (lambda: os.kill(os.getpid(), signal.SIGALRM), -signal.SIGALRM),
        (lambda: {}["missing"], FAILED),
        (lambda: sys.exit(0), FAILED),
    ],
    ids=["returns", "returns a status", "exits", "alarm", "raises", "leaves"],
)
def test_child_never_returns(end: Callable[[], int], status: int) -> None:
    assert fork_child("cowd-child", end, keep=[]).reap() == status


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_child_leaves_it_to_the_broker_to_stop(number: signal.Signals) -> None:
    """Ctrl-C and a service manager reach all of them at once."""

    def go_on() -> int:
        os.kill(os.getpid(), number)
        return 0

    assert fork_child("cowd-child", go_on, keep=[]).reap() == 0


def test_child_whose_end_would_go_unnoticed_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> int:
        raise OSError(errno.EMFILE, "no more descriptors")

    monkeypatch.setattr(os, "pidfd_open", fail)
    before = read_children(os.getpid())
    with pytest.raises(OSError, match="no more descriptors"):
        fork_child("cowd-child", wait_to_be_killed, keep=[])
    assert read_children(os.getpid()) == before  # not even as a zombie
