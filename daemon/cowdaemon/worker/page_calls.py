# SPDX-License-Identifier: Apache-2.0
"""The calls about the pages of one process: GetPageFlags and StreamPageFlags.

Worker, unprivileged. What a call cannot answer it raises as CowdError.
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import Final

from cowproto.v1 import pageflags_pb2 as messages
from cowproto.v1 import twins_pb2 as twins

from cowdaemon.errors import CowdError, Reason
from cowdaemon.limits import CHUNKS_AHEAD, PAGES_PER_CALL
from cowdaemon.worker.disclosure import DisclosureMasks
from cowdaemon.worker.encoding import encode_pages
from cowdaemon.worker.few_pages import DisclosedPages
from cowdaemon.worker.page_states import Bytes, Words
from cowdaemon.worker.page_stream import ChunkPages, PageStreams
from cowdaemon.worker.pagemap import ShortReadError
from cowdaemon.worker.read_ahead import read_ahead
from cowdaemon.worker.reader import Reader, classify_readings
from cowdaemon.worker.requests import (
    explaining_short_reads,
    number_ranges,
    open_target,
    verify_access,
    verify_range,
    verify_reach,
    verify_start_time,
)
from cowdaemon.worker.targets import Target, Targets

__all__ = ["PageCalls"]

_PAGE_SIZE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


class PageCalls:
    """Answers for one credential.

    Args:
        targets: opens processes with its authority.
        reader: reads their pages.
        masks: which flags it may see.
        threads: those that read.
    """

    def __init__(
        self, targets: Targets, reader: Reader, masks: DisclosureMasks, threads: ThreadPoolExecutor
    ) -> None:
        self._targets = targets
        self._reader = reader
        self._masks = masks
        self._mask_fields = masks.as_fields()
        self._streams: PageStreams[bytes] = PageStreams(reader, masks, threads)

    def get_page_flags(self, request: messages.GetPageFlagsRequest) -> bytes:
        """Answer GetPageFlags."""
        verify_range(request.address, request.count, most=PAGES_PER_CALL)
        target = open_target(self._targets, request.pid)
        verify_start_time(target, request.expected_start_time_ticks)
        response = twins.GetPageFlagsResponse(
            page_size_bytes=_PAGE_SIZE_BYTES,
            address=request.address,
            start_time_ticks=target.start_time_ticks,
            masks=self._mask_fields,
        )
        return encode_pages(response, *self._read(target, request.address, request.count))

    def stream_page_flags(
        self, request: messages.StreamPageFlagsRequest, verify_wanted: Callable[[], None]
    ) -> Iterator[bytes]:
        """Answer StreamPageFlags."""
        ranges = number_ranges(request.ranges)
        target = open_target(self._targets, request.pid)
        verify_start_time(target, request.expected_start_time_ticks)
        verify_reach(target, ranges)
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
                verify_access(self._targets, target)
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

    def _read(
        self, target: Target, address: int, count: int
    ) -> DisclosedPages | tuple[Words, Bytes, Bytes]:
        reader, pagemap = self._reader, target.pagemap
        with explaining_short_reads(target):
            few = reader.read_few(pagemap, address, count, self._masks)
            if few is not None:
                return few
            readings = reader.read(pagemap, address, count)
        states, attributes = classify_readings(readings, reader.features.layout)
        flags = self._masks.apply(readings.entries, readings.flags, readings.codes)
        return flags, states, attributes
