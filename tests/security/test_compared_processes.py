# SPDX-License-Identifier: Apache-2.0
"""Have ComparePages tell of a process that is not open to the caller, or is not there any more.

That two processes share a page is a fact about both, so the kernel, or a grant of pages, must open
both of them; and what has gone shares nothing, which must not be said of what was there.
"""

import os
import signal
from pathlib import Path
from typing import NamedTuple

import pytest
from cowdaemon.limits import RANGES_PER_CALL
from cowproto.v1 import pageflags_pb2
from harness.changed_zygote import in_zygote
from harness.comparisons import finish_comparison, make_request, name_pages, try_comparison
from harness.daemon import Daemon, StartDaemon
from harness.endings import EndRace
from harness.outcomes import ABSENT, ABSENT_PID, DENIED, KERNEL_THREAD, OWN, WITHOUT_MEMORY
from harness.programs import (
    EVERY,
    GAMES,
    NOBODY,
    PAGE_BYTES,
    ROOT_USER,
    Caller,
    CallError,
    StartCaller,
    StartSubject,
    Subject,
)

SUMMARY_GID, PAGES_GID = 34, 37
GRANTS = """
[[grant]]
group = "backup"
detail = "summary"

[[grant]]
group = "operator"
detail = "pages"
"""
MEMBER = NOBODY._replace(groups=(SUMMARY_GID,))
INSPECTOR = NOBODY._replace(groups=(PAGES_GID,))
TIMES = 8
"""So often all pages of a subject are compared in one call, so that its end falls into the call."""
LAST_PAGE = 2**64 - PAGE_BYTES
READ_BYTES = 8 << 20
"""So much is read when a comparison is under way; all of it is over a hundred times as much."""
SOON_ASK_AGAIN = in_zygote("from cowdaemon import limits\nlimits.TARGET_KEPT_SECONDS = 0.01")


def outcomes_in_both_places(caller: Caller, mine: Subject, pid: int) -> set[tuple[str, str] | None]:
    """Return how comparisons of a process with one of the caller's own end, as first and second."""
    ranges = [(mine.address, 1)]
    return {try_comparison(caller, *pair, ranges) for pair in ((mine.pid, pid), (pid, mine.pid))}


def test_each_of_the_two_is_refused_as_it_is_alone(
    daemon: Daemon, nobody: Caller, start_subject: StartSubject
) -> None:
    """Whichever place it has. Seen to fail with the second process opened as the first one."""
    mine, theirs = start_subject("threaded"), start_subject("anonymous", user=GAMES)
    closed, zombie = start_subject("undumpable"), start_subject("zombie")
    assert outcomes_in_both_places(nobody, mine, mine.pid) == {None}
    for pid, outcome in (
        (theirs.pid, DENIED),
        (closed.pid, DENIED),
        (mine.description["thread"], ABSENT),
        (ABSENT_PID, ABSENT),
        (zombie.description["zombie"], WITHOUT_MEMORY),
        (0, ("INVALID_ARGUMENT", "INVALID_PID")),
        *((pid, OWN) for pid in daemon.tree().pids),
    ):
        assert outcomes_in_both_places(nobody, mine, pid) == {outcome}, pid
    assert outcomes_in_both_places(nobody, mine, KERNEL_THREAD) < {DENIED, ABSENT, WITHOUT_MEMORY}


def test_start_times_and_ranges_are_verified_of_both(
    nobody: Caller, start_subject: StartSubject
) -> None:
    first, second = start_subject("anonymous"), start_subject("anonymous")
    pids, good = (first.pid, second.pid), (first.address, 1)
    ticks = tuple(
        nobody.get_page_flags(each.pid, each.address).start_time_ticks for each in (first, second)
    )
    assert try_comparison(nobody, *pids, [good], ticks) is None  # type: ignore[arg-type]
    differs = ("FAILED_PRECONDITION", "START_TIME_DIFFERS")
    for expected in (ticks[0] + 1, 0), (0, ticks[1] + 1), (ticks[0], ticks[1] + 1):
        assert try_comparison(nobody, *pids, [good], expected) == differs
    invalid = "INVALID_ARGUMENT"
    assert try_comparison(nobody, *pids, []) == (invalid, "INVALID_RANGE_COUNT")
    assert try_comparison(nobody, *pids, [good, (1, 1)]) == (invalid, "UNALIGNED_ADDRESS")
    assert try_comparison(nobody, *pids, [good, (0, 0)]) == (invalid, "INVALID_COUNT")
    beyond = ("OUT_OF_RANGE", "OUT_OF_ADDRESS_SPACE")
    assert try_comparison(nobody, *pids, [good, (LAST_PAGE, 1)]) == beyond


def test_grant_of_summaries_compares_nothing_and_one_of_pages_does(
    start_daemon: StartDaemon, start_caller: StartCaller, start_subject: StartSubject
) -> None:
    """Whatever a summary has opened a moment ago.

    Seen to fail with the second process opened for a summary.
    """
    granting = start_daemon(config=GRANTS)
    mine, theirs = start_subject("anonymous"), start_subject("fork", user=GAMES)
    child = theirs.description["pages"][-1]["pid"]
    member = start_caller(MEMBER, granting.socket_path)
    inspector = start_caller(INSPECTOR, granting.socket_path)
    by_root = start_caller(ROOT_USER, granting.socket_path)
    for pid in (theirs.pid, child):
        assert member.summarize([pid])[0].totals
        assert outcomes_in_both_places(member, mine, pid) == {DENIED}
    assert try_comparison(member, theirs.pid, child, [(theirs.address, 2)]) == DENIED
    request = make_request(theirs.pid, child, [(theirs.address, 2)])
    answers = []
    for caller in (inspector, by_root):
        caller.begin("ComparePages", request, most=EVERY)
        answers.append(finish_comparison(caller))
    assert answers[0] == answers[1]
    assert list(answers[0][0].comparison) == [
        pageflags_pb2.PAGE_COMPARISON_SAME,
        pageflags_pb2.PAGE_COMPARISON_DIFFERENT,
    ]


@pytest.mark.parametrize("other_way_round", [False, True], ids=["", "exchanged"])
def test_access_that_is_lost_ends_the_comparison(
    start_daemon: StartDaemon,
    start_caller: StartCaller,
    start_subject: StartSubject,
    other_way_round: bool,
) -> None:
    """To either of the two. Seen to fail without asking again while the call lasts."""
    daemon = start_daemon(change=SOON_ASK_AGAIN)
    caller, subject = start_caller(socket_path=daemon.socket_path), start_subject("large-forked")
    pair = subject.pid, subject.description["child"]
    ranges = [(subject.address, subject.description["count"])] * RANGES_PER_CALL
    request = make_request(*(pair[::-1] if other_way_round else pair), ranges, totals_only=True)
    caller.get_server_info()
    [worker] = daemon.tree().workers
    before = count_read_bytes(worker)
    caller.begin("ComparePages", request, most=EVERY)
    while count_read_bytes(worker) < before + READ_BYTES:
        os.sched_yield()  # it has begun
    subject.write({"undumpable": True})
    subject.read()
    with pytest.raises(CallError) as failure:
        finish_comparison(caller)
    assert failure.value.outcome == DENIED


def count_read_bytes(pid: int) -> int:
    """Return how much a process has read of files."""
    fields = Path(f"/proc/{pid}/io").read_text().split()
    return int(fields[fields.index("rchar:") + 1])


class Child(NamedTuple):
    """A subject's child, to be ended in its place."""

    pid: int

    def kill(self) -> None:
        """End it; its parent never collects it."""
        os.kill(self.pid, signal.SIGKILL)


@pytest.mark.parametrize("other_way_round", [False, True], ids=["", "exchanged"])
@pytest.mark.parametrize(
    ("who", "ending"), [("parent", "exit"), ("parent", "execute"), ("child", "exit")]
)
def test_process_that_ends_while_it_is_compared(
    nobody: Caller, start_subject: StartSubject, who: str, ending: str, other_way_round: bool
) -> None:
    """At any moment: what they share is told whole, or the call fails.

    Seen to fail with what could not be read left at zero, no look whether both live, and access not
    asked for again, all three: each of these alone finds out.
    """
    end_race = EndRace(ending)
    for _ in end_race.rounds():
        subject = start_subject("large-forked")
        pair = subject.pid, subject.description["child"]
        ranges = [(subject.address, subject.description["count"])] * TIMES
        request = make_request(*(pair[::-1] if other_way_round else pair), ranges)
        nobody.begin("ComparePages", request, most=EVERY)
        answer = nobody.read()
        assert "code" not in answer
        end_race.measured(answer["seconds"])
        nobody.begin("ComparePages", request, most=EVERY)
        end_race.end(subject if who == "parent" else Child(pair[1]))  # type: ignore[arg-type]
        try:
            responses = finish_comparison(nobody)
        except CallError as error:
            end_race.outcomes.append(error.outcome)
        else:
            told = {page.comparison for response in responses for page in name_pages(response)}
            assert told == {"SAME"} or ending == "execute"
        subject.kill()
