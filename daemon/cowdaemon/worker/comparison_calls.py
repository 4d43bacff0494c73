# SPDX-License-Identifier: Apache-2.0
"""The call about the pages of two processes: ComparePages.

Worker, unprivileged. What the call cannot answer it raises as CowdError.
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import Final

from cowproto.v1 import pageflags_pb2 as messages
from cowproto.v1 import twins_pb2 as twins

from cowdaemon.limits import CHUNKS_AHEAD, PAGES_PER_CALL
from cowdaemon.worker.comparison_stream import ComparedChunk, ComparisonStreams
from cowdaemon.worker.comparisons import add_up, find_comparisons, find_copiers
from cowdaemon.worker.encoding import encode_comparisons
from cowdaemon.worker.read_ahead import read_ahead
from cowdaemon.worker.reader import Reader
from cowdaemon.worker.requests import (
    number_ranges,
    open_target,
    verify_access,
    verify_reach,
    verify_start_time,
)
from cowdaemon.worker.targets import Target, Targets

__all__ = ["ComparisonCalls"]

_PAGE_SIZE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


class ComparisonCalls:
    """Answers for one credential.

    Args:
        targets: opens processes with its authority.
        reader: reads their pages.
        threads: those that read.
    """

    def __init__(self, targets: Targets, reader: Reader, threads: ThreadPoolExecutor) -> None:
        self._targets = targets
        self._streams = ComparisonStreams(reader, threads)

    def compare_pages(
        self, request: messages.ComparePagesRequest, verify_wanted: Callable[[], None]
    ) -> Iterator[bytes]:
        """Answer ComparePages."""
        ranges = number_ranges(request.ranges)
        first = open_target(self._targets, request.pid)
        verify_start_time(first, request.expected_start_time_ticks)
        second = open_target(self._targets, request.other_pid)
        verify_start_time(second, request.other_expected_start_time_ticks)
        targets = first, second
        for target in targets:
            verify_reach(target, ranges)
        tell = partial(_tell_totals if request.totals_only else _tell_pages, targets)
        chunks = self._streams.iter_chunks(
            targets, ranges, tell, verify_wanted, with_copiers=not request.without_copiers
        )
        responses = self._iter_allowed(targets, chunks)
        page_count = sum(end - first_page for first_page, end in ranges)
        return responses if page_count <= PAGES_PER_CALL else read_ahead(responses, CHUNKS_AHEAD)

    def _iter_allowed(
        self, targets: tuple[Target, Target], responses: Iterator[bytes]
    ) -> Iterator[bytes]:
        """Yield the responses as long as the caller may inspect both processes."""
        yield from islice(responses, 1)
        for response in responses:
            for target in targets:
                verify_access(self._targets, target)
            yield response


def _tell_pages(targets: tuple[Target, Target], compared: ComparedChunk) -> bytes:
    stretches = compared.chunk.stretches
    response = _begin_response(targets, compared)
    response.stretch_address = (stretches[:, 0] * _PAGE_SIZE_BYTES).astype("<u8").tobytes()
    response.stretch_page_count = (stretches[:, 1] - stretches[:, 0]).astype("<u4").tobytes()
    return encode_comparisons(
        response,
        find_comparisons(compared.findings),
        compared.states,
        compared.other_states,
        find_copiers(compared.findings),
    )


def _tell_totals(targets: tuple[Target, Target], compared: ComparedChunk) -> bytes:
    _, findings, states, other_states = compared
    response = _begin_response(targets, compared)
    unlisted_page_count = response.count - len(findings)
    for alike in add_up(findings, states, other_states, unlisted_page_count):
        response.totals.add(**alike._asdict())
    return response.SerializeToString()


def _begin_response(
    targets: tuple[Target, Target], compared: ComparedChunk
) -> twins.ComparePagesResponse:
    first, second = targets
    first_page, end_page, _ = compared.chunk
    return twins.ComparePagesResponse(
        page_size_bytes=_PAGE_SIZE_BYTES,
        address=first_page * _PAGE_SIZE_BYTES,
        count=end_page - first_page,
        start_time_ticks=first.start_time_ticks,
        other_start_time_ticks=second.start_time_ticks,
    )
