# SPDX-License-Identifier: Apache-2.0
"""The calls of the fake daemon about whole processes: SummarizeProcesses and ComparePages."""

import re
import threading

import grpc
from cowdaemon.errors import CowdError
from cowproto.v1 import pageflags_pb2
from cowproto.v1.pageflags_pb2 import (
    PAGE_COMPARISON_DIFFERENT,
    PAGE_COMPARISON_NEITHER,
    PAGE_COMPARISON_ONLY_FIRST,
    PAGE_COMPARISON_ONLY_SECOND,
    PAGE_COMPARISON_SAME,
    PAGE_COMPARISON_UNKNOWN,
    PAGE_COPIER_BOTH,
    PAGE_COPIER_FIRST,
    PAGE_COPIER_SECOND,
    PAGE_COPIER_UNSPECIFIED,
    PAGE_STATE_ABSENT,
    PAGE_STATE_ANON,
    PAGE_STATE_ANON_SWAPPED,
    PAGE_STATE_FILE,
)

PAGE_BYTES = 4096
START = 0x7F0000000000
COMPARED = {
    ".": (PAGE_COMPARISON_NEITHER, PAGE_STATE_ABSENT, PAGE_STATE_ABSENT, PAGE_COPIER_UNSPECIFIED),
    "=": (PAGE_COMPARISON_SAME, PAGE_STATE_ANON, PAGE_STATE_ANON, PAGE_COPIER_UNSPECIFIED),
    "f": (PAGE_COMPARISON_SAME, PAGE_STATE_FILE, PAGE_STATE_FILE, PAGE_COPIER_UNSPECIFIED),
    "p": (PAGE_COMPARISON_DIFFERENT, PAGE_STATE_ANON, PAGE_STATE_FILE, PAGE_COPIER_FIRST),
    "c": (PAGE_COMPARISON_DIFFERENT, PAGE_STATE_FILE, PAGE_STATE_ANON, PAGE_COPIER_SECOND),
    "b": (PAGE_COMPARISON_DIFFERENT, PAGE_STATE_ANON, PAGE_STATE_ANON, PAGE_COPIER_BOTH),
    "1": (PAGE_COMPARISON_ONLY_FIRST, PAGE_STATE_ANON, PAGE_STATE_ABSENT, PAGE_COPIER_UNSPECIFIED),
    "2": (PAGE_COMPARISON_ONLY_SECOND, PAGE_STATE_ABSENT, PAGE_STATE_ANON, PAGE_COPIER_UNSPECIFIED),
    "?": (
        *(PAGE_COMPARISON_UNKNOWN, PAGE_STATE_ANON),
        *(PAGE_STATE_ANON_SWAPPED, PAGE_COPIER_UNSPECIFIED),
    ),
}


def make_summary(pid: int, *, anon_page_count: int = 5) -> pageflags_pb2.SummarizeProcessesResponse:
    """Return the summary of a process with two kinds of mappings."""
    return pageflags_pb2.SummarizeProcessesResponse(
        pid=pid,
        start_time_ticks=100 + pid,
        page_size_bytes=PAGE_BYTES,
        totals=[
            pageflags_pb2.PageTotals(
                kind=pageflags_pb2.MAPPING_KIND_PRIVATE_FILE,
                mapping_count=3,
                absent_page_count=10,
                file_page_count=7,
                anon_page_count=2,
                anon_swapped_page_count=1,
            ),
            pageflags_pb2.PageTotals(
                kind=pageflags_pb2.MAPPING_KIND_ANONYMOUS,
                mapping_count=1,
                anon_page_count=anon_page_count,
                zero_page_count=4,
                guard_page_count=6,
                unknown_page_count=8,
            ),
        ],
    )


def make_failure(
    pid: int, code: int, reason: str, message: str
) -> pageflags_pb2.SummarizeProcessesResponse:
    """Return what is said of a process that cannot be answered about."""
    failure = pageflags_pb2.Failure(code=code, reason=reason, message=message)
    return pageflags_pb2.SummarizeProcessesResponse(
        pid=pid, page_size_bytes=PAGE_BYTES, failure=failure
    )


class FakeProcesses:
    """The part of FakeDaemon that knows several processes.

    Attributes:
        summaries: by pid; any other process is not there.
        compared: what two processes have from START on, by the characters of COMPARED.
        pids_asked: of each call of SummarizeProcesses.
        change_answer: is called with every answer of these calls.
        failure_of_comparisons: raised by every call of ComparePages.
        answers_per_loss: of a call that `stream_codes` ends.
    """

    stream_codes: list[grpc.StatusCode]
    hold: threading.Event | None

    def __init__(self) -> None:
        self.summaries = {pid: make_summary(pid) for pid in (3, 5, 8)}
        self.compared = "=fpcb12?"
        self.pids_asked: list[list[int]] = []
        self.change_answer = lambda _: None
        self.answers_per_loss = 1
        self.failure_of_comparisons: CowdError | None = None
        self.other_start_time_ticks = 900

    def SummarizeProcesses(self, request, context):  # noqa: N802 (a name of the contract)
        assert context.add_callback(self.ended.set)
        self._fail(context)
        assert len(request.pids) <= self.maximum_pid_count
        self.pids_asked.append(list(request.pids))
        yield from self._send(map(self._summarize, request.pids or sorted(self.summaries)), context)

    def _summarize(self, pid):
        known = self.summaries.get(pid)
        return known or make_failure(pid, 5, "NO_SUCH_PROCESS", f"no process {pid}")

    def ComparePages(self, request, context):  # noqa: N802
        assert context.add_callback(self.ended.set)
        self._check(request, context)
        if self.failure_of_comparisons is not None:
            self.failure = self.failure_of_comparisons
            try:
                self._fail(context)
            finally:
                self.failure = None
        assert 1 <= len(request.ranges) <= self.maximum_range_count
        self.asked += [(each.address, each.count) for each in request.ranges]
        yield from self._send(self._iter_comparisons(request), context)

    def _iter_comparisons(self, request):
        for each in request.ranges:
            for first in range(0, each.count, self.maximum_page_count):
                address = each.address + first * PAGE_BYTES
                count = min(self.maximum_page_count, each.count - first)
                yield self._compare(address, count, request)

    def _compare(self, address, count, request):
        first = (address - START) // PAGE_BYTES
        pages = "".join(
            self.compared[index] if 0 <= index < len(self.compared) else "."
            for index in range(first, first + count)
        )
        response = pageflags_pb2.ComparePagesResponse(
            page_size_bytes=PAGE_BYTES,
            address=address,
            count=count,
            start_time_ticks=self.start_times[0],
            other_start_time_ticks=self.other_start_time_ticks,
        )
        if request.totals_only:
            for sort in sorted(set(pages)):
                comparison, state, other_state, copied_by = COMPARED[sort]
                copied_by *= not request.without_copiers
                response.totals.add(
                    comparison=comparison,
                    state=state,
                    other_state=other_state,
                    copied_by=copied_by,
                    page_count=pages.count(sort),
                )
            return response
        for stretch in re.finditer(r"[^.]+", pages):
            response.stretch_address.append(address + stretch.start() * PAGE_BYTES)
            response.stretch_page_count.append(len(stretch[0]))
        for sort in pages.replace(".", ""):
            comparison, state, other_state, copied_by = COMPARED[sort]
            response.comparison.append(comparison)
            response.state.append(state)
            response.other_state.append(other_state)
            response.copied_by.append(copied_by)
        return response

    def _send(self, answers, context):
        for number, answer in enumerate(answers, 1):
            self.answer_count += 1
            self.change_answer(answer)
            yield answer
            if self.hold:
                self.hold.wait(20)
            if self.stream_codes and number == self.answers_per_loss:
                context.abort(self.stream_codes.pop(), "lost")
