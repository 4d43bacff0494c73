# SPDX-License-Identifier: Apache-2.0
"""Every way in which the daemon says no: the gRPC code and the reason, from real processes."""

import os
import random
import signal
import time
from pathlib import Path

import pytest
from cowdaemon.errors import DOMAIN
from cowdaemon.limits import PAGES_PER_CALL
from cowproto.v1 import pageflags_pb2, twins_pb2
from harness.daemon import Daemon
from harness.processes import Departure
from harness.programs import (
    DAEMON,
    GAMES,
    NOBODY,
    ROOT_USER,
    Caller,
    CallError,
    Program,
    StartCaller,
    StartSubject,
    Subject,
    User,
)

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
ABSENT_PID = 2**31 - 1
"""Over the largest pid_max that a kernel takes (PID_MAX_LIMIT, 2^22)."""
KERNEL_THREAD = 2
"""kthreadd."""
VSYSCALL = 0xFFFF_FFFF_FF60_0000
LAST_PAGE = 2**64 - PAGE_BYTES
EXITS = 10
END_RACES = 60
"""Rounds of ending a process in mid-read, at most."""
END_RACES_WON = 3
"""Rounds after which it has been seen often enough that the end fell into a read."""

DENIED = ("PERMISSION_DENIED", "ACCESS_DENIED")
GONE = ("NOT_FOUND", "NO_SUCH_PROCESS")
ENDED = {("ABORTED", "PROCESS_GONE"), ("FAILED_PRECONDITION", "NO_ADDRESS_SPACE"), GONE}
"""What may be said of a process that ends meanwhile."""


def first_page(subject: Subject) -> int:
    """Return the address of a subject's first page."""
    address: int = subject.description["pages"][0]["address"]
    return address


# Processes that the kernel does not let the caller inspect


def test_process_of_another_user(nobody: Caller, start_subject: StartSubject) -> None:
    theirs = start_subject("anonymous", user=GAMES)
    mine = start_subject("anonymous", user=NOBODY)
    assert nobody.refused_page_flags(theirs.pid, first_page(theirs)) == DENIED
    assert nobody.get_page_flags(mine.pid, first_page(mine)).state[0]


def test_process_of_root(nobody: Caller) -> None:
    assert nobody.refused_page_flags(os.getpid(), 0x1000) == DENIED
    assert nobody.refused_page_flags(1, 0x1000) == DENIED


def test_process_of_another_group(nobody: Caller, start_subject: StartSubject) -> None:
    subject = start_subject("anonymous", user=NOBODY._replace(gid=GAMES.gid))
    assert nobody.refused_page_flags(subject.pid, first_page(subject)) == DENIED


def test_process_that_is_not_dumpable(nobody: Caller, start_subject: StartSubject) -> None:
    subject = start_subject("undumpable")
    assert nobody.refused_page_flags(subject.pid, first_page(subject)) == DENIED


def test_process_that_executed_a_setuid_program(nobody: Caller, setuid_cat: Path) -> None:
    program = Program(NOBODY.command([str(setuid_cat)]))
    try:
        program.write({"running": True})
        assert program.read() == {"running": True}  # cat says so: it has been executed
        assert nobody.refused_page_flags(program.pid, 0x1000) == DENIED
    finally:
        program.kill()


def test_listing_is_refused_as_reading_is(nobody: Caller, start_subject: StartSubject) -> None:
    subject = start_subject("anonymous", user=GAMES)
    for pid, outcome in ((subject.pid, DENIED), (ABSENT_PID, GONE)):
        request = pageflags_pb2.ListMappingsRequest(pid=pid)
        assert nobody.refusal("ListMappings", request).outcome == outcome


@pytest.mark.parametrize("user", [ROOT_USER, NOBODY, DAEMON], ids=lambda user: user.name)
def test_processes_of_cowd_itself(daemon: Daemon, start_caller: StartCaller, user: User) -> None:
    caller = start_caller(user)
    caller.get_server_info()  # so that it has an opener and a worker, too
    tree = daemon.tree()
    assert len(tree.pids) >= 4
    expected = {("PERMISSION_DENIED", "OWN_PROCESS")}
    if user.uid != 0:
        expected.add(DENIED)
    for pid in tree.pids:
        assert caller.refused_page_flags(pid, 0x1000) in expected


# Callers that are refused as a whole


def test_caller_in_another_user_namespace(
    start_caller: StartCaller, start_subject: StartSubject
) -> None:
    caller = start_caller(NOBODY, suffix=["unshare", "--user"])
    subject = start_subject("anonymous")
    refused = ("PERMISSION_DENIED", "FOREIGN_USER_NAMESPACE")
    assert caller.refused_page_flags(subject.pid, first_page(subject)) == refused
    info = pageflags_pb2.GetServerInfoRequest()
    assert caller.refusal("GetServerInfo", info).outcome == refused


def test_caller_in_another_pid_namespace(
    start_caller: StartCaller, start_subject: StartSubject
) -> None:
    caller = start_caller(NOBODY, prefix=["unshare", "--pid", "--fork", "--kill-child"])
    subject = start_subject("anonymous")
    refused = ("PERMISSION_DENIED", "FOREIGN_PID_NAMESPACE")
    assert caller.refused_page_flags(subject.pid, first_page(subject)) == refused


# Requests that make no sense


@pytest.mark.parametrize(
    ("address", "count", "outcome"),
    [
        (0x1001, 1, ("INVALID_ARGUMENT", "UNALIGNED_ADDRESS")),
        (0x1000 + PAGE_BYTES // 2, 1, ("INVALID_ARGUMENT", "UNALIGNED_ADDRESS")),
        (0x1000, 0, ("INVALID_ARGUMENT", "INVALID_COUNT")),
        (0x1000, PAGES_PER_CALL + 1, ("INVALID_ARGUMENT", "INVALID_COUNT")),
        (0x1000, 2**63, ("INVALID_ARGUMENT", "INVALID_COUNT")),
        (LAST_PAGE, 2, ("INVALID_ARGUMENT", "RANGE_OVERFLOW")),
        (LAST_PAGE, 1, ("OUT_OF_RANGE", "OUT_OF_ADDRESS_SPACE")),
        (VSYSCALL, 1, ("OUT_OF_RANGE", "OUT_OF_ADDRESS_SPACE")),
        (1 << 47, 1, ("OUT_OF_RANGE", "OUT_OF_ADDRESS_SPACE")),
        ((1 << 47) - 4 * PAGE_BYTES, 8, ("OUT_OF_RANGE", "OUT_OF_ADDRESS_SPACE")),
    ],
)
def test_range_that_cannot_be(
    nobody: Caller, address: int, count: int, outcome: tuple[str, str]
) -> None:
    assert nobody.refused_page_flags(nobody.pid, address, count) == outcome


def test_largest_call_is_answered(nobody: Caller) -> None:
    response = nobody.get_page_flags(nobody.pid, 0x1000, PAGES_PER_CALL)
    assert len(response.state) == PAGES_PER_CALL


@pytest.mark.parametrize("pid", [0, -1, -(2**31)])
def test_pid_that_cannot_be(nobody: Caller, pid: int) -> None:
    outcome = ("INVALID_ARGUMENT", "INVALID_PID")
    assert nobody.refused_page_flags(pid, 0x1000) == outcome
    request = pageflags_pb2.ListMappingsRequest(pid=pid)
    assert nobody.refusal("ListMappings", request).outcome == outcome


def test_request_that_is_no_message(nobody: Caller) -> None:
    outcome = nobody.refusal("GetPageFlags", b"\x08").outcome  # a field without its value
    assert outcome == ("INVALID_ARGUMENT", "MALFORMED_REQUEST")


# Processes that have nothing to tell


def test_absent_process(nobody: Caller, start_subject: StartSubject) -> None:
    assert nobody.refused_page_flags(ABSENT_PID, 0x1000) == GONE
    ended = start_subject("anonymous")
    assert nobody.get_page_flags(ended.pid, first_page(ended)).state[0]
    ended.kill()  # what the daemon may still hold of it is of no use
    assert nobody.refused_page_flags(ended.pid, first_page(ended)) == GONE


def test_thread_is_no_process(nobody: Caller, start_subject: StartSubject) -> None:
    subject = start_subject("threaded")
    assert nobody.get_page_flags(subject.pid, first_page(subject)).state[0]
    assert nobody.refused_page_flags(subject.description["thread"], first_page(subject)) == GONE


def test_kernel_thread(nobody: Caller, start_caller: StartCaller) -> None:
    outcome = ("FAILED_PRECONDITION", "NO_ADDRESS_SPACE")
    assert start_caller(ROOT_USER).refused_page_flags(KERNEL_THREAD, 0x1000) == outcome
    assert nobody.refused_page_flags(KERNEL_THREAD, 0x1000) == outcome


def test_zombie(nobody: Caller, start_subject: StartSubject) -> None:
    subject = start_subject("zombie")
    outcome = nobody.refused_page_flags(subject.description["zombie"], 0x1000)
    assert outcome == ("FAILED_PRECONDITION", "NO_ADDRESS_SPACE")


def test_start_time_that_differs(nobody: Caller, start_subject: StartSubject) -> None:
    subject = start_subject("anonymous")
    address = first_page(subject)
    started = nobody.get_page_flags(subject.pid, address).start_time_ticks
    assert started == read_start_time_ticks(subject.pid)
    again = nobody.get_page_flags(subject.pid, address, expected_start_time_ticks=started)
    assert again.start_time_ticks == started
    outcome = nobody.refused_page_flags(subject.pid, address, expected_start_time_ticks=started + 1)
    assert outcome == ("FAILED_PRECONDITION", "START_TIME_DIFFERS")
    request = pageflags_pb2.ListMappingsRequest(
        pid=subject.pid, expected_start_time_ticks=started + 1
    )
    assert nobody.refusal("ListMappings", request).outcome == outcome


def read_start_time_ticks(pid: int) -> int:
    """Return field 22 of /proc/PID/stat."""
    stat = Path(f"/proc/{pid}/stat").read_text()
    return int(stat[stat.rindex(")") + 2 :].split()[19])


def test_process_that_is_exiting(nobody: Caller, start_subject: StartSubject) -> None:
    """Its memory is gone before its number is: that is no matter of the caller's rights."""
    outcomes = set()
    for _ in range(EXITS):
        subject = start_subject("large")  # which takes the kernel some milliseconds to free
        with Departure([subject.pid]) as departure:
            os.kill(subject.pid, signal.SIGKILL)
            while departure.wait(0):
                try:
                    nobody.get_page_flags(subject.pid, first_page(subject))
                except CallError as error:
                    outcomes.add(error.outcome)
        subject.close()
    assert outcomes
    assert outcomes <= ENDED


@pytest.mark.parametrize("ending", ["exit", "execute"])
def test_process_that_ends_in_mid_read(
    nobody: Caller, start_subject: StartSubject, ending: str
) -> None:
    """Every answer is whole or an error: pages that are there are never shown as absent."""
    moments = random.Random(0)
    longest_seconds = 0.0
    outcomes = []
    for _ in range(END_RACES):
        subject = start_subject("large")
        count = subject.description["count"]
        request = pageflags_pb2.GetPageFlagsRequest(
            pid=subject.pid, address=first_page(subject), count=count
        )
        nobody.begin("GetPageFlags", request)
        response, seconds = nobody.finish_timed()
        verify_whole(response, count)
        longest_seconds = max(longest_seconds, seconds)
        nobody.begin("GetPageFlags", request)
        # The moment of the end is what this test varies: there is no event to wait for.
        time.sleep(moments.uniform(0.0, longest_seconds))
        subject.kill() if ending == "exit" else subject.write({"execute": True})
        try:
            verify_whole(nobody.finish(), count)
        except CallError as error:
            outcomes.append(error.outcome)
        subject.kill()
        if outcomes.count(("ABORTED", "PROCESS_GONE")) >= END_RACES_WON:
            break
    assert set(outcomes) <= ENDED
    assert outcomes.count(("ABORTED", "PROCESS_GONE")) >= END_RACES_WON


def verify_whole(response: bytes, count: int) -> None:
    """Assert that an answer about `count` written pages shows all of them."""
    parsed = pageflags_pb2.GetPageFlagsResponse.FromString(response)
    assert list(parsed.state) == [pageflags_pb2.PAGE_STATE_ANON] * count
    assert all(parsed.kpageflags)


# What a refusal carries


def test_refusal_has_a_sentence_and_details(nobody: Caller) -> None:
    request = pageflags_pb2.GetPageFlagsRequest(pid=ABSENT_PID, address=0x1000, count=1)
    failure = nobody.refusal("GetPageFlags", request)
    assert failure.status.code == failure.code
    assert failure.status.message == failure.message
    assert str(ABSENT_PID) in failure.message
    assert failure.info.domain == DOMAIN
    assert [detail.type_url for detail in failure.status.details] == [
        "type.googleapis.com/google.rpc.ErrorInfo"
    ]


@pytest.mark.pypi
def test_real_packages_read_the_details(nobody: Caller) -> None:
    error_details_pb2 = pytest.importorskip("google.rpc.error_details_pb2")
    status_pb2 = pytest.importorskip("google.rpc.status_pb2")
    request = pageflags_pb2.GetPageFlagsRequest(pid=ABSENT_PID, address=0x1000, count=1)
    failure = nobody.refusal("GetPageFlags", request)
    status = status_pb2.Status.FromString(failure.details)
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert (status.code, info.reason, info.domain) == (5, "NO_SUCH_PROCESS", "cowd")


def test_method_that_is_not_there(nobody: Caller) -> None:
    unimplemented = 12
    assert nobody.refusal("Nothing", b"").code == unimplemented


def test_health_of_a_service_that_is_not_there(nobody: Caller) -> None:
    request = twins_pb2.HealthCheckRequest(service="cowd.v1.Nothing")
    assert nobody.refusal("/grpc.health.v1.Health/Check", request).code == 5
