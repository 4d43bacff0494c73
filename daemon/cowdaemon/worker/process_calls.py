# SPDX-License-Identifier: Apache-2.0
"""The calls about whole processes: ListMappings and SummarizeProcesses.

Worker, unprivileged. What a call cannot answer it raises as CowdError.
"""

import os
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from typing import Final, NamedTuple

from cowproto.v1 import pageflags_pb2 as messages

from cowdaemon import wire
from cowdaemon.errors import Code, CowdError, Reason
from cowdaemon.limits import (
    COUNTED_PAGES,
    MAPPINGS_PATH_BYTES,
    MAPPINGS_PER_CALL,
    PIDS_PER_CALL,
    TARGETS_AHEAD,
)
from cowdaemon.worker.mapping_counts import count_mappings, make_plan
from cowdaemon.worker.mappings import Extent, number_extents
from cowdaemon.worker.page_states import PageState
from cowdaemon.worker.pagemap import ShortReadError
from cowdaemon.worker.read_ahead import map_ahead, read_ahead
from cowdaemon.worker.reader import Reader
from cowdaemon.worker.requests import open_target, verify_start_time
from cowdaemon.worker.summaries import Totals, iter_summaries
from cowdaemon.worker.targets import Target, Targets

__all__ = ["ProcessCalls"]

_PAGE_SIZE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_COUNT_FIELDS: Final = {state: f"{state.name.lower()}_page_count" for state in PageState}
"""Of PageCounts and of PageTotals."""
_OF_THE_DAEMON: Final = (Code.INTERNAL, Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED)
"""What is no matter of the process that was asked about."""


class _Asked(NamedTuple):
    """A process of a call about several, opened, or why not."""

    pid: int
    target: Target | None
    failure: CowdError | None


class ProcessCalls:
    """Answers for one credential.

    Args:
        targets: opens processes with its authority.
        reader: reads their pages.
        threads: those that read.
    """

    def __init__(self, targets: Targets, reader: Reader, threads: ThreadPoolExecutor) -> None:
        self._targets = targets
        self._reader = reader
        self._run = partial(map_ahead, threads)

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
        if not target.is_alive():  # then the list may have ended early, and pages seem absent
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
        plan = make_plan(self._reader, target, number_extents(extents))
        try:
            counts = count_mappings(self._reader, plan, verify_wanted, COUNTED_PAGES, self._run)
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
        opened = self._iter_opened(request.pids, purpose, verify_wanted)
        if len(request.pids) != 1:
            opened = read_ahead(opened, TARGETS_AHEAD)
        with closing(opened):
            for pid, failure, start_time_ticks, totals in self._iter_answers(
                opened, purpose, verify_wanted
            ):
                response = messages.SummarizeProcessesResponse(
                    pid=pid, page_size_bytes=_PAGE_SIZE_BYTES, start_time_ticks=start_time_ticks
                )
                if failure is None:
                    for kind, mapping_count, page_counts in totals:
                        counts = _name_counts(page_counts)
                        response.totals.add(kind=kind, mapping_count=mapping_count, **counts)
                elif purpose is wire.Purpose.SUMMARY:
                    response.failure.code = failure.reason.code
                    response.failure.reason = failure.reason.name
                    response.failure.message = str(failure)
                elif failure.reason.code in _OF_THE_DAEMON:
                    raise failure
                else:
                    continue
                yield response.SerializeToString()

    def _iter_answers(
        self,
        asked: Iterator[_Asked],
        purpose: wire.Purpose,
        verify_wanted: Callable[[], None],
    ) -> Iterator[tuple[int, CowdError | None, int, list[Totals]]]:
        """Yield the pid of each process, why it cannot be told of, its start time and totals."""
        refusals: dict[int, CowdError] = {}

        def may_read(target: Target) -> bool:
            """Ask again, once the permission is old: the client may not have read for long."""
            if target.has_expired():
                verify_wanted()
                try:
                    open_target(self._targets, target.pid, purpose)
                except CowdError as refusal:
                    refusals[target.pid] = refusal
                    return False
            return True

        named = ((each, each.target) for each in asked)
        summaries = iter_summaries(self._reader, named, verify_wanted, self._run, may_read)
        for (pid, target, failure), totals in summaries:
            if target is None or totals is None:
                why = failure or refusals.pop(pid, None) or CowdError(Reason.PROCESS_GONE, pid=pid)
                yield pid, why, 0, []
            else:
                yield pid, None, target.start_time_ticks, totals

    def _iter_opened(
        self, pids: Sequence[int], purpose: wire.Purpose, verify_wanted: Callable[[], None]
    ) -> Generator[_Asked, None, None]:
        """Yield the processes asked for, opened. A failure of the daemon's ends a sweep."""
        for pid in pids or self._targets.list_pids():
            verify_wanted()
            try:
                yield _Asked(pid, open_target(self._targets, pid, purpose), None)
            except CowdError as failure:
                is_of_daemon = failure.reason.code in _OF_THE_DAEMON
                if purpose is wire.Purpose.SUMMARY or is_of_daemon:
                    yield _Asked(pid, None, failure)
                if purpose is wire.Purpose.SWEEP and is_of_daemon:
                    return


def _name_counts(counts: Mapping[PageState, int] | Sequence[int]) -> dict[str, int]:
    """Return counts of pages, by state or by its number, as the fields of a message."""
    return {name: counts[state] for state, name in _COUNT_FIELDS.items()}
