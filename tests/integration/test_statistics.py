# SPDX-License-Identifier: Apache-2.0
"""GetStatistics of a real daemon: who is told, and that the numbers are true."""

import time

import cowd
import pytest
from cowdaemon import __version__
from cowproto.v1 import pageflags_pb2
from harness.daemon import Daemon, StartDaemon
from harness.programs import (
    GAMES,
    NOBODY,
    PAGE_BYTES,
    ROOT_USER,
    Caller,
    StartCaller,
    StartSubject,
)
from harness.statistics import ANEW

GRANT = """
[limits]
worker_idle_seconds = 1

[[grant]]
group = "backup"
detail = "summary"

[access]
groups = ["backup", "nogroup", "daemon"]
"""
MEMBER = NOBODY._replace(groups=(34,))
STRANGER = GAMES
"""In none of the groups that have access."""
CALLS, PAGES = 7, 5
SECONDS = 20.0


@pytest.fixture
def granting(start_daemon: StartDaemon) -> Daemon:
    """A daemon with a grant, that adds up anew whenever it is asked."""
    return start_daemon(config=GRANT, change=ANEW)


def ask(caller: Caller) -> pageflags_pb2.GetStatisticsResponse:
    response = caller.call_bytes("GetStatistics", pageflags_pb2.GetStatisticsRequest())
    return pageflags_pb2.GetStatisticsResponse.FromString(response)


def calls_of(told: pageflags_pb2.GetStatisticsResponse) -> dict[tuple[str, int], int]:
    return {(each.method, each.code): each.count for each in told.calls}


def refusals_of(told: pageflags_pb2.GetStatisticsResponse) -> dict[str, int]:
    return {each.reason: each.count for each in told.refusals}


@pytest.mark.parametrize("user", [ROOT_USER, MEMBER], ids=["root", "granted"])
def test_root_and_granted_groups_are_told(
    granting: Daemon, start_caller: StartCaller, user: object
) -> None:
    started = time.time()
    told = ask(start_caller(user, granting.socket_path))
    assert told.version == __version__
    assert started - SECONDS * 3 < told.start_time_nanoseconds / 1e9 < time.time()
    assert (told.connection_count, told.worker_count) == (1, 1)


def test_others_are_not_told(granting: Daemon, start_caller: StartCaller) -> None:
    caller, root = (start_caller(user, granting.socket_path) for user in (NOBODY, ROOT_USER))
    refusal = caller.refusal("GetStatistics", pageflags_pb2.GetStatisticsRequest())
    assert refusal.outcome == ("PERMISSION_DENIED", "STATISTICS_DENIED")
    told = ask(root)
    assert calls_of(told) == {("GetStatistics", 7): 1}
    assert refusals_of(told) == {"STATISTICS_DENIED": 1}
    assert caller.get_server_info()  # it goes on


def test_calls_pages_and_durations_are_those_that_were(
    granting: Daemon, start_caller: StartCaller, start_subject: StartSubject
) -> None:
    """Of all workers together, each call once. Seen to fail with any count taken out."""
    mine, theirs = start_subject("anonymous"), start_subject("anonymous", user=GAMES)
    caller, root = (start_caller(user, granting.socket_path) for user in (NOBODY, ROOT_USER))
    for _ in range(CALLS):
        caller.get_page_flags(mine.pid, mine.address, PAGES)
    root.get_page_flags(mine.pid, mine.address, PAGES)
    for _ in range(2):
        assert caller.refused_page_flags(theirs.pid, theirs.address)
    assert caller.refused_page_flags(mine.pid, mine.address + 1)
    told = ask(root)
    assert calls_of(told) == {
        ("GetPageFlags", 0): CALLS + 1,
        ("GetPageFlags", 3): 1,
        ("GetPageFlags", 7): 2,
    }
    assert told.read_page_count == (CALLS + 1) * PAGES
    assert refusals_of(told) == {"ACCESS_DENIED": 2}
    [durations] = told.durations
    assert durations.method == "GetPageFlags"
    assert len(durations.bucket_count) == len(told.duration_bound_seconds) + 1
    assert sum(durations.bucket_count) == CALLS + 4
    assert 0 < durations.total_seconds < SECONDS
    assert calls_of(ask(root))["GetStatistics", 0] == 1


def test_pages_of_streams_summaries_and_comparisons_are_counted(
    granting: Daemon, start_subject: StartSubject
) -> None:
    subject, other = start_subject("anonymous"), start_subject("anonymous")
    with (
        cowd.Client(str(granting.socket_path)) as client,
        subject.stopped(),
        other.stopped(),
    ):
        read = client.get_statistics().pages_read
        wanted = [(subject.address, 2), (subject.address + 2 * PAGE_BYTES, 2)]
        chunks = list(client.stream_page_flags(subject.pid, wanted))
        listed = sum(len(chunk.states) for chunk in chunks)
        after = client.get_statistics().pages_read
        assert 0 < after - read == listed
        [summary] = client.summarize_processes([subject.pid])
        summarized = client.get_statistics().pages_read
        assert summarized - after >= summary.page_counts.resident
        list(client.compare_pages(subject.pid, other.pid, [(subject.address, 4)]))
        compared = client.get_statistics().pages_read - summarized
        assert compared > 0
        assert compared % 2 == 0
        calls = {each.method: each.count for each in client.get_statistics().calls}
    assert {name: calls[name] for name in ("SummarizeProcesses", "ComparePages")} == {
        "SummarizeProcesses": 1,
        "ComparePages": 1,
    }


def test_refused_connections_count_once_whatever_is_called(
    granting: Daemon, start_caller: StartCaller
) -> None:
    stranger = start_caller(STRANGER, granting.socket_path)
    root = start_caller(ROOT_USER, granting.socket_path)
    for _ in range(3):
        refusal = stranger.refusal("GetServerInfo", pageflags_pb2.GetServerInfoRequest())
        assert refusal.outcome == ("PERMISSION_DENIED", "CALLER_NOT_ALLOWED")
    told = ask(root)
    assert refusals_of(told) == {"CALLER_NOT_ALLOWED": 1}
    assert calls_of(told) == {("GetServerInfo", 7): 3}
    assert not told.durations
    assert (told.connection_count, told.worker_count) == (2, 2)


def test_numbers_do_not_fall_when_workers_end(granting: Daemon, start_caller: StartCaller) -> None:
    root = start_caller(ROOT_USER, granting.socket_path)
    root.get_server_info()
    for number in range(1, 3):
        caller = start_caller(NOBODY, granting.socket_path)
        caller.get_server_info()
        granting.settled_tree(openers=2, workers=2)
        caller.close()
        await_worker_count(root, 1)
        assert calls_of(ask(root))["GetServerInfo", 0] == 1 + number


def await_worker_count(root: Caller, count: int) -> None:
    """Ask until so many workers are left: nobody is told when one ends."""
    deadline = time.monotonic() + SECONDS
    while ask(root).worker_count != count:
        assert time.monotonic() < deadline
