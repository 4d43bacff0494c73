# SPDX-License-Identifier: Apache-2.0
"""The calls of cowd.v1, from a request to a response. Protobuf stays here and in handlers.py.

Worker, unprivileged. What a call cannot answer it raises as CowdError.
"""

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import Final, NamedTuple

import grpc
from cowproto.v1 import pageflags_pb2 as messages
from cowproto.v1 import twins_pb2 as twins

from cowdaemon import __version__, wire
from cowdaemon.errors import Code, CowdError, Reason
from cowdaemon.limits import (
    CALLS_PER_WORKER,
    CHUNKS_AHEAD,
    MAPPINGS_PATH_BYTES,
    MAPPINGS_PER_CALL,
    PAGES_PER_CALL,
    PIDS_PER_CALL,
    RANGES_PER_CALL,
)
from cowdaemon.worker.disclosure import SAFE, DisclosureMasks
from cowdaemon.worker.encoding import encode_pages
from cowdaemon.worker.few_pages import DisclosedPages
from cowdaemon.worker.handlers import Handlers, fail
from cowdaemon.worker.page_states import Bytes, Words
from cowdaemon.worker.page_stream import ChunkPages, PageStreams
from cowdaemon.worker.pagemap import ShortReadError, read_entries
from cowdaemon.worker.privileges import Confinement
from cowdaemon.worker.read_ahead import read_ahead
from cowdaemon.worker.reader import Reader, classify_readings
from cowdaemon.worker.summaries import summarize
from cowdaemon.worker.targets import Target, Targets

__all__ = ["Caller", "PageFlagsService", "RefusingService"]

_SERVICE: Final = "cowd.v1.PageFlagsService"
_HEALTH: Final = "grpc.health.v1.Health"
_PAGE_SIZE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_ADDRESSES: Final = 1 << 64
_OF_THE_DAEMON: Final = (Code.INTERNAL, Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED)
"""What is no matter of the process that was asked about."""


class Caller(NamedTuple):
    """Who the caller is, for telling it; access is decided by which opener the worker has."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    granted: wire.Detail


class PageFlagsService:
    """Answers for one credential.

    Args:
        caller: that credential.
        targets: opens processes with its authority.
        reader: reads their pages.
        confinement: what this process is closed in by, for telling it.
        masks: which flags it may see.
        calls_per_worker: how many calls are worked on at once.
    """

    def __init__(
        self,
        caller: Caller,
        targets: Targets,
        reader: Reader,
        confinement: Confinement,
        masks: DisclosureMasks = SAFE,
        calls_per_worker: int = CALLS_PER_WORKER,
    ) -> None:
        self._caller = caller
        self._targets = targets
        self._reader = reader
        self._confinement = confinement
        self._masks = masks
        self._mask_fields = {
            "private_flags_mask": int(masks.private_flags),
            "shared_flags_mask": int(masks.shared_flags),
        }
        self._streams: PageStreams[bytes] = PageStreams(reader, masks)
        self._calls_per_worker = calls_per_worker
        self._handlers: Handlers | None = None

    def make_handler(self) -> grpc.GenericRpcHandler:
        """Return the handler of cowd.v1.PageFlagsService and of the standard health check."""
        self._handlers = Handlers(
            calls={
                f"/{_SERVICE}/GetPageFlags": (messages.GetPageFlagsRequest, self._get_page_flags),
                f"/{_SERVICE}/ListMappings": (messages.ListMappingsRequest, self._list_mappings),
                f"/{_SERVICE}/GetServerInfo": (messages.GetServerInfoRequest, self._get_info),
                f"/{_HEALTH}/Check": (twins.HealthCheckRequest, self._check_health),
            },
            streams={
                f"/{_SERVICE}/StreamPageFlags": (
                    messages.StreamPageFlagsRequest,
                    self._stream_page_flags,
                ),
                f"/{_SERVICE}/SummarizeProcesses": (
                    messages.SummarizeProcessesRequest,
                    self._summarize_processes,
                ),
            },
        )
        return self._handlers

    def longest_work_seconds(self) -> float:
        """Return how long a call has stood still."""
        return self._handlers.longest_work_seconds() if self._handlers else 0.0

    def await_idle(self, work_seconds: float, reading_seconds: float) -> None:
        """Return when all calls have been answered and their answers read, or after so long."""
        if self._handlers:
            self._handlers.await_idle(work_seconds, reading_seconds)

    def adopt_opener(self, opener: socket.socket) -> None:
        """Use this opener from now on: the one before is gone."""
        self._targets.adopt_opener(opener)

    def drop_expired(self) -> None:
        """Close targets that were kept long enough."""
        self._targets.drop_expired()

    def _get_page_flags(self, request: messages.GetPageFlagsRequest) -> bytes:
        _verify_range(request.address, request.count, most=PAGES_PER_CALL)
        target = self._open(request.pid)
        _verify_start_time(target, request.expected_start_time_ticks)
        response = twins.GetPageFlagsResponse(
            page_size_bytes=_PAGE_SIZE_BYTES,
            address=request.address,
            start_time_ticks=target.start_time_ticks,
            masks=self._mask_fields,
        )
        return encode_pages(response, *self._read(target, request.address, request.count))

    def _stream_page_flags(
        self, request: messages.StreamPageFlagsRequest, verify_wanted: Callable[[], None]
    ) -> Iterator[bytes]:
        ranges = _number_ranges(request.ranges)
        target = self._open(request.pid)
        _verify_start_time(target, request.expected_start_time_ticks)
        for _, end in ranges:
            with _explaining_short_reads(target):
                read_entries(target.pagemap, (end - 1) * _PAGE_SIZE_BYTES, 1)
        tell = partial(self._tell_chunk, target)
        chunks = self._streams.iter_chunks(target, ranges, tell, verify_wanted)
        responses = self._iter_allowed(target, chunks)
        page_count = sum(end - first for first, end in ranges)
        return responses if page_count <= PAGES_PER_CALL else read_ahead(responses, CHUNKS_AHEAD)

    def _iter_allowed(self, target: Target, responses: Iterator[bytes]) -> Iterator[bytes]:
        """Yield the responses as long as the caller may inspect the target."""
        try:
            yield from islice(responses, 1)
            for response in responses:
                self._verify_access(target)
                yield response
        except ShortReadError:
            raise CowdError(Reason.PROCESS_GONE, pid=target.pid) from None

    def _tell_chunk(self, target: Target, pages: ChunkPages) -> bytes:
        first, end, stretches = pages.chunk
        response = twins.StreamPageFlagsResponse(
            page_size_bytes=_PAGE_SIZE_BYTES,
            address=first * _PAGE_SIZE_BYTES,
            count=end - first,
            start_time_ticks=target.start_time_ticks,
            masks=self._mask_fields,
            stretch_address=(stretches[:, 0] * _PAGE_SIZE_BYTES).astype("<u8").tobytes(),
            stretch_page_count=(stretches[:, 1] - stretches[:, 0]).astype("<u4").tobytes(),
        )
        return encode_pages(response, pages.kpageflags, pages.states, pages.attributes)

    def _verify_access(self, target: Target) -> None:
        """Ask again, now and then, whether the caller may still inspect a target."""
        try:
            self._open(target.pid)
        except CowdError:
            if not target.is_alive():
                raise ShortReadError from None
            raise

    def _list_mappings(self, request: messages.ListMappingsRequest) -> bytes:
        target = self._open(request.pid)
        _verify_start_time(target, request.expected_start_time_ticks)
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

    def _summarize_processes(
        self, request: messages.SummarizeProcessesRequest, verify_wanted: Callable[[], None]
    ) -> Iterator[bytes]:
        if len(request.pids) > PIDS_PER_CALL:
            raise CowdError(Reason.TOO_MANY_PIDS, count=len(request.pids), maximum=PIDS_PER_CALL)
        purpose = wire.Purpose.SUMMARY if request.pids else wire.Purpose.SWEEP
        for pid in request.pids or self._targets.list_pids():
            verify_wanted()
            response = messages.SummarizeProcessesResponse(
                pid=pid, page_size_bytes=_PAGE_SIZE_BYTES
            )
            try:
                self._summarize(self._open(pid, purpose), response, verify_wanted)
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

    def _get_info(self, _: messages.GetServerInfoRequest) -> bytes:
        caller, features = self._caller, self._reader.features
        return messages.GetServerInfoResponse(
            version=__version__,
            page_size_bytes=_PAGE_SIZE_BYTES,
            caller=messages.CallerCredential(uid=caller.uid, gid=caller.gid, groups=caller.groups),
            maximum_page_count=PAGES_PER_CALL,
            maximum_mapping_count=MAPPINGS_PER_CALL,
            masks=messages.DisclosureMasks(**self._mask_fields),
            kernel_features=messages.KernelFeatures(
                soft_dirty=features.layout.has_soft_dirty,
                guard_regions=features.has_guard_regions,
                markers=features.layout.marker_type is not None,
                pagemap_scan=features.has_pagemap_scan,
            ),
            maximum_concurrent_call_count=self._calls_per_worker,
            confinement=messages.Confinement(
                seccomp=self._confinement.has_seccomp,
                landlock_abi=self._confinement.landlock_abi,
            ),
            granted=f"GRANT_DETAIL_{caller.granted.name}",
            maximum_pid_count=PIDS_PER_CALL,
            maximum_range_count=RANGES_PER_CALL,
        ).SerializeToString()

    def _check_health(self, request: twins.HealthCheckRequest) -> bytes:
        if request.service not in ("", _SERVICE):
            raise CowdError(Reason.UNKNOWN_SERVICE, service=request.service)
        return twins.HealthCheckResponse(status="SERVING_STATUS_SERVING").SerializeToString()

    def _open(self, pid: int, purpose: wire.Purpose = wire.Purpose.PAGES) -> Target:
        if pid < 1:
            raise CowdError(Reason.INVALID_PID, pid=pid)
        return self._targets.open(pid, purpose)

    def _read(
        self, target: Target, address: int, count: int
    ) -> DisclosedPages | tuple[Words, Bytes, Bytes]:
        reader, pagemap = self._reader, target.pagemap
        with _explaining_short_reads(target):
            few = reader.read_few(pagemap, address, count, self._masks)
            if few is not None:
                return few
            readings = reader.read(pagemap, address, count)
        states, attributes = classify_readings(readings, reader.features.layout)
        flags = self._masks.apply(readings.entries, readings.flags, readings.codes)
        return flags, states, attributes


class RefusingService:
    """Answers every call with one refusal, and holds nothing.

    Args:
        refusal: a reason whose sentence has no fields.
    """

    def __init__(self, refusal: Reason) -> None:
        self._refusal = refusal

    def make_handler(self) -> grpc.GenericRpcHandler:
        """Return a handler of any call."""
        refusal = CowdError(self._refusal)

        class Refusing(grpc.GenericRpcHandler):
            def service(self, _: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[bytes, bytes]":
                return grpc.unary_unary_rpc_method_handler(lambda _, call: fail(call, refusal))

        return Refusing()

    def adopt_opener(self, opener: socket.socket) -> None:
        """Close it: nothing is opened for a caller who is refused."""
        opener.close()

    def drop_expired(self) -> None:
        """Nothing is kept."""

    def longest_work_seconds(self) -> float:
        """Nothing is worked on."""
        return 0.0

    def await_idle(self, work_seconds: float, reading_seconds: float) -> None:
        """Nothing is ever under way."""


@contextmanager
def _explaining_short_reads(target: Target) -> Iterator[None]:
    """Raise what a short read of a target's pagemap means: its end, or that of the range."""
    try:
        yield
    except ShortReadError:
        reason = Reason.OUT_OF_ADDRESS_SPACE if target.is_alive() else Reason.PROCESS_GONE
        raise CowdError(reason, pid=target.pid) from None


def _verify_range(address: int, count: int, most: int | None = None) -> None:
    if address % _PAGE_SIZE_BYTES:
        raise CowdError(Reason.UNALIGNED_ADDRESS, address=address, page_size_bytes=_PAGE_SIZE_BYTES)
    if count < 1 or (most is not None and count > most):
        wanted = "1 page or more" if most is None else f"1 to {most} pages a call"
        raise CowdError(Reason.INVALID_COUNT, count=count, wanted=wanted)
    if address + count * _PAGE_SIZE_BYTES > _ADDRESSES:
        raise CowdError(Reason.RANGE_OVERFLOW, address=address, count=count)


def _number_ranges(ranges: Sequence[messages.PageRange]) -> list[tuple[int, int]]:
    """Return first page and page after the last of each range, or raise CowdError."""
    if not 1 <= len(ranges) <= RANGES_PER_CALL:
        raise CowdError(Reason.INVALID_RANGE_COUNT, count=len(ranges), maximum=RANGES_PER_CALL)
    for each in ranges:
        _verify_range(each.address, each.count)
    firsts = [each.address // _PAGE_SIZE_BYTES for each in ranges]
    return [(first, first + each.count) for first, each in zip(firsts, ranges, strict=True)]


def _verify_start_time(target: Target, expected_ticks: int) -> None:
    actual_ticks = target.start_time_ticks
    if expected_ticks not in (0, actual_ticks):
        raise CowdError(
            Reason.START_TIME_DIFFERS,
            pid=target.pid,
            actual=actual_ticks,
            expected=expected_ticks,
        )
