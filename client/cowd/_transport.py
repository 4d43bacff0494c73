# SPDX-License-Identifier: Apache-2.0
"""The daemon's calls as functions of plain values. Sees protobuf, and grpc through its channel.

Failures are those of `_channel`, which makes the calls, and InternalError for an answer that is not
what was asked for.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from cowproto.v1 import pageflags_pb2, twins_pb2

from cowd._answers import (
    convert_mappings,
    convert_page_flags,
    convert_server_info,
    convert_statistics,
)
from cowd._channel import Channel
from cowd._comparison_streams import ComparisonStream, TotalsStream
from cowd._comparisons import ComparisonChunk, ComparisonTotals
from cowd._mappings import MappingList
from cowd._page_stream import PageStream
from cowd._pages import PageChunk, PageFlags, ServerInfo
from cowd._statistics import ServerStatistics
from cowd._summaries import ProcessSummary
from cowd._summary_streams import SummaryStream, Sweep

__all__ = ["Transport"]

_SERVICE: Final = "cowd.v1.PageFlagsService"


class Transport:
    """The calls of one daemon. Threads may share it; see `Channel` for forks and failures.

    Args:
        path: of the daemon's socket.
        timeout_seconds: for each call, and for each answer of a stream.

    Raises:
        Unavailable: this process is the child of a fork, and grpc was in use in its parent.
    """

    def __init__(self, path: str, timeout_seconds: float) -> None:
        self._channel = channel = Channel(path, timeout_seconds)
        self._get_page_flags = channel.make_method(
            f"/{_SERVICE}/GetPageFlags",
            pageflags_pb2.GetPageFlagsRequest,
            twins_pb2.GetPageFlagsResponse,
        )
        self._list_mappings = channel.make_method(
            f"/{_SERVICE}/ListMappings",
            pageflags_pb2.ListMappingsRequest,
            pageflags_pb2.ListMappingsResponse,
        )
        self._get_server_info = channel.make_method(
            f"/{_SERVICE}/GetServerInfo",
            pageflags_pb2.GetServerInfoRequest,
            pageflags_pb2.GetServerInfoResponse,
        )
        self._get_statistics = channel.make_method(
            f"/{_SERVICE}/GetStatistics",
            pageflags_pb2.GetStatisticsRequest,
            pageflags_pb2.GetStatisticsResponse,
        )
        self._check_health = channel.make_method(
            "/grpc.health.v1.Health/Check",
            twins_pb2.HealthCheckRequest,
            twins_pb2.HealthCheckResponse,
        )
        self._stream_page_flags = channel.make_stream_method(
            f"/{_SERVICE}/StreamPageFlags",
            pageflags_pb2.StreamPageFlagsRequest,
            twins_pb2.StreamPageFlagsResponse,
        )
        self._compare_pages = channel.make_stream_method(
            f"/{_SERVICE}/ComparePages",
            pageflags_pb2.ComparePagesRequest,
            twins_pb2.ComparePagesResponse,
        )
        self._summarize_processes = channel.make_stream_method(
            f"/{_SERVICE}/SummarizeProcesses",
            pageflags_pb2.SummarizeProcessesRequest,
            pageflags_pb2.SummarizeProcessesResponse,
        )

    def close(self) -> None:
        """Close the connection. Calls under way fail."""
        self._channel.close()

    def get_page_flags(
        self, pid: int, address: int, count: int, expected_start_time_ticks: int
    ) -> PageFlags:
        """Call GetPageFlags. `address` in bytes; an expected start time of 0 accepts any."""
        answer = self._get_page_flags(
            pid=pid,
            address=address,
            count=count,
            expected_start_time_ticks=expected_start_time_ticks,
        )
        return convert_page_flags(answer, pid, address, count)

    def stream_page_flags(
        self, pid: int, ranges: Iterable[tuple[int, int]], expected_start_time_ticks: int
    ) -> Iterator[PageChunk]:
        """Call StreamPageFlags; again, for what is missing, if the call gets lost or takes long.

        No more than one answer is held, and the call ends with the iterator. `ranges`, addresses in
        bytes and numbers of pages, are no more than one call may have.
        """
        stream = PageStream(pid, ranges, expected_start_time_ticks)
        return self._channel.converse(self._stream_page_flags, stream)

    def compare_pages(
        self,
        pids: tuple[int, int],
        ranges: Iterable[tuple[int, int]],
        expected_start_times_ticks: tuple[int, int],
    ) -> Iterator[ComparisonChunk]:
        """Call ComparePages, in the same way."""
        stream = ComparisonStream(pids, ranges, expected_start_times_ticks)
        return self._channel.converse(self._compare_pages, stream)

    def count_compared_pages(
        self,
        pids: tuple[int, int],
        ranges: Iterable[tuple[int, int]],
        expected_start_times_ticks: tuple[int, int],
        with_copiers: bool,
    ) -> Iterator[ComparisonTotals]:
        """Call ComparePages for totals, in the same way."""
        stream = TotalsStream(pids, ranges, expected_start_times_ticks, with_copiers)
        return self._channel.converse(self._compare_pages, stream)

    def summarize_processes(self, pids: Sequence[int] | None) -> Iterator[ProcessSummary]:
        """Call SummarizeProcesses, in the same way. `pids` are no more than one call may have.

        None stands for all processes. A call for them that gets lost begins anew: processes that
        have been told of are not told of again.
        """
        stream = Sweep() if pids is None else SummaryStream(pids)
        return self._channel.converse(self._summarize_processes, stream)

    def list_mappings(
        self,
        pid: int,
        start_address: int,
        expected_start_time_ticks: int,
        with_page_counts: bool,
    ) -> tuple[MappingList, int]:
        """Call ListMappings once. The second value is where to go on, 0 if it is complete."""
        answer = self._list_mappings(
            pid=pid,
            start_address=start_address,
            expected_start_time_ticks=expected_start_time_ticks,
            with_page_counts=with_page_counts,
        )
        return convert_mappings(answer, pid), answer.next_start_address

    def get_server_info(self) -> ServerInfo:
        """Call GetServerInfo."""
        return convert_server_info(self._get_server_info())

    def get_statistics(self) -> ServerStatistics:
        """Call GetStatistics."""
        return convert_statistics(self._get_statistics())

    def is_serving(self) -> bool:
        """Ask the standard health service whether the daemon answers page questions."""
        answer = self._check_health(service=_SERVICE)
        return answer.status == twins_pb2.HealthCheckResponse.SERVING_STATUS_SERVING
