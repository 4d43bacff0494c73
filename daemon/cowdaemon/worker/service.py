# SPDX-License-Identifier: Apache-2.0
"""The service cowd.v1.PageFlagsService: which of its calls is answered where.

Worker, unprivileged. Protobuf stays here, in handlers.py, encoding.py, requests.py and the modules
of the calls.
"""

import os
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Final, NamedTuple

import grpc
from cowproto.v1 import pageflags_pb2 as messages
from cowproto.v1 import twins_pb2 as twins

from cowdaemon import __version__, wire
from cowdaemon.errors import CowdError, Reason
from cowdaemon.limits import (
    CALLS_PER_WORKER,
    MAPPINGS_PER_CALL,
    PAGES_PER_CALL,
    PIDS_PER_CALL,
    RANGES_PER_CALL,
    READING_THREADS,
)
from cowdaemon.worker.call_counts import Counters, number_method
from cowdaemon.worker.comparison_calls import ComparisonCalls
from cowdaemon.worker.disclosure import SAFE, DisclosureMasks
from cowdaemon.worker.handlers import Handlers, fail
from cowdaemon.worker.page_calls import PageCalls
from cowdaemon.worker.privileges import Confinement
from cowdaemon.worker.process_calls import ProcessCalls
from cowdaemon.worker.reader import Reader
from cowdaemon.worker.statistics_calls import StatisticsCalls
from cowdaemon.worker.targets import Targets

__all__ = ["Caller", "PageFlagsService", "RefusingService"]

_SERVICE: Final = "cowd.v1.PageFlagsService"
_HEALTH: Final = "grpc.health.v1.Health"
_PAGE_SIZE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


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
        counters: of what this process does.
        statistics_calls: asks for what all do.
        masks: which flags it may see.
        calls_per_worker: how many calls are worked on at once.
    """

    def __init__(
        self,
        caller: Caller,
        targets: Targets,
        reader: Reader,
        confinement: Confinement,
        counters: Counters,
        statistics_calls: StatisticsCalls,
        masks: DisclosureMasks = SAFE,
        calls_per_worker: int = CALLS_PER_WORKER,
    ) -> None:
        self._caller = caller
        self._targets = targets
        self._reader = reader
        self._confinement = confinement
        self._counters = counters
        self._statistics_calls = statistics_calls
        self._masks = masks
        threads = ThreadPoolExecutor(READING_THREADS, "reading")  # for all calls together
        self._page_calls = PageCalls(targets, reader, masks, threads)
        self._process_calls = ProcessCalls(targets, reader, threads)
        self._comparison_calls = ComparisonCalls(targets, reader, threads)
        self._calls_per_worker = calls_per_worker
        self._handlers: Handlers | None = None

    def make_handler(self) -> grpc.GenericRpcHandler:
        """Return the handler of cowd.v1.PageFlagsService and of the standard health check."""
        self._handlers = Handlers(
            self._counters,
            calls={
                f"/{_SERVICE}/GetPageFlags": (
                    messages.GetPageFlagsRequest,
                    self._page_calls.get_page_flags,
                ),
                f"/{_SERVICE}/GetServerInfo": (messages.GetServerInfoRequest, self._get_info),
                f"/{_SERVICE}/GetStatistics": (
                    messages.GetStatisticsRequest,
                    self._statistics_calls.get_statistics,
                ),
                f"/{_HEALTH}/Check": (twins.HealthCheckRequest, self._check_health),
            },
            streams={
                f"/{_SERVICE}/StreamPageFlags": (
                    messages.StreamPageFlagsRequest,
                    self._page_calls.stream_page_flags,
                ),
                f"/{_SERVICE}/SummarizeProcesses": (
                    messages.SummarizeProcessesRequest,
                    self._process_calls.summarize_processes,
                ),
                f"/{_SERVICE}/ComparePages": (
                    messages.ComparePagesRequest,
                    self._comparison_calls.compare_pages,
                ),
            },
            long_calls={
                f"/{_SERVICE}/ListMappings": (
                    messages.ListMappingsRequest,
                    self._process_calls.list_mappings,
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

    def take_statistics(self, statistics: wire.Statistics) -> None:
        """Pass on what the broker has answered."""
        self._statistics_calls.take(statistics)

    def drop_expired(self) -> None:
        """Close targets that were kept long enough."""
        self._targets.drop_expired()

    def _get_info(self, _: messages.GetServerInfoRequest) -> bytes:
        caller, features = self._caller, self._reader.features
        return messages.GetServerInfoResponse(
            version=__version__,
            page_size_bytes=_PAGE_SIZE_BYTES,
            caller=messages.CallerCredential(uid=caller.uid, gid=caller.gid, groups=caller.groups),
            maximum_page_count=PAGES_PER_CALL,
            maximum_mapping_count=MAPPINGS_PER_CALL,
            masks=messages.DisclosureMasks(**self._masks.as_fields()),
            kernel_features=messages.KernelFeatures(
                soft_dirty=features.layout.has_soft_dirty,
                guard_regions=features.has_guard_regions,
                markers=features.layout.marker_type is not None,
                pagemap_scan=features.has_pagemap_scan,
                page_copiers=features.has_page_copiers,
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


class RefusingService:
    """Answers every call with one refusal, and holds nothing.

    Args:
        refusal: a reason whose sentence has no fields.
        counters: of what this process does.
    """

    def __init__(self, refusal: Reason, counters: Counters) -> None:
        self._refusal = refusal
        self._counters = counters

    def make_handler(self) -> grpc.GenericRpcHandler:
        """Return a handler of any call."""
        refusal, counters = CowdError(self._refusal), self._counters

        class Refusing(grpc.GenericRpcHandler):
            def service(
                self, details: grpc.HandlerCallDetails
            ) -> "grpc.RpcMethodHandler[bytes, bytes]":
                counters.count_call(number_method(details.method), refusal.reason.code)
                return grpc.unary_unary_rpc_method_handler(lambda _, call: fail(call, refusal))

        return Refusing()

    def adopt_opener(self, opener: socket.socket) -> None:
        """Close it: nothing is opened for a caller who is refused."""
        opener.close()

    def take_statistics(self, statistics: wire.Statistics) -> None:
        """It asks for none."""

    def drop_expired(self) -> None:
        """Nothing is kept."""

    def longest_work_seconds(self) -> float:
        """Nothing is worked on."""
        return 0.0

    def await_idle(self, work_seconds: float, reading_seconds: float) -> None:
        """Nothing is ever under way."""
