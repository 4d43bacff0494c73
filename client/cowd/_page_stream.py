# SPDX-License-Identifier: Apache-2.0
"""The messages of StreamPageFlags, as verified values. Sees protobuf."""

from collections.abc import Iterable
from mmap import PAGESIZE

from cowproto.v1 import pageflags_pb2, twins_pb2

from cowd._answers import convert_masks, unpack_words
from cowd._pages import PageChunk
from cowd._range_stream import RangeStream, has_entries_for_all, has_stretches_in_place

__all__ = ["PageStream"]


class PageStream(RangeStream[twins_pb2.StreamPageFlagsResponse, PageChunk]):
    """The pages of one process.

    Args:
        pid: of the process, not of a thread.
        ranges: address, in bytes, and number of pages.
        start_time_ticks: that the process must have; 0 takes that of the first answer.
    """

    def __init__(self, pid: int, ranges: Iterable[tuple[int, int]], start_time_ticks: int) -> None:
        super().__init__(pid, ranges, (start_time_ticks,))
        self._pid = pid

    def _fill_request(
        self, ranges: list[pageflags_pb2.PageRange]
    ) -> pageflags_pb2.StreamPageFlagsRequest:
        return pageflags_pb2.StreamPageFlagsRequest(
            pid=self._pid,
            ranges=ranges,
            expected_start_time_ticks=self._start_times_ticks[0],
        )

    def _convert(
        self, answer: twins_pb2.StreamPageFlagsResponse
    ) -> tuple[PageChunk, tuple[int, ...]] | None:
        states, attributes = answer.state, answer.attributes
        addresses = unpack_words("Q", answer.stretch_address)
        counts = unpack_words("I", answer.stretch_page_count)
        kpageflags = unpack_words("Q", answer.kpageflags)
        if addresses is None or counts is None or kpageflags is None:
            return None
        if not has_entries_for_all(counts, (kpageflags, states, attributes)):
            return None
        if len(addresses) != len(counts) or answer.page_size_bytes != PAGESIZE:
            return None
        chunk = PageChunk(
            pid=self._pid,
            page_size_bytes=PAGESIZE,
            address=answer.address,
            page_count=answer.count,
            start_time_ticks=answer.start_time_ticks,
            masks=convert_masks(answer.masks),
            stretch_addresses=addresses,
            stretch_page_counts=counts,
            kpageflags=kpageflags,
            states=states,
            attributes=attributes,
        )
        return (chunk, (chunk.start_time_ticks,)) if has_stretches_in_place(chunk) else None
