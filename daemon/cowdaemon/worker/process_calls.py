# SPDX-License-Identifier: Apache-2.0
"""The calls about whole processes: ListMappings and SummarizeProcesses.

Worker, unprivileged. What a call cannot answer it raises as CowdError.
"""

import os
from collections.abc import Callable, Iterator
from typing import Final

from cowproto.v1 import pageflags_pb2 as messages

from cowdaemon import wire
from cowdaemon.errors import Code, CowdError, Reason
from cowdaemon.limits import MAPPINGS_PATH_BYTES, MAPPINGS_PER_CALL, PIDS_PER_CALL
from cowdaemon.worker.pagemap import ShortReadError
from cowdaemon.worker.reader import Reader
from cowdaemon.worker.requests import open_target, verify_start_time
from cowdaemon.worker.summaries import summarize
from cowdaemon.worker.targets import Target, Targets

__all__ = ["ProcessCalls"]

_PAGE_SIZE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_OF_THE_DAEMON: Final = (Code.INTERNAL, Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED)
"""What is no matter of the process that was asked about."""


class ProcessCalls:
    """Answers for one credential.

    Args:
        targets: opens processes with its authority.
        reader: reads their pages.
    """

    def __init__(self, targets: Targets, reader: Reader) -> None:
        self._targets = targets
        self._reader = reader

    def list_mappings(self, request: messages.ListMappingsRequest) -> bytes:
        """Answer ListMappings."""
        target = open_target(self._targets, request.pid)
        verify_start_time(target, request.expected_start_time_ticks)
        response = messages.ListMappingsResponse(start_time_ticks=target.start_time_ticks)
        path_bytes = 0
        for mapping in target.list_mappings():
            if mapping.end_address <= request.start_address:
                continue
            if len(response.mappings) == MAPPINGS_PER_CALL or path_bytes > MAPPINGS_PATH_BYTES:
                response.next_start_address = response.mappings[-1].end_address
                break
            path_bytes += len(mapping.path)
            response.mappings.add(**mapping._asdict())
        if not target.is_alive():
            raise CowdError(Reason.PROCESS_GONE, pid=request.pid)
        return response.SerializeToString()

    def summarize_processes(
        self, request: messages.SummarizeProcessesRequest, verify_wanted: Callable[[], None]
    ) -> Iterator[bytes]:
        """Answer SummarizeProcesses."""
        if len(request.pids) > PIDS_PER_CALL:
            raise CowdError(Reason.TOO_MANY_PIDS, count=len(request.pids), maximum=PIDS_PER_CALL)
        purpose = wire.Purpose.SUMMARY if request.pids else wire.Purpose.SWEEP
        for pid in request.pids or self._targets.list_pids():
            verify_wanted()
            response = messages.SummarizeProcessesResponse(
                pid=pid, page_size_bytes=_PAGE_SIZE_BYTES
            )
            try:
                self._summarize(open_target(self._targets, pid, purpose), response, verify_wanted)
            except CowdError as error:
                reason = error.reason
                if purpose is wire.Purpose.SUMMARY:
                    response.failure.code = reason.code
                    response.failure.reason = reason.name
                    response.failure.message = str(error)
                elif reason.code in _OF_THE_DAEMON:
                    raise
                else:
                    continue
            yield response.SerializeToString()

    def _summarize(
        self,
        target: Target,
        response: messages.SummarizeProcessesResponse,
        verify_wanted: Callable[[], None],
    ) -> None:
        try:
            summary = summarize(self._reader, target, verify_wanted)
        except ShortReadError:
            raise CowdError(Reason.PROCESS_GONE, pid=target.pid) from None
        response.start_time_ticks = target.start_time_ticks
        for totals in summary:
            counts = {
                f"{state.name.lower()}_page_count": count
                for state, count in totals.page_counts.items()
            }
            response.totals.add(kind=totals.kind, mapping_count=totals.mapping_count, **counts)
