# SPDX-License-Identifier: Apache-2.0
"""The messages of the streaming call: what is still to be asked, and answers as verified values.

Sees protobuf, as the transport does that asks. An answer that is not what was asked for raises
InternalError: nothing that a server sends makes a list of pages that is not in order.
"""

from collections import deque
from collections.abc import Iterable
from itertools import islice, repeat
from mmap import PAGESIZE
from operator import add, le, mul
from typing import Final

from cowproto.v1 import pageflags_pb2, twins_pb2

from cowd._answers import convert_masks, unpack_words
from cowd._errors import InternalError, InvalidRequest
from cowd._pages import PageChunk

__all__ = ["PageStream"]

_MOST_LISTED: Final = 1 << 20
"""In one answer: many times what a daemon lists."""


class PageStream:
    """The ranges of one call, and how far its answers have come.

    Args:
        pid: of the process, not of a thread.
        ranges: address, in bytes, and number of pages.
        start_time_ticks: that the process must have; 0 takes that of the first answer.
    """

    def __init__(self, pid: int, ranges: Iterable[tuple[int, int]], start_time_ticks: int) -> None:
        self.pid = pid
        self._rest = deque(ranges)
        self._start_time_ticks = start_time_ticks

    @property
    def is_complete(self) -> bool:
        """Whether there have been answers about every page."""
        return not self._rest

    def make_request(self) -> pageflags_pb2.StreamPageFlagsRequest:
        """Return the request for all that is missing.

        Raises:
            InvalidRequest: a number is none, or does not fit.
        """
        try:
            return pageflags_pb2.StreamPageFlagsRequest(
                pid=self.pid,
                ranges=[
                    pageflags_pb2.PageRange(address=address, count=count)
                    for address, count in self._rest
                ],
                expected_start_time_ticks=self._start_time_ticks,
            )
        except (TypeError, ValueError) as error:
            raise InvalidRequest(f"the request cannot be sent: {error}") from error

    def take(self, answer: twins_pb2.StreamPageFlagsResponse) -> PageChunk:
        """Return the pages of the next answer.

        Raises:
            InternalError: it does not go on where the last one ended, or is not one.
        """
        address, left = self._rest[0] if self._rest else (0, 0)
        chunk = _convert(answer, self.pid)
        if (
            chunk is None
            or chunk.address != address
            or not 0 < chunk.page_count <= left
            or self._start_time_ticks not in (0, chunk.start_time_ticks)
            or not _has_stretches_in_place(chunk)
        ):
            raise InternalError("cowd's answer is not about the pages asked for", pid=self.pid)
        self._start_time_ticks = chunk.start_time_ticks
        self._rest[0] = chunk.end_address, left - chunk.page_count
        if chunk.page_count == left:
            self._rest.popleft()
        return chunk

    def verify_complete(self) -> None:
        """Raise InternalError if an answer is missing."""
        if self._rest:
            raise InternalError("cowd's answer ends before the pages asked for", pid=self.pid)


def _convert(answer: twins_pb2.StreamPageFlagsResponse, pid: int) -> PageChunk | None:
    """Return an answer whose lists have the lengths they must have, or None."""
    states, attributes = answer.state, answer.attributes
    addresses = unpack_words("Q", answer.stretch_address)
    counts = unpack_words("I", answer.stretch_page_count)
    kpageflags = unpack_words("Q", answer.kpageflags)
    if addresses is None or counts is None or kpageflags is None:
        return None
    if not len(states) == len(attributes) == len(kpageflags) == sum(counts) <= _MOST_LISTED:
        return None
    if len(addresses) != len(counts) or answer.page_size_bytes != PAGESIZE:
        return None
    return PageChunk(
        pid=pid,
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


def _has_stretches_in_place(chunk: PageChunk) -> bool:
    """Whether stretches have whole pages, ascend, do not overlap, and lie in the chunk.

    There may be many thousand: no loop of Python's looks at them.
    """
    starts, counts = chunk.stretch_addresses, chunk.stretch_page_counts
    if not starts:
        return True
    ends = list(map(add, starts, map(mul, counts, repeat(PAGESIZE))))
    return (
        all(counts)
        and not any(map((PAGESIZE - 1).__and__, starts))
        and chunk.address <= starts[0]
        and all(map(le, ends, islice(starts, 1, None)))
        and ends[-1] <= chunk.end_address
    )
