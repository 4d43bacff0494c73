# SPDX-License-Identifier: Apache-2.0
"""The messages of ComparePages, as verified values: page by page, and as totals. Sees protobuf."""

from collections.abc import Iterable
from mmap import PAGESIZE
from typing import ClassVar, TypeVar

from cowproto.v1 import pageflags_pb2, twins_pb2

from cowd._answers import unpack_words
from cowd._comparisons import (
    ComparedPages,
    ComparisonChunk,
    ComparisonTotals,
    PageComparison,
    PageCopier,
)
from cowd._pages import PageState
from cowd._range_stream import RangeStream, has_entries_for_all, has_stretches_in_place

__all__ = ["ComparisonStream", "TotalsStream"]

_Part = TypeVar("_Part", ComparisonChunk, ComparisonTotals)


class _Comparisons(RangeStream[twins_pb2.ComparePagesResponse, _Part]):
    """The pages of two processes.

    Args:
        pids: of the first process and of the second.
        ranges: address, in bytes, and number of pages.
        start_times_ticks: that the two must have; 0 takes that of the first answer.
        with_copiers: whether to ask who made a page.
    """

    has_totals_only: ClassVar[bool]

    def __init__(
        self,
        pids: tuple[int, int],
        ranges: Iterable[tuple[int, int]],
        start_times_ticks: tuple[int, int],
        with_copiers: bool = True,
    ) -> None:
        super().__init__(None, ranges, start_times_ticks)
        self._pids = pids
        self._with_copiers = with_copiers

    def _fill_request(
        self, ranges: list[pageflags_pb2.PageRange]
    ) -> pageflags_pb2.ComparePagesRequest:
        pid, other_pid = self._pids
        start_time_ticks, other_start_time_ticks = self._start_times_ticks
        return pageflags_pb2.ComparePagesRequest(
            pid=pid,
            other_pid=other_pid,
            ranges=ranges,
            expected_start_time_ticks=start_time_ticks,
            other_expected_start_time_ticks=other_start_time_ticks,
            totals_only=self.has_totals_only,
            without_copiers=not self._with_copiers,
        )


class ComparisonStream(_Comparisons[ComparisonChunk]):
    """The same, page by page."""

    has_totals_only: ClassVar[bool] = False

    def _convert(
        self, answer: twins_pb2.ComparePagesResponse
    ) -> tuple[ComparisonChunk, tuple[int, ...]] | None:
        addresses = unpack_words("Q", answer.stretch_address)
        counts = unpack_words("I", answer.stretch_page_count)
        if addresses is None or counts is None:
            return None
        lists = answer.comparison, answer.state, answer.other_state, answer.copied_by
        if not has_entries_for_all(counts, lists):
            return None
        if len(addresses) != len(counts) or answer.page_size_bytes != PAGESIZE or answer.totals:
            return None
        comparisons, states, other_states, copiers = lists
        chunk = ComparisonChunk(
            pid=self._pids[0],
            other_pid=self._pids[1],
            page_size_bytes=PAGESIZE,
            address=answer.address,
            page_count=answer.count,
            start_time_ticks=answer.start_time_ticks,
            other_start_time_ticks=answer.other_start_time_ticks,
            stretch_addresses=addresses,
            stretch_page_counts=counts,
            comparisons=comparisons,
            states=states,
            other_states=other_states,
            copiers=copiers,
        )
        start_times_ticks = chunk.start_time_ticks, chunk.other_start_time_ticks
        return (chunk, start_times_ticks) if has_stretches_in_place(chunk) else None


class TotalsStream(_Comparisons[ComparisonTotals]):
    """The same, by what the pages are."""

    has_totals_only: ClassVar[bool] = True

    def _convert(
        self, answer: twins_pb2.ComparePagesResponse
    ) -> tuple[ComparisonTotals, tuple[int, ...]] | None:
        counts = [each.page_count for each in answer.totals]
        if answer.page_size_bytes != PAGESIZE or not all(counts) or sum(counts) != answer.count:
            return None
        totals = ComparisonTotals(
            pid=self._pids[0],
            other_pid=self._pids[1],
            page_size_bytes=PAGESIZE,
            address=answer.address,
            page_count=answer.count,
            start_time_ticks=answer.start_time_ticks,
            other_start_time_ticks=answer.other_start_time_ticks,
            totals=tuple(map(_convert_compared_pages, answer.totals)),
        )
        return totals, (totals.start_time_ticks, totals.other_start_time_ticks)


def _convert_compared_pages(each: twins_pb2.ComparedPages) -> ComparedPages:
    return ComparedPages(
        PageComparison(each.comparison),
        PageState(each.state),
        PageState(each.other_state),
        PageCopier(each.copied_by),
        each.page_count,
    )
