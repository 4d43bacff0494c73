# SPDX-License-Identifier: Apache-2.0
"""A call that stands still in its target, for good, costs its worker its life, and nobody else.

Whoever owns a target can hold up those who read its page tables (a page fault that is never
answered holds its mmap lock). Played here by a reader that does not come back.
"""

import os
import select
from contextlib import suppress

import pytest
from cowdaemon.limits import CALLS_PER_WORKER, READING_THREADS, TARGETS_TOGETHER
from cowproto.v1.pageflags_pb2 import (
    GetPageFlagsRequest,
    PageRange,
    StreamPageFlagsRequest,
    SummarizeProcessesRequest,
)
from harness.changed_zygote import in_zygote
from harness.daemon import StartDaemon
from harness.programs import GAMES, CallError, StartCaller, StartSubject

STANDING_COUNT = 3
"""Of pages: whoever asks for as many waits."""
WORK_SECONDS = 1.5
STAND_STILL = f"""
import threading
from cowdaemon import limits
limits.WORK_SECONDS = {WORK_SECONDS}
from cowdaemon.worker.reader import Reader
read_few = Reader.read_few
def stand_still(self, pagemap, address, count, masks):
    if count == {STANDING_COUNT}:
        threading.Event().wait()
    return read_few(self, pagemap, address, count, masks)
Reader.read_few = stand_still
from cowdaemon.worker import page_calls
number_ranges = page_calls.number_ranges
def stand_still_first(ranges):
    if ranges[0].count == {STANDING_COUNT}:
        threading.Event().wait()
    return number_ranges(ranges)
page_calls.number_ranges = stand_still_first
"""
STAND_AHEAD = f"""
import threading, time
from cowdaemon import limits
limits.WORK_SECONDS = {WORK_SECONDS}
from cowdaemon.worker import summaries
from cowdaemon.worker.targets import Targets
open_target, make_plan = Targets.open, summaries.make_plan
def stand_still(self, pid, *arguments):
    if pid == {{pid}}:
        threading.Event().wait()
    return open_target(self, pid, *arguments)
def stand_still_in_a_scan(reader, target, mapped):
    if target.pid == {{pid}}:
        threading.Event().wait()
    return make_plan(reader, target, mapped)
if {{is_scan}}:
    summaries.make_plan = stand_still_in_a_scan
else:
    Targets.open = stand_still
def count_until_nobody_waits(reader, together, verify_wanted, *_):
    while True:
        verify_wanted()
        time.sleep(0.01)
    yield
summaries._summarize = count_until_nobody_waits
"""
BEFORE_THE_FIRST = TARGETS_TOGETHER * (READING_THREADS + 1)
"""Processes that a call has given to be scanned before it counts the first of them."""
SECONDS = 20.0
PATIENCE_SECONDS = 0.1
"""Of callers who are gone before anybody notices that their calls stand still."""
OPENING_SECONDS = 1.0
"""The same where many processes are opened first."""


def test_call_that_stands_still_ends_its_worker_alone(
    start_daemon: StartDaemon, start_caller: StartCaller, start_subject: StartSubject
) -> None:
    """Seen to fail with the look at how long calls stand still taken out of run_worker()."""
    daemon = start_daemon(change=in_zygote(STAND_STILL))
    mine, theirs = start_subject("anonymous"), start_subject("anonymous", user=GAMES)
    caller = start_caller(socket_path=daemon.socket_path)
    other = start_caller(GAMES, daemon.socket_path)
    assert other.get_page_flags(theirs.pid, theirs.address).state[0]
    with pytest.raises(CallError) as failure:
        caller.get_page_flags(mine.pid, mine.address, STANDING_COUNT)
    assert failure.value.outcome[0] == "UNAVAILABLE"
    assert WORK_SECONDS / 2 < failure.value.seconds < 10 * WORK_SECONDS
    assert caller.get_page_flags(mine.pid, mine.address).state[0]  # by another worker
    assert other.get_page_flags(theirs.pid, theirs.address).state[0]
    assert "a call stands still" in daemon.log()


@pytest.mark.parametrize("is_streamed", [False, True], ids=["one answer", "a stream that begins"])
def test_calls_that_stand_still_are_noticed_though_nobody_waits(
    start_daemon: StartDaemon,
    start_caller: StartCaller,
    start_subject: StartSubject,
    is_streamed: bool,
) -> None:
    """They hold all threads of their worker. Seen to fail with calls forgotten when gRPC is.

    And a stream with what it does before its first response not taken for work.
    """
    daemon = start_daemon(change=in_zygote(STAND_STILL))
    subject = start_subject("anonymous")
    caller = start_caller(socket_path=daemon.socket_path)
    place = {"address": subject.address, "count": STANDING_COUNT}
    caller.get_server_info()
    [worker] = [os.pidfd_open(pid) for pid in daemon.tree().workers]
    for _ in range(CALLS_PER_WORKER):
        if is_streamed:
            request = StreamPageFlagsRequest(pid=subject.pid, ranges=[PageRange(**place)])
            caller.begin("StreamPageFlags", request, PATIENCE_SECONDS, most=1)
        else:
            request = GetPageFlagsRequest(pid=subject.pid, **place)
            caller.begin("GetPageFlags", request, PATIENCE_SECONDS)
    for _ in range(CALLS_PER_WORKER):
        with pytest.raises(CallError) as failure:
            caller.finish_stream() if is_streamed else caller.finish()
        assert failure.value.outcome[0] in {"DEADLINE_EXCEEDED", "UNAVAILABLE"}
    with open(worker) as ending:
        assert select.select([ending], [], [], SECONDS)[0], "the worker goes on"
    with suppress(CallError):  # may find the connection closed
        caller.get_page_flags(subject.pid, subject.address)
    assert caller.get_page_flags(subject.pid, subject.address).state[0]
    assert "a call stands still" in daemon.log()


@pytest.mark.parametrize("is_scan", [False, True], ids=["opening", "scanning"])
def test_reading_ahead_that_stands_still_is_noticed_though_its_call_is_over(
    start_daemon: StartDaemon,
    start_caller: StartCaller,
    start_subject: StartSubject,
    is_scan: bool,
) -> None:
    """A call about many processes counts the first while other threads open and scan the next.

    Without that, each call that is given up leaves a thread and descriptors behind, without bound.
    Seen to fail with whoever reads ahead not waited for, and with that not taken for work.
    """
    first, standing = start_subject("anonymous"), start_subject("anonymous")
    daemon = start_daemon(change=in_zygote(STAND_AHEAD.format(pid=standing.pid, is_scan=is_scan)))
    caller = start_caller(socket_path=daemon.socket_path)
    caller.get_server_info()
    [worker] = [os.pidfd_open(pid) for pid in daemon.tree().workers]
    # Counting begins once the first group is scanned; by then another stands still.
    pids = [first.pid] * (BEFORE_THE_FIRST - 1 if is_scan else BEFORE_THE_FIRST) + [standing.pid]
    caller.begin(
        "SummarizeProcesses", SummarizeProcessesRequest(pids=pids), OPENING_SECONDS, most=1
    )
    with pytest.raises(CallError) as failure:
        caller.finish_stream()
    assert failure.value.outcome[0] == "DEADLINE_EXCEEDED"
    with open(worker) as ending:
        assert select.select([ending], [], [], SECONDS)[0], "the worker goes on"
    assert "a call stands still" in daemon.log()
