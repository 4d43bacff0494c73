# SPDX-License-Identifier: Apache-2.0
"""An opener that cannot do as it must opens nothing: refusals half-way, lost privileges, deaths."""

import errno
import mmap
import os
import select
import signal
from collections.abc import Callable
from typing import Any

import pytest
from cowdaemon import wire
from cowdaemon.broker import opener as module
from cowdaemon.errors import Reason
from cowdaemon.system import procfs
from cowdaemon.system.privileges import Capability
from cowdaemon.system.processes import FAILED
from harness.processes import Departure, read_status
from harness.programs import StartSubject
from unit.broker.opener_client import (
    SECONDS,
    StartOpener,
)

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it becomes an opener"),
    pytest.mark.usefixtures("nothing_is_left"),
]


OPENED = ("pagemap", "pagemap", "pagemap", "maps")
OF_ERRORS = {
    errno.EACCES: Reason.ACCESS_DENIED,
    errno.EPERM: Reason.ACCESS_DENIED,
    errno.ENOENT: Reason.NO_SUCH_PROCESS,
    errno.ESRCH: Reason.NO_SUCH_PROCESS,
    errno.EMFILE: Reason.INTERNAL_ERROR,
    errno.ENOMEM: Reason.INTERNAL_ERROR,
}


def test_open_that_fails_is_told_for_what_it_is(
    start_opener: StartOpener, start_subject: StartSubject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever of the four opens it is; and nothing is handed over, and the next is answered."""
    cases = [(place, error) for place in range(len(OPENED)) for error in OF_ERRORS]
    left, place_now = [(0, errno.EACCES), *cases], 0
    open_in = procfs.open_in

    def fail_in_turn(directory: int, name: str) -> int:
        nonlocal place_now
        if name == "stat":
            return open_in(directory, name)
        assert name == OPENED[place_now]
        if left and left[0][0] == place_now:
            place_now = 0
            error = left.pop(0)[1]
            raise OSError(error, os.strerror(error))
        place_now = (place_now + 1) % len(OPENED)
        return open_in(directory, name)

    monkeypatch.setattr(procfs, "open_in", fail_in_turn)
    pid = start_subject("anonymous").pid
    opener = start_opener()
    assert opener.refusal(1) is Reason.ACCESS_DENIED
    held = os.listdir(f"/proc/{opener.pids['opener']}/fd")
    for place, error in cases:
        assert opener.refusal(pid) is OF_ERRORS[error], (place, errno.errorcode[error])
    assert os.listdir(f"/proc/{opener.pids['opener']}/fd") == held
    assert opener.refusal(pid) is None


def test_process_that_begins_to_exit_while_it_is_opened_has_no_address_space(
    start_opener: StartOpener, start_subject: StartSubject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel then says EACCES or ESRCH, as of one that is forbidden or absent."""
    read_stat, reads = procfs.read_stat, 0

    def read_as_of_before(directory: int) -> Any:
        nonlocal reads
        reads += 1
        stat = read_stat(directory)
        return stat._replace(has_no_memory=False) if reads == 1 else stat

    monkeypatch.setattr(procfs, "read_stat", read_as_of_before)
    zombie = start_subject("zombie").description["zombie"]
    assert start_opener().refusal(zombie) is Reason.NO_ADDRESS_SPACE


def test_only_the_second_open_is_made_with_sys_admin(
    start_opener: StartOpener, start_subject: StartSubject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are the caller's own authority: before it, and after it."""
    open_in = procfs.open_in
    with mmap.mmap(-1, mmap.PAGESIZE) as noted:  # shared with the children

        def note(directory: int, name: str) -> int:
            if name != "stat":
                effective = int(read_status(os.getpid())["CapEff"], 16)
                noted.write(f"{name} {effective}\n".encode())
            return open_in(directory, name)

        monkeypatch.setattr(procfs, "open_in", note)
        assert start_opener().refusal(start_subject("anonymous").pid) is None
        lines = noted[:].rstrip(b"\0").decode().split()
    every = ["0", str(int(Capability.SYS_ADMIN)), "0", "0"]
    assert lines == [word for pair in zip(OPENED, every, strict=True) for word in pair]


@pytest.mark.parametrize(
    ("call", "result", "error"),
    [
        ("setfsuid", 0, 0),
        ("setfsgid", 0, 0),
        ("capset", -1, errno.EPERM),
        ("capset", 0, 0),
        ("capget", -1, errno.EPERM),
        ("prctl", -1, errno.EINVAL),
        ("syscall", -1, errno.EACCES),  # of which the filter is loaded
    ],
)
def test_opener_that_cannot_become_the_caller_opens_nothing(
    start_opener: StartOpener,
    break_libc: Callable[..., None],
    call: str,
    result: int,
    error: int,
) -> None:
    # Its name is set by prctl as well, and comes first.
    break_libc(call, result, error, after_calls=2 if call == "prctl" else 0)
    opener = start_opener()
    opener.send(wire.OpenRequest(wire.Purpose.PAGES, os.getpid()).pack())
    assert opener.read_end() == FAILED


@pytest.mark.parametrize("result", [-1, 0], ids=["fails", "does nothing"])
@pytest.mark.parametrize("after_calls", [1, 2], ids=["raising", "dropping"])
def test_opener_that_loses_hold_of_its_capabilities_ends(
    start_opener: StartOpener,
    start_subject: StartSubject,
    break_libc: Callable[..., None],
    result: int,
    after_calls: int,
) -> None:
    """With SYS_ADMIN left effective, the next request's A-opens would be no more the caller's."""
    break_libc("capset", result, errno.ENOMEM, after_calls)
    subject = start_subject("anonymous")
    opener = start_opener()
    opener.send(wire.OpenRequest(wire.Purpose.PAGES, subject.pid).pack())
    assert opener.read_end() == FAILED


def test_stuck_opener_is_ended_by_its_alarm(
    start_opener: StartOpener,
    start_subject: StartSubject,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Stuck here in waiting for nothing, as it would be in the target's exec."""

    def be_stuck(directory: int, name: str) -> int:  # noqa: ARG001
        return len(select.poll().poll())

    pid = start_subject("anonymous").pid
    monkeypatch.setattr(module, "OPENER_SECONDS", 0.05)
    monkeypatch.setattr(procfs, "open_in", be_stuck)
    opener = start_opener()
    opener.send(wire.OpenRequest(wire.Purpose.PAGES, pid).pack())
    assert opener.read_end() == -signal.SIGALRM


def test_alarm_is_off_between_requests(
    start_opener: StartOpener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "OPENER_SECONDS", 0.05)
    opener = start_opener()
    assert opener.refusal(1) is Reason.ACCESS_DENIED
    with Departure([opener.pids["opener"]]) as departure:
        assert departure.wait(0.1) == [opener.pids["opener"]]
    assert opener.refusal(1) is Reason.ACCESS_DENIED


@pytest.mark.parametrize("message", [b"\1", bytes(5), bytes(wire.MESSAGE_BYTES)])
def test_worker_that_breaks_the_protocol_has_no_opener_any_more(
    start_opener: StartOpener, message: bytes
) -> None:
    opener = start_opener()
    opener.send(message)
    assert opener.read_end() == FAILED


def test_descriptors_are_not_taken_from_a_worker(start_opener: StartOpener) -> None:
    opener = start_opener()
    opener.send(wire.OpenRequest(wire.Purpose.PAGES, 1).pack(), (0,))
    assert opener.read_end() == FAILED


def test_opener_ends_with_its_worker(start_opener: StartOpener) -> None:
    assert start_opener().close_end() == 0


def test_opener_ends_with_its_broker(start_opener: StartOpener) -> None:
    opener = start_opener()
    assert opener.refusal(1) is Reason.ACCESS_DENIED
    with Departure([opener.pids["opener"]]) as departure:
        opener.kill_broker()
        assert departure.wait(SECONDS) == []
