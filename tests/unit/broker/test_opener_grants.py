# SPDX-License-Identifier: Apache-2.0
"""What a grant opens beside what the kernel does, with which capabilities, and what it does not."""

import errno
import mmap
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cowdaemon import wire
from cowdaemon.errors import Reason
from cowdaemon.system import procfs
from cowdaemon.system.privileges import Capability
from cowdaemon.system.processes import FAILED
from cowdaemon.wire import Detail, Purpose
from harness.outcomes import KERNEL_THREAD
from harness.processes import read_status
from harness.programs import GAMES, HOLDING_NET_RAW, NOBODY, ROOT_USER, StartSubject, User
from unit.broker.opener_client import (
    EVERY,
    FRAME,
    NONE,
    PAGE,
    StartOpener,
)

OPENS = (Purpose.PAGES, Purpose.SUMMARY, Purpose.SWEEP)
HELD = Capability.SYS_ADMIN | EVERY
"""By the opener of a caller with a grant."""

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it becomes an opener"),
    pytest.mark.usefixtures("nothing_is_left"),
]
every_grant = pytest.mark.parametrize("granted", [Detail.SUMMARY, Detail.PAGES])


@pytest.mark.parametrize(
    ("granted", "opened"),
    [(Detail.NONE, ()), (Detail.SUMMARY, (Purpose.SUMMARY, Purpose.SWEEP)), (Detail.PAGES, OPENS)],
)
def test_grant_opens_the_processes_of_others_for_what_it_is_for(
    start_opener: StartOpener,
    start_subject: StartSubject,
    granted: Detail,
    opened: tuple[Purpose, ...],
) -> None:
    """Of another uid, another gid, of one that forbids it, one with more capabilities, and root."""
    other_gid = NOBODY._replace(gid=GAMES.gid)
    pids = [
        start_subject("anonymous", user=GAMES).pid,
        start_subject("anonymous", user=other_gid).pid,
        start_subject("undumpable").pid,
        start_subject("anonymous", user=HOLDING_NET_RAW).pid,
        os.getpid(),
    ]
    opener = start_opener(granted=granted)
    for pid in pids:
        for purpose in OPENS:
            expected = None if purpose in opened else Reason.ACCESS_DENIED
            assert opener.refusal(pid, purpose) is expected, (pid, purpose)


@pytest.mark.parametrize("granted", Detail)
@pytest.mark.parametrize("purpose", OPENS)
def test_own_process_is_opened_whatever_is_granted(
    start_opener: StartOpener, start_subject: StartSubject, granted: Detail, purpose: Purpose
) -> None:
    subject = start_subject("anonymous")
    assert start_opener(granted=granted).refusal(subject.pid, purpose) is None


@every_grant
@pytest.mark.parametrize("own", ["broker", "opener", "zygote", "worker"])
@pytest.mark.parametrize("user", [NOBODY, ROOT_USER])
def test_cowds_own_processes_are_granted_to_nobody(
    start_opener: StartOpener, own: str, user: User, granted: Detail
) -> None:
    opener = start_opener(user, EVERY if user is ROOT_USER else NONE, granted)
    for purpose in OPENS:
        assert opener.refusal(opener.pids[own], purpose) is Reason.OWN_PROCESS


@every_grant
def test_what_cannot_be_opened_is_told_for_what_it_is(
    start_opener: StartOpener, start_subject: StartSubject, granted: Detail
) -> None:
    opener = start_opener(granted=granted)
    zombie = start_subject("zombie", user=GAMES).description["zombie"]
    thread = start_subject("threaded", user=GAMES).description["thread"]
    assert opener.refusal(zombie, Purpose.SWEEP) is Reason.NO_ADDRESS_SPACE
    assert opener.refusal(thread, Purpose.SWEEP) is Reason.NO_SUCH_PROCESS
    for pid in 0, -1, 2**31 - 1:
        assert opener.refusal(pid, Purpose.SWEEP) is Reason.NO_SUCH_PROCESS
    if Path(f"/proc/{KERNEL_THREAD}/comm").exists():
        assert opener.refusal(KERNEL_THREAD, Purpose.SWEEP) is Reason.NO_ADDRESS_SPACE


def test_granted_process_shows_its_frames(
    start_opener: StartOpener, start_subject: StartSubject
) -> None:
    subject = start_subject("anonymous", user=GAMES)
    reason, start_time_ticks, (pagemap, maps) = start_opener(granted=Detail.PAGES).ask(subject.pid)
    assert reason is None
    stat = Path(f"/proc/{subject.pid}/stat").read_text().rpartition(")")[2].split()
    assert start_time_ticks == int(stat[19])
    address = subject.description["pages"][0]["address"]
    with open(f"/proc/{subject.pid}/pagemap", "rb", buffering=0) as of_root:
        expected = os.pread(of_root.fileno(), 8, address // PAGE * 8)
    assert os.pread(pagemap, 8, address // PAGE * 8) == expected
    assert int.from_bytes(expected, "little") & FRAME
    assert os.pread(maps, 1024, 0) == Path(f"/proc/{subject.pid}/maps").read_bytes()[:1024]


@every_grant
def test_no_capability_is_effective_between_requests(
    start_opener: StartOpener, start_subject: StartSubject, granted: Detail
) -> None:
    """After what the kernel opened, what the grant opened and what neither did."""
    own, others = start_subject("anonymous"), start_subject("anonymous", user=GAMES)
    opener = start_opener(granted=granted)
    assert opener.refusal(opener.pids["opener"]) is Reason.OWN_PROCESS
    held = sorted(os.listdir(f"/proc/{opener.pids['opener']}/fd"))
    for purpose in OPENS:
        for pid in own.pid, others.pid, opener.pids["broker"], 2**31 - 1:
            opener.ask(pid, purpose)
            status = read_status(opener.pids["opener"])
            assert int(status["CapEff"], 16) == 0
            assert int(status["CapPrm"], 16) == HELD
    opener.ask(0, Purpose.LIST)
    # Now it holds nothing any more: what it hands over it closes a moment later.
    assert opener.refusal(opener.pids["opener"]) is Reason.OWN_PROCESS
    assert int(read_status(opener.pids["opener"])["CapEff"], 16) == 0
    assert sorted(os.listdir(f"/proc/{opener.pids['opener']}/fd")) == held


def test_root_is_left_with_its_own_capabilities(
    start_opener: StartOpener, start_subject: StartSubject
) -> None:
    """What its processes lack the grant has, while it opens."""
    others = start_subject("anonymous", user=GAMES)
    for own in NONE, Capability.DAC_READ_SEARCH, EVERY:
        opener = start_opener(ROOT_USER, own, Detail.PAGES)
        assert opener.refusal(others.pid) is None
        assert int(read_status(opener.pids["opener"])["CapEff"], 16) == own


@pytest.fixture
def read_opens(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[str]]]:
    """Return a function that returns what openers have opened, with which capabilities."""
    open_in = procfs.open_in
    with mmap.mmap(-1, mmap.PAGESIZE) as noted:  # shared with the children

        def note(directory: int, name: str) -> int:
            if name != "stat":
                effective = int(read_status(os.getpid())["CapEff"], 16)
                noted.write(f"{name} {Capability(effective)!r}\n".encode())
            return open_in(directory, name)

        monkeypatch.setattr(procfs, "open_in", note)
        yield lambda: noted[:].rstrip(b"\0").decode().splitlines()


def test_what_is_granted_is_opened_in_the_same_order_once_the_kernel_has_refused(
    start_opener: StartOpener,
    start_subject: StartSubject,
    read_opens: Callable[[], list[str]],
) -> None:
    """A process of the caller's is opened without: a grant is no reason to do without the check."""
    opener = start_opener(granted=Detail.PAGES)
    assert opener.refusal(start_subject("anonymous", user=GAMES).pid) is None
    assert read_opens() == [
        f"pagemap {NONE!r}",
        f"pagemap {EVERY!r}",
        f"pagemap {HELD!r}",
        f"pagemap {EVERY!r}",
        f"maps {EVERY!r}",
    ]


def test_what_the_kernel_opens_is_opened_without_the_grant(
    start_opener: StartOpener,
    start_subject: StartSubject,
    read_opens: Callable[[], list[str]],
) -> None:
    opener = start_opener(granted=Detail.PAGES)
    assert opener.refusal(start_subject("anonymous").pid) is None
    assert read_opens() == [
        f"pagemap {NONE!r}",
        f"pagemap {Capability.SYS_ADMIN!r}",
        f"pagemap {NONE!r}",
        f"maps {NONE!r}",
    ]


@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (errno.EACCES, None),
        (errno.ENOENT, None),
        (errno.EMFILE, Reason.INTERNAL_ERROR),
        (errno.ENOMEM, Reason.INTERNAL_ERROR),
    ],
    ids=["EACCES", "ENOENT", "EMFILE", "ENOMEM"],
)
def test_grant_is_tried_where_the_kernel_refuses_and_for_no_other_failure(
    start_opener: StartOpener,
    start_subject: StartSubject,
    monkeypatch: pytest.MonkeyPatch,
    place: int,
    error: int,
    reason: Reason | None,
) -> None:
    """Whichever open it is; ask() sees that nothing opened before it is handed over."""
    open_in, opened = procfs.open_in, -1

    def fail_once(directory: int, name: str) -> int:
        nonlocal opened
        opened += name != "stat"
        if name != "stat" and opened == place:
            raise OSError(error, os.strerror(error))
        return open_in(directory, name)

    monkeypatch.setattr(procfs, "open_in", fail_once)
    opener = start_opener(granted=Detail.PAGES)
    assert opener.refusal(start_subject("anonymous").pid) is reason


@pytest.mark.parametrize("result", [-1, 0], ids=["fails", "does nothing"])
@pytest.mark.parametrize("after_calls", [1, 2, 3, 4])
def test_opener_that_loses_hold_of_a_grant_ends(
    start_opener: StartOpener,
    start_subject: StartSubject,
    break_libc: Callable[..., None],
    result: int,
    after_calls: int,
) -> None:
    """When it raises what was granted, and SYS_ADMIN, and when it drops them."""
    break_libc("capset", result, errno.ENOMEM, after_calls)
    subject = start_subject("anonymous", user=GAMES)
    opener = start_opener(granted=Detail.PAGES)
    opener.send(wire.OpenRequest(Purpose.PAGES, subject.pid).pack())
    assert opener.read_end() == FAILED
