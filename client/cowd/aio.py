# SPDX-License-Identifier: Apache-2.0
"""The client of the daemon for asyncio: `cowd.Client` with coroutines and async iterators.

    async with cowd.aio.Client() as client:
        async for summary in client.summarize_processes():
            print(summary.pid, summary.page_counts.resident)

Calls wait in a few threads of the client's own, around a `cowd.Client`: so how connections are made
again, what becomes of them after a fork, and every error are the same. (A channel of grpc.aio
belongs to one event loop, and in the child of a fork its calls hang or end the process.) What is
left, by `break`, `aclose` or a cancelled task, ends in the daemon.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Final, Self, SupportsIndex, TypeVar

from cowd import _client
from cowd._cancellations import CANCELLATION, Cancellation
from cowd._comparisons import ComparisonChunk, ComparisonTotals
from cowd._errors import Unavailable
from cowd._mappings import MappingList
from cowd._pages import PageChunk, PageFlags, ServerInfo
from cowd._statistics import ServerStatistics
from cowd._summaries import ProcessSummary

__all__ = ["Client"]

_THREADS: Final = 4
"""As many calls as a daemon works on at once for one user, by default; further ones wait there."""

_Value = TypeVar("_Value")


class Client:
    """A connection to the daemon, to be closed by `async with` or `close`.

    Methods are those of `cowd.Client`, with the same arguments, values and errors. No more than
    four calls are waited for at once; iterators that nobody awaits do not count.

    Args:
        address: of the daemon's socket, as in `cowd.Client`.
        timeout_seconds: for each call, and for each response of a stream.

    Raises:
        InvalidRequest: the address or the timeout is not one.
        Unavailable: this process was forked from one with a client.
    """

    name: Final = "daemon"

    def __init__(
        self,
        address: str | None = None,
        *,
        timeout_seconds: float = _client.DEFAULT_TIMEOUT_SECONDS,
    ) -> None:
        self._client = _client.Client(address, timeout_seconds=timeout_seconds)
        self.path = self._client.path
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="cowd-aio")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection. Calls under way, and later ones, raise `Unavailable`."""
        self._client.close()
        self._threads.shutdown(wait=False)

    async def get_page_flags(
        self, pid: int, address: int, count: int, *, expected_start_time_ticks: int = 0
    ) -> PageFlags:
        """Return what `cowd.Client.get_page_flags` returns."""
        return await self._ask(
            lambda: self._client.get_page_flags(
                pid, address, count, expected_start_time_ticks=expected_start_time_ticks
            )
        )

    def iter_page_flags(
        self,
        pid: int,
        ranges: Iterable[tuple[int, int]],
        *,
        expected_start_time_ticks: int = 0,
    ) -> AsyncIterator[PageFlags]:
        """Yield what `cowd.Client.iter_page_flags` yields."""
        return self._iterate(
            self._client.iter_page_flags(
                pid, ranges, expected_start_time_ticks=expected_start_time_ticks
            )
        )

    def stream_page_flags(
        self,
        pid: int,
        ranges: Iterable[tuple[int, int]],
        *,
        expected_start_time_ticks: int = 0,
    ) -> AsyncIterator[PageChunk]:
        """Yield what `cowd.Client.stream_page_flags` yields."""
        return self._iterate(
            self._client.stream_page_flags(
                pid, ranges, expected_start_time_ticks=expected_start_time_ticks
            )
        )

    def compare_pages(
        self,
        pid: int,
        other_pid: int,
        ranges: Iterable[tuple[int, int]],
        *,
        expected_start_time_ticks: int = 0,
        other_expected_start_time_ticks: int = 0,
    ) -> AsyncIterator[ComparisonChunk]:
        """Yield what `cowd.Client.compare_pages` yields."""
        return self._iterate(
            self._client.compare_pages(
                pid,
                other_pid,
                ranges,
                expected_start_time_ticks=expected_start_time_ticks,
                other_expected_start_time_ticks=other_expected_start_time_ticks,
            )
        )

    def count_compared_pages(
        self,
        pid: int,
        other_pid: int,
        ranges: Iterable[tuple[int, int]],
        *,
        expected_start_time_ticks: int = 0,
        other_expected_start_time_ticks: int = 0,
        with_copiers: bool = True,
    ) -> AsyncIterator[ComparisonTotals]:
        """Yield what `cowd.Client.count_compared_pages` yields."""
        return self._iterate(
            self._client.count_compared_pages(
                pid,
                other_pid,
                ranges,
                expected_start_time_ticks=expected_start_time_ticks,
                other_expected_start_time_ticks=other_expected_start_time_ticks,
                with_copiers=with_copiers,
            )
        )

    def summarize_processes(
        self, pids: Iterable[SupportsIndex] | None = None
    ) -> AsyncIterator[ProcessSummary]:
        """Yield what `cowd.Client.summarize_processes` yields."""
        return self._iterate(self._client.summarize_processes(pids))

    async def list_mappings(
        self, pid: int, *, with_page_counts: bool = False, expected_start_time_ticks: int = 0
    ) -> MappingList:
        """Return what `cowd.Client.list_mappings` returns."""
        return await self._ask(
            lambda: self._client.list_mappings(
                pid,
                with_page_counts=with_page_counts,
                expected_start_time_ticks=expected_start_time_ticks,
            )
        )

    async def get_server_info(self) -> ServerInfo:
        """Return what `cowd.Client.get_server_info` returns."""
        return await self._ask(self._client.get_server_info)

    async def get_statistics(self) -> ServerStatistics:
        """Return what `cowd.Client.get_statistics` returns."""
        return await self._ask(self._client.get_statistics)

    async def is_serving(self) -> bool:
        """Return what `cowd.Client.is_serving` returns."""
        return await self._ask(self._client.is_serving)

    async def _iterate(self, iterator: Iterator[_Value]) -> AsyncIterator[_Value]:
        cancellation = Cancellation()
        try:
            while (
                value := await self._ask(lambda: next(iterator, None), cancellation)
            ) is not None:
                yield value
        finally:
            cancellation.cancel()

    async def _ask(
        self, question: Callable[[], _Value], cancellation: Cancellation | None = None
    ) -> _Value:
        """Return the answer to a question put in a thread, which ends if this is cancelled."""
        cancellation = cancellation or Cancellation()
        loop = asyncio.get_running_loop()
        try:
            future = loop.run_in_executor(self._threads, _answer, question, cancellation)
        except RuntimeError as error:  # So says the pool.
            raise Unavailable("this client is closed: make another one") from error
        try:
            return await future
        except asyncio.CancelledError:
            cancellation.cancel()
            raise


def _answer(question: Callable[[], _Value], cancellation: Cancellation) -> _Value:
    token = CANCELLATION.set(cancellation)
    try:
        return question()
    finally:
        CANCELLATION.reset(token)
