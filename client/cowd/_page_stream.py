# SPDX-License-Identifier: Apache-2.0
"""The streaming call: its answers verified one by one, and the call made again where it broke off.

It goes over the connection of a `Transport`, and sees grpc and protobuf as that does. Failures:
every gRPC error leaves here as a `cowd.Error`. A stream that gets lost is gone on with from there,
of the same process, and so is one whose time is up while answers come: what is bounded is the wait
for each of them.
"""

import sys
import time
from array import array
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice, repeat
from mmap import PAGESIZE
from operator import add, le, mul
from typing import Final, TypeAlias, cast

import grpc
from cowproto.v1 import pageflags_pb2, twins_pb2

from cowd._address import try_to_connect
from cowd._errors import InternalError, InvalidRequest
from cowd._pages import PageChunk
from cowd._transport import NOBODY_LISTENS, PAUSES_SECONDS, Transport, convert_masks

__all__ = ["iter_chunks"]

_MOST_LISTED: Final = 1 << 20
"""In one answer: many times what a daemon lists, and what a client can bear."""

_Rest: TypeAlias = deque[tuple[int, int]]
"""The ranges that no answer has come about yet: address and number of pages."""


def iter_chunks(
    transport: Transport,
    pid: int,
    ranges: Sequence[tuple[int, int]],
    expected_start_time_ticks: int,
) -> Iterator[PageChunk]:
    """Call StreamPageFlags; no more than one answer is held. The call ends with the iterator.

    Args:
        transport: to the daemon.
        pid: of the process, not of a thread.
        ranges: address, in bytes, and number of pages; no more than one call may have.
        expected_start_time_ticks: start time that the process must have; 0 accepts any.

    Raises:
        Error: a subclass of it, see `cowd.Error`.
    """
    rest = deque(ranges)
    wait = _Wait(transport, pid)
    while rest:
        request = _make_request(pid, rest, expected_start_time_ticks)
        call = transport.start_stream(request, wait.seconds_left, waits_for_ready=wait.is_crowded)
        is_first = True
        try:
            while (answer := transport.receive(call)) is not None:
                chunk = _convert_chunk(answer, pid, rest, expected_start_time_ticks)
                expected_start_time_ticks = chunk.start_time_ticks
                is_first = False
                yield chunk
                wait = _Wait(transport, pid)
        except grpc.RpcError as error:
            failed = cast(grpc.Call, error)  # A failed call raises an RpcError that is a Call.
            if is_first or not transport.is_late(failed):
                wait.pause_or_raise(failed)
            continue
        finally:
            transport.abandon(call)
        if rest:
            raise InternalError("cowd's answer ends before the pages asked for", pid=pid)


class _Wait:
    """The wait for one answer: how long it may take still, and how often it may get lost."""

    is_crowded = False

    def __init__(self, transport: Transport, pid: int) -> None:
        self._transport = transport
        self._pid = pid
        self._deadline = time.monotonic() + transport.timeout_seconds
        self._attempt = time.monotonic()
        self._pauses = iter(PAUSES_SECONDS)
        self._first: grpc.Call | None = None

    @property
    def seconds_left(self) -> float:
        """How long the next call may take."""
        self._attempt = time.monotonic()
        return max(0.0, self._deadline - self._attempt)

    def pause_or_raise(self, failed: grpc.Call) -> None:
        """Return after a pause if another call may help, as with calls that are no streams."""
        transport = self._transport
        pause = next(self._pauses, None)
        hangs = time.monotonic() - self._attempt >= transport.connect_seconds
        may_help = pause is not None and not hangs and transport.was_lost(failed)
        number = try_to_connect(transport.path) if may_help else 0
        if pause is None or not may_help or number in NOBODY_LISTENS:
            why = self._first if self._first and transport.is_late(failed) else failed
            raise transport.convert_error(why, self._pid) from cast(grpc.RpcError, failed)
        self._first = self._first or failed
        self.is_crowded = number != 0
        time.sleep(pause)
