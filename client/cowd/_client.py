# SPDX-License-Identifier: Apache-2.0
"""The client of the daemon: plain calls, plain results, errors of `cowd.Error`.

Runs with the caller's own privileges; the daemon sees who connects.
"""

from collections.abc import Iterable, Iterator, Sequence
from mmap import PAGESIZE
from types import TracebackType
from typing import Final, Self, SupportsIndex, TypeVar

from cowd._address import resolve_address
from cowd._arguments import as_pids, as_ranges
from cowd._comparisons import ComparisonChunk, ComparisonTotals
from cowd._errors import FailedPrecondition, InternalError, InvalidRequest
from cowd._mappings import Mapping, MappingList
from cowd._pages import PageChunk, PageFlags, ServerInfo
from cowd._statistics import ServerStatistics
from cowd._summaries import ProcessSummary

__all__ = ["DEFAULT_TIMEOUT_SECONDS", "Client"]

DEFAULT_TIMEOUT_SECONDS: Final = 30.0
_LONGEST_TIMEOUT_SECONDS: Final = 1e9
"""Far below what overflows in grpc."""
_LISTING_ATTEMPTS: Final = 3
_FEW_PAGES: Final = 1_024
"""For which one answer comes sooner than a stream of one, whatever is there."""

_Item = TypeVar("_Item")


class Client:
    """A connection to the daemon, made with the first call and to be closed by `with` or `close`.

    Threads may share it. A connection that breaks is made again by the next call; a daemon that is
    there but does not take connections is tried until the time is up.

    In the child of a fork every call raises `Unavailable`. The child may have a client of its own
    if its parent had none before the fork, or with GRPC_ENABLE_FORK_SUPPORT=1 in the environment:
    grpc is made so.

    Args:
        address: of the daemon's socket, as in `resolve_address`.
        timeout_seconds: for each call, and for each response of a stream.

    Raises:
        InvalidRequest: the address or the timeout is not one.
        Unavailable: this process was forked from one with a client.
    """

    name: Final = "daemon"

    def __init__(
        self, address: str | None = None, *, timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS
    ) -> None:
        from cowd._transport import Transport  # With grpc: slow to import.

        try:
            is_timeout = 0 < timeout_seconds <= _LONGEST_TIMEOUT_SECONDS
        except TypeError:
            is_timeout = False
        if not is_timeout:
            raise InvalidRequest(f"{timeout_seconds!r} is no number of seconds to wait for")
        self.path = resolve_address(address)
        self._transport = Transport(self.path, timeout_seconds)
        self._info: ServerInfo | None = None  # not known before it is needed

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection. Calls under way, and later ones, raise `Unavailable`."""
        self._transport.close()

    def get_page_flags(
        self, pid: int, address: int, count: int, *, expected_start_time_ticks: int = 0
    ) -> PageFlags:
        """Return what the kernel knows about `count` pages from `address` on.

        Args:
            pid: of the process, not of a thread.
            address: of the first page, in bytes; a multiple of the page size.
            count: number of pages, at most `ServerInfo.maximum_page_count`.
            expected_start_time_ticks: start time that the process must have; 0 accepts any.

        Raises:
            Error: a subclass of it, see `cowd.Error`.
        """
        return self._transport.get_page_flags(pid, address, count, expected_start_time_ticks)

    def iter_page_flags(
        self,
        pid: int,
        ranges: Iterable[tuple[int, int]],
        *,
        expected_start_time_ticks: int = 0,
    ) -> Iterator[PageFlags]:
        """Yield what the kernel knows about every page of several ranges.

        Args:
            pid: of the process, not of a thread.
            ranges: (address, count) as `get_page_flags` takes them, but with any count above 0.
            expected_start_time_ticks: start time that the process must have throughout; 0 takes
                that of the first answer.

        Yields:
            At most 65,536 pages at a time, in the order of `ranges`: all of one range, or a part of
            it that starts where the one before ended. What is read meanwhile waits until it is
            wanted; who wants no more closes the iterator, or drops it.

        Raises:
            Error: a subclass of it, see `cowd.Error`; FailedPrecondition if the pid was reused.
        """
        for chunk in self.stream_page_flags(
            pid, ranges, expected_start_time_ticks=expected_start_time_ticks
        ):
            yield from chunk.iter_parts()

    def stream_page_flags(
        self,
        pid: int,
        ranges: Iterable[tuple[int, int]],
        *,
        expected_start_time_ticks: int = 0,
    ) -> Iterator[PageChunk]:
        """Yield what the kernel knows about several ranges, without a list of what is absent.

        As `iter_page_flags`, but reserved memory costs next to nothing: see `PageChunk`. Each range
        is told in chunks of its own, so one long range costs less than thousands of short ones.
        """
        wanted = as_ranges(ranges)
        if len(wanted) == 1 and 0 < wanted[0][1] <= _FEW_PAGES:
            pages = self.get_page_flags(
                pid, *wanted[0], expected_start_time_ticks=expected_start_time_ticks
            )
            yield PageChunk.from_pages(pages)
            return
        for part in self._iter_range_parts(wanted):
            for chunk in self._transport.stream_page_flags(pid, part, expected_start_time_ticks):
                expected_start_time_ticks = chunk.start_time_ticks
                yield chunk

    def compare_pages(
        self,
        pid: int,
        other_pid: int,
        ranges: Iterable[tuple[int, int]],
        *,
        expected_start_time_ticks: int = 0,
        other_expected_start_time_ticks: int = 0,
    ) -> Iterator[ComparisonChunk]:
        """Yield page by page whether two processes map the same frame, which is not told.

        After a fork this says what the two still share, and what has been copied, by whom.

        Args:
            pid: of the first process, not of a thread.
            other_pid: of the second one.
            ranges: as of `stream_page_flags`. Each is looked at in both processes, whatever they
                have mapped there.
            expected_start_time_ticks: start time that the first process must have throughout; 0
                takes that of the first answer.
            other_expected_start_time_ticks: the same of the second.

        Yields:
            Chunks that list only what is there, as of `stream_page_flags`.

        Raises:
            Error: a subclass of it, see `cowd.Error`, for either process: the sentence says which.
        """
        pids = pid, other_pid
        expected = expected_start_time_ticks, other_expected_start_time_ticks
        for part in self._iter_range_parts(as_ranges(ranges)):
            for chunk in self._transport.compare_pages(pids, part, expected):
                expected = chunk.start_time_ticks, chunk.other_start_time_ticks
                yield chunk

    def count_compared_pages(
        self,
        pid: int,
        other_pid: int,
        ranges: Iterable[tuple[int, int]],
        *,
        expected_start_time_ticks: int = 0,
        other_expected_start_time_ticks: int = 0,
        with_copiers: bool = True,
    ) -> Iterator[ComparisonTotals]:
        """Yield how many pages of two processes are what, in the place of lists of pages.

        Args and errors are those of `compare_pages`, and `with_copiers`: whether to find who made
        the pages that differ, which costs the daemon about as much as all else.

        Yields:
            Totals of all of one range, or of a part of it that starts where the one before ended.
        """
        pids = pid, other_pid
        expected = expected_start_time_ticks, other_expected_start_time_ticks
        for part in self._iter_range_parts(as_ranges(ranges)):
            for totals in self._transport.count_compared_pages(pids, part, expected, with_copiers):
                expected = totals.start_time_ticks, totals.other_start_time_ticks
                yield totals

    def summarize_processes(
        self, pids: Iterable[SupportsIndex] | None = None
    ) -> Iterator[ProcessSummary]:
        """Yield how many pages of processes are what, as they are read.

        Args:
            pids: of processes, not of threads; None for every process that the caller may inspect.

        Yields:
            A summary of each pid in their order; one that cannot be answered about has a `failure`.
            Of all processes: in ascending order of pids, without those that the caller may not
            inspect, that have no memory of their own or that end meanwhile. One that is told of
            once may have ended, and its pid be another's, when the last one is.

        Raises:
            Error: a subclass of it, see `cowd.Error`, if it concerns no single process.
        """
        if pids is None:
            yield from self._transport.summarize_processes(None)
            return
        wanted = as_pids(pids)
        most = self._read_info().maximum_pid_count if len(wanted) > 1 else 1
        for part in _cut(wanted, most):
            yield from self._transport.summarize_processes(part)

    def list_mappings(
        self, pid: int, *, with_page_counts: bool = False, expected_start_time_ticks: int = 0
    ) -> MappingList:
        """Return all mappings of a process, in address order.

        Args:
            pid: of the process, not of a thread.
            with_page_counts: count the pages of each by what they are, which takes as long as
                reading them.
            expected_start_time_ticks: start time that the process must have; 0 accepts any, and
                starts again if the pid is reused between two calls to the daemon.

        Raises:
            Error: a subclass of it, see `cowd.Error`.
        """
        for _ in range(_LISTING_ATTEMPTS - 1):
            try:
                return self._collect_mappings(pid, expected_start_time_ticks, with_page_counts)
            except FailedPrecondition as error:
                if error.reason != "START_TIME_DIFFERS" or expected_start_time_ticks:
                    raise
        return self._collect_mappings(pid, expected_start_time_ticks, with_page_counts)

    def get_server_info(self) -> ServerInfo:
        """Return what the daemon is and allows, and who it takes the caller for.

        Raises:
            Error: a subclass of it, see `cowd.Error`.
        """
        self._info = info = self._transport.get_server_info()
        return info

    def get_statistics(self) -> ServerStatistics:
        """Return what the daemon has done since it started, for all callers together.

        Up to a tenth of a second old. For root, and members of groups with a grant.

        Raises:
            Error: a subclass of it, see `cowd.Error`; AccessDenied for anybody else.
        """
        return self._transport.get_statistics()

    def is_serving(self) -> bool:
        """Return the daemon's own opinion of its health (grpc.health.v1).

        Raises:
            Error: a subclass of it, see `cowd.Error`.
        """
        return self._transport.is_serving()

    def _iter_range_parts(
        self, ranges: Sequence[tuple[int, int]]
    ) -> Iterator[Sequence[tuple[int, int]]]:
        """Yield no more ranges than one call may have, until all are told."""
        most = self._read_info().maximum_range_count if len(ranges) > 1 else 1
        yield from _cut(ranges, most)

    def _read_info(self) -> ServerInfo:
        if self._info is None:
            self._info = self.get_server_info()
        return self._info

    def _collect_mappings(
        self, pid: int, expected_start_time_ticks: int, with_page_counts: bool
    ) -> MappingList:
        mappings: list[Mapping] = []
        start_address = 0
        while True:
            part, next_address = self._transport.list_mappings(
                pid, start_address, expected_start_time_ticks, with_page_counts
            )
            for mapping in part.mappings:
                _verify_mapping(mapping, mappings[-1].end_address if mappings else 0)
                if with_page_counts:
                    _verify_page_counts(mapping, pid)
                mappings.append(mapping)
            if not next_address:
                return MappingList(pid, part.start_time_ticks, mappings)
            if not part.mappings or next_address < mappings[-1].end_address:
                raise InternalError("cowd's list of mappings does not go on", pid=pid)
            start_address = next_address
            expected_start_time_ticks = part.start_time_ticks


def _verify_mapping(mapping: Mapping, told_until: int) -> None:
    """Raise InternalError unless it consists of pages, and lies above the one before."""
    start, end = mapping.start_address, mapping.end_address
    if not told_until <= start < end or start % PAGESIZE or end % PAGESIZE:
        raise InternalError("cowd's list of mappings is out of order")


def _verify_page_counts(mapping: Mapping, pid: int) -> None:
    """Raise InternalError unless its pages have been counted, each once."""
    if mapping.page_counts is None:
        raise InternalError(
            "cowd did not count the pages of the mappings: it is older than this library. "
            "Update it, or ask the local backend",
            pid=pid,
        )
    if mapping.page_counts.total * PAGESIZE != mapping.size_bytes:
        raise InternalError("cowd's numbers of pages do not add up to their mapping", pid=pid)


def _cut(items: Sequence[_Item], most: int) -> Iterator[Sequence[_Item]]:
    """Yield them in order, `most` at a time; one if a server says nothing of how many."""
    step = max(1, most)
    for first in range(0, len(items), step):
        yield items[first : first + step]
