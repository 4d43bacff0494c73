# SPDX-License-Identifier: Apache-2.0
"""The messages of SummarizeProcesses, as verified values. Sees protobuf.

An answer that is not what was asked for raises InternalError.
"""

from collections import deque
from collections.abc import Iterable
from itertools import pairwise
from mmap import PAGESIZE
from typing import ClassVar

from cowproto.v1 import pageflags_pb2

from cowd._answers import convert_page_counts
from cowd._errors import Error, InternalError, InvalidRequest, error_from_status
from cowd._mappings import MappingKind
from cowd._summaries import KindTotals, ProcessSummary

__all__ = ["SummaryStream", "Sweep"]


class SummaryStream:
    """The processes of one call that names them, and those that are not told of yet."""

    pid: ClassVar[None] = None
    begins_anew: ClassVar[bool] = False

    def __init__(self, pids: Iterable[int]) -> None:
        self._rest = deque(pids)

    @property
    def is_complete(self) -> bool:
        """Whether there have been answers about every process."""
        return not self._rest

    def make_request(self) -> pageflags_pb2.SummarizeProcessesRequest:
        """Return the request for all that are missing.

        Raises:
            InvalidRequest: a pid is none.
        """
        try:
            return pageflags_pb2.SummarizeProcessesRequest(pids=self._rest)
        except (TypeError, ValueError) as error:
            raise InvalidRequest(f"the request cannot be sent: {error}") from error

    def take(self, answer: pageflags_pb2.SummarizeProcessesResponse) -> ProcessSummary:
        """Return the next answer.

        Raises:
            InternalError: it is not about the next process, or is not one.
        """
        if not self._rest or self._rest[0] != answer.pid:
            raise _make_error(answer.pid)
        summary = _convert(answer)
        self._rest.popleft()
        return summary

    def finish(self) -> None:
        """Raise InternalError if an answer is missing."""
        if self._rest:
            raise InternalError("cowd's answer ends before the processes asked for")


class Sweep:
    """All processes that the caller may inspect.

    A call that is made again begins anew: what has been told of is passed over.
    """

    pid: ClassVar[None] = None
    begins_anew: ClassVar[bool] = True

    def __init__(self) -> None:
        self.is_complete = False
        self._last_told_pid = 0
        self._last_pid = 0  # of this call

    def make_request(self) -> pageflags_pb2.SummarizeProcessesRequest:
        """Return the request, which starts again."""
        self._last_pid = 0
        return pageflags_pb2.SummarizeProcessesRequest()

    def take(self, answer: pageflags_pb2.SummarizeProcessesResponse) -> ProcessSummary | None:
        """Return the next answer, or None if there was one about the process before.

        Raises:
            InternalError: it is not about a process that comes after, or is not one.
        """
        summary = _convert(answer)
        if answer.pid <= self._last_pid or summary.failure is not None:
            raise _make_error(answer.pid)
        self._last_pid = answer.pid
        if answer.pid <= self._last_told_pid:
            return None
        self._last_told_pid = answer.pid
        return summary

    def finish(self) -> None:
        """Note that there are no more processes."""
        self.is_complete = True


def _convert(answer: pageflags_pb2.SummarizeProcessesResponse) -> ProcessSummary:
    kinds = [each.kind for each in answer.totals]
    has_failed = answer.HasField("failure")
    if (
        answer.page_size_bytes != PAGESIZE
        or any(one >= next_one for one, next_one in pairwise(kinds))
        or not all(each.mapping_count for each in answer.totals)
        or (has_failed and kinds)
    ):
        raise _make_error(answer.pid)
    return ProcessSummary(
        pid=answer.pid,
        start_time_ticks=answer.start_time_ticks,
        page_size_bytes=PAGESIZE,
        totals=tuple(
            KindTotals(MappingKind(each.kind), each.mapping_count, convert_page_counts(each))
            for each in answer.totals
        ),
        failure=_convert_failure(answer) if has_failed else None,
    )


def _convert_failure(answer: pageflags_pb2.SummarizeProcessesResponse) -> Error:
    failure = answer.failure
    return error_from_status(
        failure.code,
        failure.message,
        reason=failure.reason or None,
        pid=answer.pid,
        retry_after_seconds=None,
    )


def _make_error(pid: int) -> InternalError:
    return InternalError("cowd's answer is not about the processes asked for", pid=pid)
