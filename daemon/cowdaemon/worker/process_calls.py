# SPDX-License-Identifier: Apache-2.0
"""The calls about whole processes: ListMappings and SummarizeProcesses.

Worker, unprivileged. What a call cannot answer it raises as CowdError.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from cowproto.v1 import pageflags_pb2 as messages

from cowdaemon import wire
from cowdaemon.errors import Code, CowdError, Reason
from cowdaemon.limits import (
    COUNTED_PAGES,
    MAPPINGS_PATH_BYTES,
    MAPPINGS_PER_CALL,
    PIDS_PER_CALL,
)
from cowdaemon.worker.mappings import Extent
from cowdaemon.worker.page_states import PageState
from cowdaemon.worker.pagemap import ShortReadError
from cowdaemon.worker.reader import Reader
from cowdaemon.worker.requests import open_target, verify_start_time
from cowdaemon.worker.summaries import count_mappings, number_extents, summarize
from cowdaemon.worker.targets import Target, Targets

__all__ = ["ProcessCalls"]

_PAGE_SIZE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_COUNT_FIELDS: Final = ("", *(f"{state.name.lower()}_page_count" for state in PageState))
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

    def list_mappings(
        self, request: messages.ListMappingsRequest, verify_wanted: Callable[[], None]
    ) -> bytes:
        """Answer ListMappings."""
        target = open_target(self._targets, request.pid)
        verify_start_time(target, request.expected_start_time_ticks)
        response = messages.ListMappingsResponse(start_time_ticks=target.start_time_ticks)
        path_bytes = 0
        extents: list[Extent] = []
        for mapping in target.list_mappings():
            if mapping.end_address <= request.start_address:
                continue
            if len(extents) == MAPPINGS_PER_CALL or path_bytes > MAPPINGS_PATH_BYTES:
                response.next_start_address = extents[-1].end_address
                break
            path_bytes += len(mapping.path)
            response.mappings.add(**mapping._asdict())
            extents.append(Extent(mapping.start_address, mapping.end_address, mapping.kind))
        if request.with_page_counts:
            self._add_page_counts(target, extents, response, verify_wanted)
        if not target.is_alive():
            raise CowdError(Reason.PROCESS_GONE, pid=request.pid)
        return response.SerializeToString()

    def _add_page_counts(
        self,
        target: Target,
        extents: list[Extent],
        response: messages.ListMappingsResponse,
        verify_wanted: Callable[[], None],
    ) -> None:
        """Add them to each mapping, and take mappings away that would be too much work."""
        mapped = number_extents(extents)
        try:
            counts = count_mappings(self._reader, target, mapped, verify_wanted, COUNTED_PAGES)
        except ShortReadError:
            raise CowdError(Reason.PROCESS_GONE, pid=target.pid) from None
        if len(counts) < len(extents):
            response.next_start_address = extents[len(counts) - 1].end_address
            del response.mappings[len(counts) :]
        for mapping, row in zip(response.mappings, counts.tolist(), strict=True):
            mapping.page_counts.CopyFrom(messages.PageCounts(**_name_counts(row)))

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
            counts = _name_counts((0, *totals.page_counts.values()))
            response.totals.add(kind=totals.kind, mapping_count=totals.mapping_count, **counts)


def _name_counts(counts: Sequence[int]) -> dict[str, int]:
    """Return counts of pages as the fields of a message, given one by the number of each state."""
    return {name: count for name, count in zip(_COUNT_FIELDS, counts, strict=True) if name}
