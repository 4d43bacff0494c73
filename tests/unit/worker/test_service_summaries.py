# SPDX-License-Identifier: Apache-2.0
"""SummarizeProcesses through a real gRPC server: what is streamed, left out, and given up."""

import logging
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest
from cowdaemon.errors import CowdError, Reason
from cowdaemon.limits import PIDS_PER_CALL, REQUEST_BYTES
from cowdaemon.wire import Purpose
from cowdaemon.worker import summaries, targets
from cowdaemon.worker.page_states import Bytes, PageState
from cowdaemon.worker.pagemap import Stretches, count_pages
from cowdaemon.worker.process_calls import ProcessCalls
from cowdaemon.worker.reader import Reader
from cowdaemon.worker.targets import Target
from cowdaemon.worker.worker import Service
from cowproto.v1 import pageflags_pb2 as messages
from cowproto.v1 import pageflags_pb2_grpc
from unit.worker.served_process import (
    FEATURES,
    FRAMES,
    PAGE,
    PID,
    SECONDS,
    START_TIME_TICKS,
    MakeFile,
    Process,
    check_health,
    make_service,
    refuse,
)

SUMMARY = messages.SummarizeProcessesResponse(
    pid=PID,
    start_time_ticks=START_TIME_TICKS,
    page_size_bytes=PAGE,
    totals=[
        messages.PageTotals(
            kind=messages.MAPPING_KIND_PRIVATE_FILE,
            mapping_count=3,
            file_page_count=1,
            anon_page_count=2,
            anon_swapped_page_count=1,
            zero_page_count=1,
            guard_page_count=1,
        )
    ],
)
OF_A_PROCESS = [
    Reason.NO_SUCH_PROCESS,
    Reason.ACCESS_DENIED,
    Reason.OWN_PROCESS,
    Reason.NO_ADDRESS_SPACE,
    Reason.PROCESS_GONE,
    Reason.OPEN_TIMED_OUT,
]
OF_THE_DAEMON = [Reason.INTERNAL_ERROR, Reason.OPENER_LOST]
THREADS = 2
"""Of the fixture serve."""


def ask(stub: Any, *pids: int) -> list[messages.SummarizeProcessesResponse]:
    request = messages.SummarizeProcessesRequest(pids=pids)
    return list(stub.SummarizeProcesses(request, timeout=SECONDS))


def summary_of(pid: int) -> messages.SummarizeProcessesResponse:
    summary = messages.SummarizeProcessesResponse()
    summary.CopyFrom(SUMMARY)
    summary.pid = pid
    return summary


def test_process_that_is_asked_for(stub: Any, process: Process) -> None:
    assert ask(stub, PID) == [SUMMARY]
    assert process.purposes == [Purpose.SUMMARY]


def test_pids_are_answered_in_their_order(stub: Any) -> None:
    pids = [9, 3, 2**31 - 1, 3]
    assert ask(stub, *pids) == [summary_of(pid) for pid in pids]


@pytest.mark.parametrize("reason", [*OF_A_PROCESS, *OF_THE_DAEMON], ids=lambda each: each.name)
def test_pid_that_fails_says_why_and_the_others_are_answered(
    stub: Any, process: Process, reason: Reason
) -> None:
    process.refusals = {7: reason}
    first, failed, last = ask(stub, 6, 7, 8)
    assert (first, last) == (summary_of(6), summary_of(8))
    message = str(CowdError(reason, pid=7, seconds=2))
    assert failed == messages.SummarizeProcessesResponse(
        pid=7,
        page_size_bytes=PAGE,
        failure=messages.Failure(code=reason.code, reason=reason.name, message=message),
    )


@pytest.mark.parametrize("pid", [0, -1, -(2**31)])
def test_pid_that_cannot_be(stub: Any, process: Process, pid: int) -> None:
    failed, answered = ask(stub, pid, PID)
    assert (failed.pid, failed.failure.reason) == (pid, "INVALID_PID")
    assert answered == SUMMARY
    assert len(process.purposes) == 1


def test_process_that_has_just_gone_says_so(stub: Any, process: Process) -> None:
    process.exit()
    (failed,) = ask(stub, PID)
    assert failed.failure.reason == "PROCESS_GONE"
    assert not failed.totals
    assert not failed.start_time_ticks


def test_all_processes_are_those_of_the_list(stub: Any, process: Process) -> None:
    process.pids = [1, 5, 4_194_303]
    assert ask(stub) == [summary_of(pid) for pid in process.pids]
    assert process.purposes == [Purpose.SWEEP] * 3


@pytest.mark.parametrize("reason", OF_A_PROCESS, ids=lambda reason: reason.name)
def test_of_all_processes_those_that_fail_are_left_out(
    stub: Any, process: Process, reason: Reason
) -> None:
    process.pids = [1, 2, 3, 4]
    process.refusals = {1: reason, 3: reason}
    assert ask(stub) == [summary_of(2), summary_of(4)]
    process.exit()
    assert ask(stub) == []


class Closing(Process):
    """It may be inspected once for each pid, and then no more."""

    def open(self, pid: int, purpose: Purpose) -> Target:
        target = super().open(pid, purpose)
        self.refusals[pid] = Reason.ACCESS_DENIED
        return target


@pytest.mark.parametrize("is_large", [False, True])
def test_process_that_was_opened_long_ago_is_asked_for_again(
    serve: Callable[[Service], grpc.Channel],
    make_file: MakeFile,
    monkeypatch: pytest.MonkeyPatch,
    is_large: bool,
) -> None:
    """Processes are opened ahead, and a client may read nothing for as long as it likes.

    Seen to fail with what was opened ahead read in any case, by itself or together with others.
    """
    monkeypatch.setattr(targets, "TARGET_KEPT_SECONDS", -1.0)
    if is_large:
        plan = summaries.make_plan
        monkeypatch.setattr(summaries, "make_plan", lambda *of: plan(*of)._replace(whole=None))
    process = Closing(make_file)
    reader = Reader(make_file(np.array(FRAMES, "<u8").tobytes()), FEATURES)
    service = make_service(process, reader)
    stub = pageflags_pb2_grpc.PageFlagsServiceStub(serve(service))
    assert [told.failure.reason for told in ask(stub, PID, 9)] == ["ACCESS_DENIED"] * 2
    assert process.purposes[:2] == [Purpose.SUMMARY] * 2
    process.refusals = {}
    assert ask(stub) == []


def test_whoever_is_asked_for_again_is_still_wanted(
    make_file: MakeFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To open may take seconds each time: that is progress. Seen to fail without the question."""
    monkeypatch.setattr(targets, "TARGET_KEPT_SECONDS", -1.0)
    events: list[str] = []

    class Noting(Process):
        def open(self, pid: int, purpose: Purpose) -> Target:
            events.append("opened")
            return super().open(pid, purpose)

    reader = Reader(make_file(np.array(FRAMES, "<u8").tobytes()), FEATURES)
    two = messages.SummarizeProcessesRequest(pids=[PID, PID])
    with ThreadPoolExecutor(THREADS) as threads:
        calls = ProcessCalls(Noting(make_file), reader, threads)  # type: ignore[arg-type]
        assert len(list(calls.summarize_processes(two, lambda: events.append("wanted")))) == 2
    assert events[-4:] == ["wanted", "opened"] * 2


def test_threads_that_open_scan_and_count(
    stub: Any, process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several processes are opened ahead of the call, and all are scanned beside it.

    Seen to fail with none opened ahead, with one opened so, and with the scans left to the call.
    """
    names: dict[str, set[str]] = {"open": set(), "scan": set(), "count": set()}

    def note(deed: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def do(*arguments: Any) -> Any:
            names[deed].add(threading.current_thread().name.partition("_")[0])
            return function(*arguments)

        return do

    monkeypatch.setattr(process, "open", note("open", process.open))
    monkeypatch.setattr(summaries, "make_plan", note("scan", summaries.make_plan))
    monkeypatch.setattr(summaries, "add_up", note("count", summaries.add_up))
    ask(stub, PID)
    [call] = names["count"]
    assert names == {"open": {call}, "scan": {"reading"}, "count": {call}}
    names["open"].clear()
    ask(stub, PID, PID)
    assert names == {"open": {"read-ahead"}, "scan": {"reading"}, "count": {call}}


@pytest.mark.parametrize("reason", OF_THE_DAEMON, ids=lambda reason: reason.name)
def test_failure_of_the_daemon_is_not_passed_over(
    stub: Any, process: Process, reason: Reason
) -> None:
    """An answer about all processes that lacks some for it would look complete."""
    process.pids = [1, 2]
    process.refusals = {2: reason}
    assert refuse(lambda: ask(stub)).info.reason == reason.name
    process.pids = reason
    assert refuse(lambda: ask(stub)).info.reason == reason.name


def test_unexpected_failure_is_in_the_log_and_not_in_the_answer(
    stub: Any, process: Process, caplog: pytest.LogCaptureFixture
) -> None:
    process.refusal = RuntimeError("frame 0xabcdef")
    with caplog.at_level(logging.ERROR, "cowdaemon"):
        refusal = refuse(lambda: ask(stub, PID))
    assert refusal.info.reason == "INTERNAL_ERROR"
    assert "abcdef" not in refusal.message
    (record,) = caplog.records
    assert "SummarizeProcesses" in record.getMessage()


def test_number_of_pids_is_limited(stub: Any, process: Process) -> None:
    assert len(ask(stub, *[PID] * PIDS_PER_CALL)) == PIDS_PER_CALL
    process.purposes.clear()
    refusal = refuse(lambda: ask(stub, *[PID] * (PIDS_PER_CALL + 1)))
    assert refusal.info.reason == "TOO_MANY_PIDS"
    assert str(PIDS_PER_CALL) in refusal.message
    assert not process.purposes


def test_most_pids_fit_a_request() -> None:
    request = messages.SummarizeProcessesRequest(pids=[-1] * PIDS_PER_CALL)  # ten bytes each
    assert request.ByteSize() < REQUEST_BYTES


class Labour:
    """Work without end, whose threads are known; once it is over, whoever goes on fails."""

    def __init__(self) -> None:
        self._threads: set[int] = set()
        self._changed = threading.Condition()
        self._is_over = False

    def work(self) -> None:
        with self._changed:
            self._threads.add(threading.get_ident())
            self._changed.notify_all()
            if self._is_over:
                raise CowdError(Reason.OPENER_LOST)

    def await_threads(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self._threads) == count, SECONDS)

    def finish(self) -> None:
        with self._changed:
            self._is_over = True


@pytest.fixture
def labour() -> Iterator[Labour]:
    labour = Labour()
    yield labour
    labour.finish()


class Endless:
    """A reader of a process that is given an enormous mapping."""

    features = FEATURES
    note_pages = staticmethod(int)

    def __init__(self, labour: Labour, process: Process) -> None:
        self._labour = labour
        os.ftruncate(process.maps, 0)
        os.pwrite(process.maps, b"0-7ffffffff000 rw-p 00000000 00:00 0\n", 0)

    def read_states(
        self,
        pagemap: int,  # noqa: ARG002
        stretches: Stretches,
        anonymous: Stretches,  # noqa: ARG002
    ) -> Bytes:
        self._labour.work()
        return np.full(count_pages(stretches), PageState.ABSENT, np.uint8)


class Refusing(Process):
    """As many processes as there can be, none of them the caller's."""

    def __init__(self, labour: Labour, make_file: MakeFile) -> None:
        super().__init__(make_file)
        self.pids = range(1, 2**31)
        self._labour = labour

    def open(self, pid: int, purpose: Purpose) -> Target:  # noqa: ARG002
        self._labour.work()
        raise CowdError(Reason.ACCESS_DENIED, pid=pid)


def cancel(stream: Any) -> None:
    stream.cancel()


def await_deadline(stream: Any) -> None:
    with pytest.raises(grpc.RpcError) as failure:
        stream.result() if hasattr(stream, "result") else next(stream)
    assert failure.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


ENDS = pytest.mark.parametrize(
    ("seconds", "end"),
    [(SECONDS, cancel), (1.0, await_deadline)],
    ids=["cancelled", "deadline"],
)


def verify_threads_are_given_back(
    channel: grpc.Channel,
    labour: Labour,
    request: messages.SummarizeProcessesRequest | messages.ListMappingsRequest,
    seconds: float,
    end: Callable[[Any], None],
) -> None:
    """Have every thread at work for a call, end the calls, and make another."""
    stub = pageflags_pb2_grpc.PageFlagsServiceStub(channel)
    is_stream = isinstance(request, messages.SummarizeProcessesRequest)
    call = stub.SummarizeProcesses if is_stream else stub.ListMappings.future
    streams = [call(request, timeout=seconds) for _ in range(THREADS)]
    labour.await_threads(THREADS)
    for stream in streams:
        end(stream)
    assert check_health(channel)


@ENDS
@pytest.mark.parametrize(
    "request_made",
    [
        messages.SummarizeProcessesRequest(pids=[PID]),
        messages.SummarizeProcessesRequest(),
        messages.ListMappingsRequest(pid=PID, with_page_counts=True),
    ],
    ids=["asked", "all", "mappings"],
)
def test_call_that_nobody_waits_for_stops_within_a_chunk(
    serve: Callable[[Service], grpc.Channel],
    process: Process,
    labour: Labour,
    caplog: pytest.LogCaptureFixture,
    request_made: messages.SummarizeProcessesRequest | messages.ListMappingsRequest,
    seconds: float,
    end: Callable[[Any], None],
) -> None:
    reader = Endless(labour, process)
    channel = serve(make_service(process, reader))
    with caplog.at_level(logging.DEBUG, "cowdaemon"):
        verify_threads_are_given_back(channel, labour, request_made, seconds, end)
    assert not caplog.records


@ENDS
def test_refused_processes_are_not_gone_through_for_nobody(
    serve: Callable[[Service], grpc.Channel],
    make_file: MakeFile,
    labour: Labour,
    seconds: float,
    end: Callable[[Any], None],
) -> None:
    """gRPC stops a stream that was cancelled at its next response; here there is none."""
    process = Refusing(labour, make_file)
    channel = serve(make_service(process, None))
    request = messages.SummarizeProcessesRequest()
    verify_threads_are_given_back(channel, labour, request, seconds, end)
