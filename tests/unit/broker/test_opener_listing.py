# SPDX-License-Identifier: Apache-2.0
"""The list of processes that are worth trying: whose they are, and that nobody changes it."""

import array
import errno
import fcntl
import mmap
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from cowdaemon.errors import Reason
from cowdaemon.system.privileges import Capability
from cowdaemon.wire import Detail, Purpose
from harness.programs import GAMES, NOBODY, ROOT_USER, StartSubject, User
from unit.broker.opener_client import EVERY, NONE, Opener, StartOpener

INIT = 1

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it becomes an opener"),
    pytest.mark.usefixtures("nothing_is_left"),
]


def ask(opener: Opener) -> int:
    """Return the file that the list is in."""
    reason, start_time_ticks, (listed,) = opener.ask(0, Purpose.LIST)
    assert reason is None
    assert start_time_ticks == 0
    return listed


def read_pids(listed: int) -> list[int]:
    return array.array("i", os.pread(listed, os.fstat(listed).st_size, 0)).tolist()


def list_processes() -> set[int]:
    """Return what /proc shows to root."""
    return {int(name) for name in os.listdir("/proc") if name.isdigit()}


def read_owner(pid: int) -> int:
    """Return whose the directory in /proc is; -1 if it is there no more."""
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except FileNotFoundError:
        return -1


@pytest.mark.parametrize("user", [NOBODY, GAMES, ROOT_USER])
def test_list_of_who_has_no_authority_has_its_own_processes(
    start_opener: StartOpener, start_subject: StartSubject, user: User
) -> None:
    """uid 0 without capabilities is a user as any other."""
    of_user = {start_subject("anonymous", user=user).pid for _ in range(2)}
    before = {pid for pid in list_processes() if read_owner(pid) == user.uid}
    assert of_user <= before
    pids = read_pids(ask(start_opener(user)))
    after = {pid for pid in list_processes() if read_owner(pid) == user.uid}
    assert before & after <= set(pids)
    assert {read_owner(pid) for pid in pids} <= {user.uid, -1}


@pytest.mark.parametrize(
    ("user", "capabilities", "granted"),
    [
        (NOBODY, NONE, Detail.SUMMARY),
        (NOBODY, NONE, Detail.PAGES),
        (ROOT_USER, NONE, Detail.SUMMARY),
        (ROOT_USER, EVERY, Detail.NONE),
        (ROOT_USER, Capability.SYS_PTRACE, Detail.NONE),
    ],
    ids=["summary", "pages", "root, summary", "root", "root, SYS_PTRACE"],
)
def test_list_of_who_has_authority_has_every_process(
    start_opener: StartOpener,
    start_subject: StartSubject,
    user: User,
    capabilities: Capability,
    granted: Detail,
) -> None:
    others = {start_subject("anonymous", user=user).pid for user in (NOBODY, GAMES, ROOT_USER)}
    before = list_processes()
    pids = set(read_pids(ask(start_opener(user, capabilities, granted))))
    assert before & list_processes() <= pids
    assert {INIT, os.getpid(), *others} <= pids


def test_list_is_ascending_and_has_each_process_once(start_opener: StartOpener) -> None:
    pids = read_pids(ask(start_opener(granted=Detail.SUMMARY)))
    assert pids == sorted(set(pids))
    assert len(pids) > 2


def test_who_has_no_process_has_an_empty_list(start_opener: StartOpener) -> None:
    assert read_pids(ask(start_opener(User("new", 4711, 4711)))) == []


def change_by_write(listed: int) -> None:
    os.pwrite(listed, b"\0\0\0\0", 0)


def change_by_append(listed: int) -> None:
    os.pwrite(listed, b"\0\0\0\0", os.fstat(listed).st_size)


def grow(listed: int) -> None:
    os.ftruncate(listed, os.fstat(listed).st_size + mmap.PAGESIZE)


def shrink(listed: int) -> None:
    os.ftruncate(listed, 0)


def map_writable(listed: int) -> None:
    mmap.mmap(listed, os.fstat(listed).st_size).close()


def unseal(listed: int) -> None:
    fcntl.fcntl(listed, fcntl.F_ADD_SEALS, 0)


def write_to_it_opened_anew(listed: int) -> None:
    Path(f"/proc/self/fd/{listed}").write_bytes(b"\0\0\0\0")


@pytest.mark.parametrize(
    "change",
    [
        change_by_write,
        change_by_append,
        grow,
        shrink,
        map_writable,
        unseal,
        write_to_it_opened_anew,
    ],
)
def test_list_cannot_be_changed(
    start_opener: StartOpener, start_subject: StartSubject, change: Callable[[int], None]
) -> None:
    """The opener has let go of it; whoever else gets it reads what was found."""
    start_subject("anonymous")
    listed = ask(start_opener())
    before = read_pids(listed)
    with pytest.raises(PermissionError):
        change(listed)
    assert read_pids(listed) == before != []


def test_opener_answers_after_a_list_and_keeps_nothing_of_it(
    start_opener: StartOpener, start_subject: StartSubject
) -> None:
    """Also when the number in the request is that of somebody else's process."""
    subject = start_subject("anonymous")
    opener = start_opener()
    assert opener.refusal(INIT) is Reason.ACCESS_DENIED
    held = sorted(os.listdir(f"/proc/{opener.pids['opener']}/fd"))
    assert opener.refusal(INIT, Purpose.LIST) is None
    ask(opener)
    assert opener.refusal(INIT) is Reason.ACCESS_DENIED
    assert sorted(os.listdir(f"/proc/{opener.pids['opener']}/fd")) == held
    assert opener.refusal(subject.pid) is None


def test_list_that_cannot_be_made_is_told(
    start_opener: StartOpener, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> int:
        raise OSError(errno.EMFILE, "no more descriptors")

    monkeypatch.setattr(os, "memfd_create", fail)
    opener = start_opener()
    assert opener.refusal(0, Purpose.LIST) is Reason.INTERNAL_ERROR
    assert opener.refusal(INIT) is Reason.ACCESS_DENIED
