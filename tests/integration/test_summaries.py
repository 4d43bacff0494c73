# SPDX-License-Identifier: Apache-2.0
"""SummarizeProcesses of a real daemon: whom it tells of, what it leaves out, and when it stops.

That the counts are right is shown by tests/kernel/test_summaries.py.
"""

import os
import time
from pathlib import Path

import pytest
from cowdaemon.errors import Code, Reason
from cowdaemon.limits import CALLS_PER_WORKER, PIDS_PER_CALL
from cowproto.v1 import pageflags_pb2
from harness.daemon import StartDaemon
from harness.endings import ENDINGS, EndRace
from harness.outcomes import ABSENT_PID, KERNEL_THREAD
from harness.programs import (
    GAMES,
    PAGE_BYTES,
    ROOT_USER,
    Caller,
    StartCaller,
    StartSubject,
)
from harness.states import add_up_pages, name_totals

PID_ONE = 1
TIMES_ASKED = 8
"""About the process that ends: to read it once takes no longer than to ask."""


def read_start_time_ticks(pid: int) -> int:
    """Return field 22 of /proc/PID/stat."""
    stat = Path(f"/proc/{pid}/stat").read_text()
    return int(stat[stat.rindex(")") + 2 :].split()[19])


def test_process_of_the_caller(
    nobody: Caller, start_subject: StartSubject, public_directory: Path
) -> None:
    subject = start_subject("neighbours", public_directory)
    with subject.stopped():
        (summary,) = nobody.summarize([subject.pid])
        assert summary.pid == subject.pid
        assert summary.start_time_ticks == read_start_time_ticks(subject.pid)
        assert summary.page_size_bytes == PAGE_BYTES
        assert not summary.HasField("failure")
        assert [each.kind for each in summary.totals] == sorted(
            each.kind for each in summary.totals
        )
        totals = name_totals(summary)
        assert totals == add_up_pages(nobody, subject.pid)
    assert totals["PRIVATE_FILE"]["ANON"] >= 3
    assert totals["PRIVATE_FILE"]["FILE"] >= 3


def test_all_processes_of_the_caller(nobody: Caller, start_subject: StartSubject) -> None:
    mine = [start_subject("anonymous") for _ in range(2)]
    theirs = start_subject("anonymous", user=GAMES)
    undumpable = start_subject("undumpable")
    told = {summary.pid: summary for summary in nobody.summarize([])}
    assert list(told) == sorted(told)
    assert told.keys() >= {nobody.pid, *(subject.pid for subject in mine)}
    assert told.keys().isdisjoint({theirs.pid, undumpable.pid, os.getpid(), PID_ONE})
    assert not any(summary.HasField("failure") for summary in told.values())
    for subject in mine:
        with subject.stopped():
            (alone,) = nobody.summarize([subject.pid])
            assert name_totals(alone)["ANONYMOUS"] == name_totals(told[subject.pid])["ANONYMOUS"]


def test_all_processes_of_the_machine(
    start_daemon: StartDaemon, start_caller: StartCaller, start_subject: StartSubject
) -> None:
    """As root: all that have memory, without cowd's own."""
    daemon = start_daemon()
    caller = start_caller(ROOT_USER, daemon.socket_path)
    stay = {os.getpid(), caller.pid, *(start_subject("anonymous", user=GAMES).pid for _ in "12")}
    told = [summary.pid for summary in caller.summarize([])]
    tree = daemon.tree()
    assert len(tree.pids) >= 4
    assert told == sorted(set(told))
    assert stay <= set(told)
    assert not {KERNEL_THREAD, *tree.pids} & set(told)


def test_pids_that_fail_say_why_in_their_place(nobody: Caller, start_subject: StartSubject) -> None:
    mine = start_subject("threaded")
    theirs = start_subject("anonymous", user=GAMES)
    zombie = start_subject("zombie").description["zombie"]
    asked = {
        ABSENT_PID: Reason.NO_SUCH_PROCESS,
        mine.description["thread"]: Reason.NO_SUCH_PROCESS,
        theirs.pid: Reason.ACCESS_DENIED,
        PID_ONE: Reason.ACCESS_DENIED,
        mine.pid: None,
        zombie: Reason.NO_ADDRESS_SPACE,
        0: Reason.INVALID_PID,
        -(2**31): Reason.INVALID_PID,
        nobody.pid: None,
    }
    told = nobody.summarize(list(asked))
    assert [summary.pid for summary in told] == list(asked)
    for summary, reason in zip(told, asked.values(), strict=True):
        assert summary.HasField("failure") == bool(reason)
        assert bool(summary.totals) == (not reason)
        if reason:
            failure = (summary.failure.code, summary.failure.reason, summary.failure.message)
            assert failure == (reason.code, reason.name, reason.sentence.format(pid=summary.pid))


def test_number_of_pids_is_limited(nobody: Caller) -> None:
    """The most that are allowed fit the server's limit of a request's size, whatever they are."""
    most = nobody.get_server_info().maximum_pid_count
    assert most == PIDS_PER_CALL
    assert len(nobody.summarize([ABSENT_PID] * most)) == most
    request = pageflags_pb2.SummarizeProcessesRequest(pids=[nobody.pid] * (most + 1))
    outcome = nobody.refusal("SummarizeProcesses", request).outcome
    assert outcome == ("INVALID_ARGUMENT", "TOO_MANY_PIDS")


def test_request_that_is_no_message(nobody: Caller) -> None:
    outcome = nobody.refusal("SummarizeProcesses", b"\x0a\x05").outcome
    assert outcome == ("INVALID_ARGUMENT", "MALFORMED_REQUEST")


@pytest.mark.parametrize("ending", ENDINGS)
def test_process_that_ends_in_mid_read(
    nobody: Caller, start_subject: StartSubject, ending: str
) -> None:
    """It is counted whole or fails: nothing is told of pages that had gone already.

    The others are answered, and of all processes it is left out.
    """
    end_race = EndRace(ending)
    for number in end_race.rounds():
        subject, other = start_subject("large"), start_subject("anonymous")
        count = subject.description["count"]
        again = [subject.pid] * TIMES_ASKED
        pids = [*again, other.pid] if number % 2 else []
        started = time.monotonic()
        assert all(is_whole(summary, count) for summary in nobody.summarize(again))
        end_race.measured(time.monotonic() - started)
        nobody.begin_summaries(pids)
        end_race.end(subject)
        told = nobody.finish_summaries()
        [of_other] = [summary for summary in told if summary.pid == other.pid]
        assert name_totals(of_other)["ANONYMOUS"]["ANON"]
        for summary in told:
            if summary.pid != subject.pid:
                continue
            if summary.HasField("failure"):
                assert pids
                outcome = Code(summary.failure.code).name, summary.failure.reason
                end_race.outcomes.append(outcome)
            elif not is_whole(summary, count):
                # The program that was executed: it has no such mapping.
                assert ending == "execute"
                assert name_totals(summary)["ANONYMOUS"].total() < count
        subject.kill()


def is_whole(summary: pageflags_pb2.SummarizeProcessesResponse, count: int) -> bool:
    """Whether all of `count` pages that were written are there."""
    return name_totals(summary)["ANONYMOUS"]["ANON"] >= count


def test_call_that_was_cancelled_stops(
    start_caller: StartCaller, start_subject: StartSubject
) -> None:
    """And gives back its thread: every one of a worker's is busy, for longer than a call waits."""
    subject = start_subject("large")
    callers = [start_caller() for _ in range(CALLS_PER_WORKER)]
    for caller in callers:
        caller.begin_summaries([subject.pid] * PIDS_PER_CALL, most=1)
    for caller in callers:
        (summary,) = caller.finish_summaries()
        assert summary.totals
    assert callers[0].get_server_info().version
