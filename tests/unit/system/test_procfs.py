# SPDX-License-Identifier: Apache-2.0
"""What /proc tells of real processes, living, dead and of strange names."""

import errno
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cowdaemon.system.processes import Child, fork_child
from cowdaemon.system.procfs import (
    Stat,
    has_ended,
    open_directory,
    open_in,
    read_stat,
    read_status,
    verify_process,
)
from harness.outcomes import ABSENT_PID, KERNEL_THREAD
from harness.processes import wait_to_be_killed
from harness.programs import StartSubject
from unit.children import StartPlaced

NAMES = [b"a:\tb\nUid:\t", b"x) Z 1 (y", b"\xff\xfe", b"\\"]

pytestmark = pytest.mark.usefixtures("nothing_is_left")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: subjects are another user's")


@pytest.fixture
def zombie() -> Iterator[Child]:
    """A process that has ended and is not reaped yet."""
    child = fork_child("cowd-test", wait_to_be_killed, keep=[])
    signal.pidfd_send_signal(child.pidfd, signal.SIGKILL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    yield child
    child.reap()


@contextmanager
def named(name: bytes) -> Iterator[None]:
    """Have the calling process be called so."""
    comm = Path("/proc/self/comm")
    before = comm.read_bytes()
    try:
        comm.write_bytes(name)
        yield
    finally:
        comm.write_bytes(before.rstrip(b"\n"))


def stat_of(pid: int) -> Stat:
    directory = open_directory(pid)
    try:
        return read_stat(directory)
    finally:
        os.close(directory)


@pytest.mark.parametrize("name", NAMES)
def test_stat_of_a_process_whose_name_may_be_anything(name: bytes) -> None:
    with named(name):
        stat = stat_of(os.getpid())
    assert stat.parent_pid == os.getppid()
    assert not stat.has_no_memory
    # 20 fields after the state, which is the first after the name (proc(5)).
    fields = Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()
    assert stat.start_time_ticks == int(fields[19])


@pytest.mark.parametrize("name", NAMES)
def test_status_of_a_process_whose_name_may_be_anything(name: bytes) -> None:
    """It is the first line of its status, with what would break lines escaped."""
    with named(name):
        status = read_status(os.getpid())
    assert status["Uid"].split()[1] == str(os.geteuid())
    assert status["Pid"] == str(os.getpid())


def test_zombie_has_no_memory(zombie: Child) -> None:
    assert stat_of(zombie.pid).has_no_memory
    assert stat_of(zombie.pid).parent_pid == os.getpid()


def test_kernel_thread_has_no_memory() -> None:
    if not Path(f"/proc/{KERNEL_THREAD}/comm").exists():
        pytest.skip("the kernel's threads are not to be seen in this pid namespace")
    assert stat_of(KERNEL_THREAD).has_no_memory


def test_directory_stays_with_its_process() -> None:
    """Whoever gets its number next is not behind it."""
    child = fork_child("cowd-test", wait_to_be_killed, keep=[])
    directory = open_directory(child.pid)
    try:
        os.close(open_in(directory, "stat"))
        signal.pidfd_send_signal(child.pidfd, signal.SIGKILL)
        child.reap()
        with pytest.raises(ProcessLookupError):
            open_in(directory, "stat")
    finally:
        os.close(directory)


def test_descriptors_are_not_inherited() -> None:
    directory = open_directory(os.getpid())
    status = open_in(directory, "status")
    try:
        assert not os.get_inheritable(directory)
        assert not os.get_inheritable(status)
    finally:
        os.close(directory)
        os.close(status)


def test_process_that_is_not_there_raises() -> None:
    for read in open_directory, read_status:
        with pytest.raises(FileNotFoundError):
            read(ABSENT_PID)
    with pytest.raises(ProcessLookupError):
        verify_process(ABSENT_PID)


@needs_root
def test_thread_is_no_process(start_subject: StartSubject) -> None:
    """/proc leads to it, though it lists it nowhere."""
    subject = start_subject("threaded")
    thread = subject.description["thread"]
    verify_process(subject.pid)
    os.close(open_directory(thread))
    with pytest.raises(FileNotFoundError):
        verify_process(thread)


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (errno.EINVAL, FileNotFoundError),
        (errno.ENOENT, FileNotFoundError),
        (errno.ESRCH, ProcessLookupError),
        (errno.EMFILE, OSError),
    ],
    ids=lambda value: errno.errorcode[value] if isinstance(value, int) else "",
)
def test_thread_is_no_process_on_any_kernel(
    monkeypatch: pytest.MonkeyPatch, error: int, raised: type[OSError]
) -> None:
    """Older ones say EINVAL of it; what they say of others stays what it is."""

    def fail(_: int) -> int:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "pidfd_open", fail)
    with pytest.raises(raised) as failure:
        verify_process(os.getpid())
    assert type(failure.value) is raised


def test_process_lives_or_has_ended(start_placed: StartPlaced, zombie: Child) -> None:
    assert not has_ended(start_placed().pidfd)
    assert has_ended(zombie.pidfd)
