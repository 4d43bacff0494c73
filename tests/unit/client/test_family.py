# SPDX-License-Identifier: Apache-2.0
"""Families: who is a child, and what the daemon says of parent and child."""

import os
import subprocess
import sys

import cowd
import pytest
from cowd import (
    MemoryGroup,
    Shares,
    _family,
)
from cowdaemon.errors import CowdError, Reason

PAGE = 4096


# Children

FORK = """
import os, sys, threading
def fork_one():
    pid = os.fork()
    if pid == 0:
        sys.stdin.read()
        os._exit(0)
    pids.append(pid)
    return pid
pids = []
fork_one()
thread = threading.Thread(target=lambda: (fork_one(), stop.wait()))
stop = threading.Event()
thread.start()
while len(pids) < 2:
    pass
print(*pids, flush=True)
sys.stdin.read()
stop.set()
for pid in pids:
    os.waitpid(pid, 0)
"""


@pytest.fixture
def forked():
    """Return a process and its children, one of them forked by a thread."""
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", FORK],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    yield process.pid, sorted(map(int, process.stdout.readline().split()))
    process.communicate()


@pytest.mark.parametrize("has_file", [True, False])
def test_children_are_found(forked, monkeypatch, has_file):
    """Seen to fail where only the first thread's children are read."""
    pid, children = forked
    if has_file:
        assert os.path.exists(f"/proc/{pid}/task/{pid}/children")
        monkeypatch.setattr(_family, "_is_child", None)
    else:
        read = _family._read
        monkeypatch.setattr(_family, "_read", lambda path: read(path.replace("children", "none")))
    assert _family._list_children(pid) == children


def test_a_process_that_is_gone_has_no_children_and_no_parent():
    process = subprocess.Popen(["true"])
    process.wait()
    assert _family._list_children(process.pid) == []
    assert _family._read_parent(process.pid) is None


def test_a_parent_is_read_past_any_name(child):
    assert _family._read_parent(child.pid) == os.getpid()


# Families, of the fake daemon's pages


@pytest.fixture
def tell(fake, monkeypatch):
    """Return a function that asks for the family of this process, with these children."""
    fake.other_start_time_ticks = 500

    def ask(*pids):
        monkeypatch.setattr(_family, "_list_children", lambda _: list(pids))
        return cowd.family(os.getpid(), address=fake.path)

    return ask


def test_a_family_is_a_parent_and_its_children(fake, tell, child):
    fake.compared = "==cp"
    told = tell(child.pid)
    assert (told.pid, told.start_time_ticks, told.page_size_bytes) == (os.getpid(), 500, PAGE)
    assert told.parent == cowd.PageCounts(absent=3, anon=1)
    [only] = told.children
    assert (only.pid, only.start_time_ticks) == (child.pid, 500)
    assert only.groups == {
        MemoryGroup.FILE: Shares(shared=2, copied_by_child=1, copied_by_parent=1)
    }
    assert only.total == only.groups[MemoryGroup.FILE]
    assert only.page_counts == told.parent
    assert (only.comparison.pid, only.comparison.other_pid) == (os.getpid(), child.pid)
    assert told.skipped == ()


def test_who_has_no_children_is_told_of_alone(tell):
    told = tell()
    assert (told.children, told.skipped, told.parent.total) == ((), (), 4)


def test_a_stranger_is_no_child(tell, child):
    """Whose pid was a child's: here that of the first process. Seen to fail without the look."""
    told = tell(1, child.pid)
    assert [each.pid for each in told.children] == [child.pid]
    [(pid, error)] = told.skipped
    assert (pid, type(error), error.reason) == (1, cowd.NoSuchProcess, "NO_SUCH_PROCESS")


def test_a_child_that_is_another_by_then_is_left_out(fake, tell, child):
    """Its start time is another one when it is compared."""
    fake.failure_of_comparisons = CowdError(
        Reason.START_TIME_DIFFERS, pid=child.pid, actual=1, expected=500
    )
    told = tell(child.pid)
    assert told.children == ()
    [(pid, error)] = told.skipped
    assert (pid, error.reason) == (child.pid, "START_TIME_DIFFERS")


def test_what_is_about_the_parent_is_no_childs(fake, tell, child, monkeypatch):
    """Seen to fail where every error is put down to the child."""

    def end(*_):
        fake.start_times = [600]
        raise cowd.Aborted("gone", pid=os.getpid())

    monkeypatch.setattr(_family, "_compare_child", end)
    with pytest.raises(cowd.FailedPrecondition, match="another process"):
        tell(child.pid)
