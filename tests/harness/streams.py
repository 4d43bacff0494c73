# SPDX-License-Identifier: Apache-2.0
"""StreamPageFlags, asked through a caller: whole messages, verified as the contract has them.

Runs in the test process. An answer that is not as the contract says raises AssertionError.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from cowproto.v1 import pageflags_pb2

from harness.programs import EVERY, PAGE_BYTES, Caller, CallError
from harness.states import PAGES_PER_CALL, Answer, name_answers

NOTHING = Answer("ABSENT", frozenset(), 0)
"""What is said of a page by not listing it."""

Range = tuple[int, int]
"""Address in bytes, and number of pages."""


class Part(NamedTuple):
    """What one response says: of the pages of a range, those that are listed."""

    address: int
    count: int
    listed: dict[int, Answer]
    """By address, ascending."""


def begin_stream(
    caller: Caller,
    pid: int,
    ranges: Sequence[Range],
    expected_start_time_ticks: int = 0,
    most: int = EVERY,
    seconds: float = 20.0,
) -> None:
    """Start StreamPageFlags; with `most`, it is cancelled after so many responses."""
    request = pageflags_pb2.StreamPageFlagsRequest(
        pid=pid,
        ranges=[pageflags_pb2.PageRange(address=first, count=count) for first, count in ranges],
        expected_start_time_ticks=expected_start_time_ticks,
    )
    caller.begin("StreamPageFlags", request, seconds=seconds, most=most)


def finish_stream(caller: Caller) -> list[pageflags_pb2.StreamPageFlagsResponse]:
    """Return the responses of the call begun longest ago, or raise CallError."""
    parse = pageflags_pb2.StreamPageFlagsResponse.FromString
    return [parse(response) for response in caller.finish_stream()]


def try_stream(
    caller: Caller, pid: int, ranges: Sequence[Range], expected_start_time_ticks: int = 0
) -> tuple[str, str] | None:
    """Return the code and reason with which a call fails; None if it does not."""
    begin_stream(caller, pid, ranges, expected_start_time_ticks)
    try:
        finish_stream(caller)
    except CallError as failure:
        return failure.outcome
    return None


def stream_parts(caller: Caller, pid: int, ranges: Sequence[Range]) -> list[Part]:
    """Return the daemon's answer about all of several ranges."""
    begin_stream(caller, pid, ranges)
    parts = [parse_part(response) for response in finish_stream(caller)]
    verify_places(parts, ranges)
    return parts


def stream_pages(caller: Caller, pid: int, ranges: Sequence[Range]) -> list[Answer]:
    """Return what is said of every page of several ranges, listed or not, in their order."""
    return list(spread(stream_parts(caller, pid, ranges)))


def spread(parts: Sequence[Part]) -> Iterator[Answer]:
    """Yield what parts say of each page."""
    for address, count, listed in parts:
        for page in range(address, address + count * PAGE_BYTES, PAGE_BYTES):
            yield listed.get(page, NOTHING)


def parse_part(response: pageflags_pb2.StreamPageFlagsResponse) -> Part:
    """Return what a response says; stretches must be inside it, ascending and not overlap."""
    assert response.page_size_bytes == PAGE_BYTES
    assert response.start_time_ticks
    addresses: list[int] = []
    reached = response.address
    stretches = zip(response.stretch_address, response.stretch_page_count, strict=True)
    for address, count in stretches:
        assert address >= reached
        assert count >= 1
        reached = address + count * PAGE_BYTES
        addresses += range(address, reached, PAGE_BYTES)
    assert reached <= response.address + response.count * PAGE_BYTES
    assert len(addresses) <= PAGES_PER_CALL
    listed = dict(zip(addresses, name_answers(response), strict=True))
    return Part(response.address, response.count, listed)


def verify_places(parts: Sequence[Part], ranges: Sequence[Range]) -> None:
    """Assert that parts are those of the ranges, in their order, without gaps."""
    left = iter(parts)
    for address, count in ranges:
        reached, end = address, address + count * PAGE_BYTES
        while reached < end:
            part = next(left)
            assert part.address == reached
            assert part.count >= 1
            reached += part.count * PAGE_BYTES
        assert reached == end
    assert next(left, None) is None
