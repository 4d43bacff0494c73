# SPDX-License-Identifier: Apache-2.0
"""Whom a real opener opens, and whom it refuses, among real processes."""

import os
from pathlib import Path

import pytest
from cowdaemon.errors import Reason
from cowdaemon.system import procfs
from cowdaemon.system.privileges import Capability
from cowdaemon.system.processes import fork_child
from harness.outcomes import KERNEL_THREAD
from harness.processes import read_status
from harness.programs import DAEMON, GAMES, HOLDING_NET_RAW, NOBODY, ROOT_USER, StartSubject, User
from unit.broker.opener_client import (
    EVERY,
    FRAME,
    NONE,
    PAGE,
    StartOpener,
)

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it becomes an opener"),
    pytest.mark.usefixtures("nothing_is_left"),
]


def test_target_of_the_caller_is_opened_and_shows_its_frames(
    start_opener: StartOpener, start_subject: StartSubject
) -> None:
    subject = start_subject("anonymous")
    reason, start_time_ticks, (pagemap, maps) = start_opener().ask(subject.pid)
    assert reason is None
    stat = Path(f"/proc/{subject.pid}/stat").read_text().rpartition(")")[2].split()
    assert start_time_ticks == int(stat[19])
    for descriptor, name in (pagemap, "pagemap"), (maps, "maps"):
        assert os.readlink(f"/proc/self/fd/{descriptor}") == f"/proc/{subject.pid}/{name}"
        assert not os.get_inheritable(descriptor)
    address = subject.description["pages"][0]["address"]
    with open(f"/proc/{subject.pid}/pagemap", "rb", buffering=0) as of_root:
        expected = os.pread(of_root.fileno(), 8, address // PAGE * 8)
    assert os.pread(pagemap, 8, address // PAGE * 8) == expected
    assert int.from_bytes(expected, "little") & FRAME


def test_descriptors_are_read_by_whoever_holds_them(
    start_opener: StartOpener, start_subject: StartSubject
) -> None:
    """The worker has neither the caller's uid nor any capability."""
    subject = start_subject("anonymous")
    _, _, (pagemap, maps) = start_opener().ask(subject.pid)
    address = subject.description["pages"][0]["address"]
    reader, writer = os.pipe()

    def read() -> int:
        os.setgroups([])
        os.setresgid(DAEMON.gid, DAEMON.gid, DAEMON.gid)
        os.setresuid(DAEMON.uid, DAEMON.uid, DAEMON.uid)
        os.write(writer, os.pread(pagemap, 8, address // PAGE * 8) + os.pread(maps, 1024, 0))
        return 0

    child = fork_child("cowd-worker", read, keep=[pagemap, maps, writer])
    os.close(writer)
    with open(reader, "rb") as file:
        read_bytes = file.read()
    assert child.reap() == 0
    assert int.from_bytes(read_bytes[:8], "little") & FRAME
    assert read_bytes[8:] == Path(f"/proc/{subject.pid}/maps").read_bytes()[:1024]


def test_opener_has_the_callers_ids_and_no_effective_capability(
    start_opener: StartOpener,
) -> None:
    user = NOBODY._replace(groups=tuple(range(1, 301)))
    opener = start_opener(user)
    assert opener.refusal(1)  # by now it has become what it is
    status = read_status(opener.pids["opener"])
    assert status["Uid"].split() == ["0", "0", "0", str(user.uid)]
    assert status["Gid"].split() == ["0", "0", "0", str(user.gid)]
    assert [int(group) for group in status["Groups"].split()] == list(user.groups)
    assert int(status["CapEff"], 16) == 0
    assert int(status["CapPrm"], 16) == Capability.SYS_ADMIN
    assert status["NoNewPrivs"] == "1"
    assert Path(f"/proc/{opener.pids['opener']}/fd").stat().st_uid == 0  # not dumpable


def test_nothing_is_kept_between_requests(
    start_opener: StartOpener, start_subject: StartSubject
) -> None:
    """Neither of what was handed over, nor of what was refused half-way."""
    subject, undumpable = start_subject("anonymous"), start_subject("undumpable")
    opener = start_opener()
    # It says no when it holds nothing any more; what it hands over it closes a moment later.
    assert opener.refusal(1)
    held = sorted(os.listdir(f"/proc/{opener.pids['opener']}/fd"))
    for pid in (subject.pid, undumpable.pid, subject.pid, os.getpid(), 1):
        opener.ask(pid)
    assert sorted(os.listdir(f"/proc/{opener.pids['opener']}/fd")) == held
    assert int(read_status(opener.pids["opener"])["CapEff"], 16) == 0


@pytest.mark.parametrize("user", [NOBODY, ROOT_USER])
@pytest.mark.parametrize("own", ["broker", "opener", "zygote", "worker"])
def test_cowds_own_processes_are_refused_to_everybody(
    start_opener: StartOpener, own: str, user: User
) -> None:
    opener = start_opener(user, EVERY if user is ROOT_USER else NONE)
    assert opener.refusal(opener.pids[own]) is Reason.OWN_PROCESS


def test_only_two_generations_are_own(
    start_opener: StartOpener, start_subject: StartSubject
) -> None:
    """The test process is the broker's parent, and the subject its sibling: neither is cowd's."""
    opener = start_opener(ROOT_USER, EVERY)
    assert opener.refusal(os.getpid()) is None
    assert opener.refusal(start_subject("anonymous").pid) is None


def test_processes_of_others_are_refused(
    start_opener: StartOpener, start_subject: StartSubject
) -> None:
    opener = start_opener()
    other_uid = start_subject("anonymous", user=GAMES)
    other_gid = start_subject("anonymous", user=NOBODY._replace(gid=GAMES.gid))
    for pid in (other_uid.pid, other_gid.pid, os.getpid(), 1):
        assert opener.refusal(pid) is Reason.ACCESS_DENIED


def test_process_that_forbids_it_is_refused(
    start_opener: StartOpener, start_subject: StartSubject
) -> None:
    assert start_opener().refusal(start_subject("undumpable").pid) is Reason.ACCESS_DENIED


def test_process_with_more_capabilities_is_refused(
    start_opener: StartOpener, start_subject: StartSubject
) -> None:
    """A P-open alone would be granted: SYS_ADMIN counts as PERFMON, which may read its pagemap."""
    subject = start_subject("anonymous", user=HOLDING_NET_RAW)
    assert int(read_status(subject.pid)["CapPrm"], 16)
    assert start_opener().refusal(subject.pid) is Reason.ACCESS_DENIED


@pytest.fixture
def absent_pid() -> int:
    """A pid that was just given back: numbers are handed out in turn."""
    child = fork_child("cowd-test", lambda: 0, keep=[])
    child.reap()
    return child.pid


@pytest.mark.parametrize("pid", [0, -1, -(2**31), 2**31 - 1])
def test_number_that_no_process_has_is_not_found(start_opener: StartOpener, pid: int) -> None:
    assert start_opener().refusal(pid) is Reason.NO_SUCH_PROCESS


def test_process_that_has_ended_is_not_found(start_opener: StartOpener, absent_pid: int) -> None:
    assert start_opener().refusal(absent_pid) is Reason.NO_SUCH_PROCESS


def test_thread_is_no_process(start_opener: StartOpener, start_subject: StartSubject) -> None:
    """/proc leads to it, though it lists it nowhere."""
    subject = start_subject("threaded")
    thread = subject.description["thread"]
    assert Path(f"/proc/{thread}/stat").exists()
    assert start_opener().refusal(thread) is Reason.NO_SUCH_PROCESS


def test_zombie_has_no_address_space(
    start_opener: StartOpener, start_subject: StartSubject
) -> None:
    zombie = start_subject("zombie").description["zombie"]
    assert start_opener().refusal(zombie) is Reason.NO_ADDRESS_SPACE


def test_zombie_has_no_address_space_on_kernels_that_open_it(
    start_opener: StartOpener, start_subject: StartSubject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some do, and read nothing: an empty file stands for theirs."""
    open_in = procfs.open_in

    def open_whatever_it_is(directory: int, name: str) -> int:
        return open_in(directory, name) if name == "stat" else os.open("/dev/null", os.O_RDONLY)

    monkeypatch.setattr(procfs, "open_in", open_whatever_it_is)
    zombie = start_subject("zombie").description["zombie"]
    assert start_opener().refusal(zombie) is Reason.NO_ADDRESS_SPACE


@pytest.mark.parametrize("user", [NOBODY, ROOT_USER])
def test_kernel_thread_has_no_address_space(start_opener: StartOpener, user: User) -> None:
    if not Path(f"/proc/{KERNEL_THREAD}/comm").exists():
        pytest.skip("the kernel's threads are not to be seen in this pid namespace")
    assert start_opener(user).refusal(KERNEL_THREAD) is Reason.NO_ADDRESS_SPACE


def test_root_is_let_in_by_its_own_capabilities_alone(
    start_opener: StartOpener, start_subject: StartSubject
) -> None:
    """uid 0 without them is a user as any other."""
    pid = start_subject("anonymous").pid
    assert start_opener(ROOT_USER).refusal(pid) is Reason.ACCESS_DENIED
    opener = start_opener(ROOT_USER, EVERY)
    assert opener.refusal(pid) is None
    status = read_status(opener.pids["opener"])
    assert int(status["CapEff"], 16) == EVERY
