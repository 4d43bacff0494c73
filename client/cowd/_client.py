# SPDX-License-Identifier: Apache-2.0
"""The client of the daemon: plain calls, plain results, errors of `cowd.Error`.

Runs with the caller's own privileges; the daemon sees who connects.
"""

from collections.abc import Iterable, Iterator
from mmap import PAGESIZE
from types import TracebackType
from typing import Final, Self

from cowd._address import resolve_address
from cowd._arguments import as_ranges
from cowd._errors import FailedPrecondition, InternalError, InvalidRequest
from cowd._mappings import Mapping, MappingList
from cowd._pages import PageChunk, PageFlags, ServerInfo

__all__ = ["Client"]

_DEFAULT_TIMEOUT_SECONDS: Final = 30.0
_LONGEST_TIMEOUT_SECONDS: Final = 1e9
"""Far below what overflows in grpc."""
_LISTING_ATTEMPTS: Final = 3
_FEW_PAGES: Final = 1_024
"""For which one answer comes sooner than a stream of one, whatever is there."""


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
        self, address: str | None = None, *, timeout_seconds: float = _DEFAULT_TIMEOUT_SECONDS
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
        self._most_ranges: int | None = None  # of one call; not known before it is needed

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
        step = self._read_most_ranges() if len(wanted) > 1 else 1
        for first in range(0, len(wanted), step):
            part = wanted[first : first + step]
            for chunk in self._transport.stream_page_flags(pid, part, expected_start_time_ticks):
                expected_start_time_ticks = chunk.start_time_ticks
                yield chunk

    def list_mappings(self, pid: int, *, expected_start_time_ticks: int = 0) -> MappingList:
        """Return all mappings of a process, in address order.

        Args:
            pid: of the process, not of a thread.
            expected_start_time_ticks: start time that the process must have; 0 accepts any, and
                starts again if the pid is reused between two calls to the daemon.

        Raises:
            Error: a subclass of it, see `cowd.Error`.
        """
        for _ in range(_LISTING_ATTEMPTS - 1):
            try:
                return self._collect_mappings(pid, expected_start_time_ticks)
            except FailedPrecondition as error:
                if error.reason != "START_TIME_DIFFERS" or expected_start_time_ticks:
                    raise
        return self._collect_mappings(pid, expected_start_time_ticks)

    def get_server_info(self) -> ServerInfo:
        """Return what the daemon is and allows, and who it takes the caller for.

        Raises:
            Error: a subclass of it, see `cowd.Error`.
        """
        return self._transport.get_server_info()

    def is_serving(self) -> bool:
        """Return the daemon's own opinion of its health (grpc.health.v1).

        Raises:
            Error: a subclass of it, see `cowd.Error`.
        """
        return self._transport.is_serving()

    def _read_most_ranges(self) -> int:
        if self._most_ranges is None:
            self._most_ranges = max(1, self.get_server_info().maximum_range_count)
        return self._most_ranges

    def _collect_mappings(self, pid: int, expected_start_time_ticks: int) -> MappingList:
        mappings: list[Mapping] = []
        start_address = 0
        while True:
            part, next_address = self._transport.list_mappings(
                pid, start_address, expected_start_time_ticks
            )
            for mapping in part.mappings:
                _verify_mapping(mapping, mappings[-1].end_address if mappings else 0)
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
