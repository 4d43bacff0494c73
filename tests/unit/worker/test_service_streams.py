# SPDX-License-Identifier: Apache-2.0
"""StreamPageFlags of the process that is files: every field, every refusal, and what ends it."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from cowdaemon.errors import CowdError, Reason
from cowdaemon.limits import PAGES_PER_CALL, RANGES_PER_CALL
from cowdaemon.worker import page_calls as module
from cowdaemon.worker.disclosure import SAFE
from cowdaemon.worker.page_calls import PageCalls
from cowdaemon.worker.page_states import Kpageflags
from cowdaemon.worker.reader import Reader
from cowproto.v1 import pageflags_pb2 as messages
from unit.worker.served_process import (
    ANON_WORD,
    ENTRIES,
    EXCLUSIVE,
    FEATURES,
    FILE,
    FILE_WORD,
    PAGE,
    PID,
    PRESENT,
    SECONDS,
    START_TIME_TICKS,
    MakeFile,
    Process,
    ask_flags,
    refuse,
)

PAGES = len(ENTRIES)
MANY = 5 * PAGES_PER_CALL // 2
"""Pages: more than are read without threads."""


def ask(*ranges: tuple[int, int], **fields: int) -> messages.StreamPageFlagsRequest:
    """Return a request about ranges, of first page and number of pages."""
    wanted = [messages.PageRange(address=first * PAGE, count=count) for first, count in ranges]
    return messages.StreamPageFlagsRequest(**{"pid": PID, "ranges": wanted, **fields})


def list_places(responses: list[Any]) -> list[tuple[int, int]]:
    return [(response.address // PAGE, response.count) for response in responses]


def test_one_range_is_what_the_single_answer_is(stub: Any) -> None:
    alone = stub.GetPageFlags(ask_flags(count=PAGES))
    [response] = stub.StreamPageFlags(ask((0, PAGES)))
    assert response == messages.StreamPageFlagsResponse(
        page_size_bytes=PAGE,
        address=0,
        count=PAGES,
        start_time_ticks=START_TIME_TICKS,
        masks=alone.masks,
        stretch_address=[0],
        stretch_page_count=[PAGES],
        kpageflags=alone.kpageflags,
        state=alone.state,
        attributes=alone.attributes,
    )
    assert alone.masks.private_flags_mask == int(SAFE.private_flags)


def test_ranges_come_in_the_order_of_the_request(stub: Any) -> None:
    """Seen to fail with ranges that are sorted."""
    ranges = [(5, 2), (0, 3), (4, 1), (0, 3)]
    responses = list(stub.StreamPageFlags(ask(*ranges)))
    assert list_places(responses) == ranges
    alone = stub.GetPageFlags(ask_flags(count=PAGES))
    for (first, count), response in zip(ranges, responses, strict=True):
        assert list(response.state) == list(alone.state[first : first + count])


def test_absent_stretches_are_not_listed(stub: Any, process: Process) -> None:
    """Nor are the pages around what is there, but up to 64 of a step."""
    entries = np.zeros(MANY, np.uint64)
    entries[1_000] = PRESENT | EXCLUSIVE | 1
    entries[MANY - 1] = PRESENT | FILE | 2
    process.write_pagemap(entries)
    responses = list(stub.StreamPageFlags(ask((0, MANY))))
    assert sum(response.count for response in responses) == MANY
    stretches = [
        (address // PAGE, count)
        for response in responses
        for address, count in zip(
            response.stretch_address, response.stretch_page_count, strict=True
        )
    ]
    assert stretches == [(960, 64), (MANY - 64, 64)]
    there = [
        (state, word)
        for response in responses
        for state, word in zip(response.state, response.kpageflags, strict=True)
        if state != messages.PAGE_STATE_ABSENT
    ]
    assert there == [
        (messages.PAGE_STATE_ANON, ANON_WORD),
        (messages.PAGE_STATE_FILE, FILE_WORD & int(SAFE.shared_flags)),
    ]


def test_responses_are_of_a_bounded_size(stub: Any, process: Process) -> None:
    process.write_pagemap(np.full(MANY, PRESENT | 3, np.uint64))
    responses = list(stub.StreamPageFlags(ask((0, MANY), (7, 1))))
    half = PAGES_PER_CALL // 2
    assert list_places(responses) == [
        (0, PAGES_PER_CALL),
        (PAGES_PER_CALL, PAGES_PER_CALL),
        (2 * PAGES_PER_CALL, half),
        (7, 1),
    ]
    assert all(set(response.kpageflags) == {Kpageflags.ANON} for response in responses)


@pytest.mark.parametrize(
    ("ranges", "fields", "reason"),
    [
        ([], {}, Reason.INVALID_RANGE_COUNT),
        ([(0, 1)] * (RANGES_PER_CALL + 1), {}, Reason.INVALID_RANGE_COUNT),
        ([(0, 1)], {"pid": 0}, Reason.INVALID_PID),
        ([(0, 1)], {"pid": -1}, Reason.INVALID_PID),
        ([(0, 1), (0, 0)], {}, Reason.INVALID_COUNT),
        ([(0, 1), (1, 2**64 // PAGE)], {}, Reason.RANGE_OVERFLOW),
        ([(0, 2**64 - 1)], {}, Reason.RANGE_OVERFLOW),
        ([(0, 1), (PAGES, 1)], {}, Reason.OUT_OF_ADDRESS_SPACE),
        ([(0, PAGES + 1), (0, 1)], {}, Reason.OUT_OF_ADDRESS_SPACE),
        ([(0, 2**64 // PAGE)], {}, Reason.OUT_OF_ADDRESS_SPACE),
        ([(0, 1)], {"expected_start_time_ticks": 1}, Reason.START_TIME_DIFFERS),
    ],
)
def test_request_that_cannot_be_answered(
    stub: Any, ranges: list[tuple[int, int]], fields: dict[str, int], reason: Reason
) -> None:
    """Before anything is told."""
    responses = stub.StreamPageFlags(ask(*ranges, **fields), timeout=SECONDS)
    assert refuse(lambda: next(responses)).info.reason == reason.name


def test_unaligned_range(stub: Any) -> None:
    wanted = [messages.PageRange(address=0, count=1), messages.PageRange(address=1, count=1)]
    request = messages.StreamPageFlagsRequest(pid=PID, ranges=wanted)
    refusal = refuse(lambda: next(stub.StreamPageFlags(request, timeout=SECONDS)))
    assert refusal.info.reason == "UNALIGNED_ADDRESS"


def test_as_many_ranges_as_are_allowed(stub: Any) -> None:
    ranges = [(number % PAGES, 1) for number in range(RANGES_PER_CALL)]
    assert list_places(list(stub.StreamPageFlags(ask(*ranges)))) == ranges


@pytest.fixture
def parts(
    process: Process, make_file: MakeFile, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[], Iterator[bytes]]]:
    """Return a function that begins a stream of many parts, without gRPC to take them ahead."""
    monkeypatch.setattr(module, "read_ahead", lambda parts, _: parts)
    process.write_pagemap(np.full(9 * PAGES_PER_CALL, PRESENT | 3, np.uint64))
    reader = Reader(make_file(np.full(5, Kpageflags.ANON, "<u8").tobytes()), FEATURES)
    with ThreadPoolExecutor(2) as threads:
        calls = PageCalls(process, reader, SAFE, threads)  # type: ignore[arg-type]
        request = ask((0, 9 * PAGES_PER_CALL))
        yield lambda: calls.stream_page_flags(request, lambda: None)


def test_access_that_is_lost_ends_the_stream(
    parts: Callable[[], Iterator[bytes]], process: Process
) -> None:
    """With what the opener says then. Seen to fail without asking again."""
    told = parts()
    next(told)
    process.refusal = CowdError(Reason.ACCESS_DENIED, pid=PID)
    with pytest.raises(CowdError) as failure:
        next(told)
    assert failure.value.reason is Reason.ACCESS_DENIED


@pytest.mark.parametrize("reason", [Reason.ACCESS_DENIED, Reason.NO_SUCH_PROCESS, None])
def test_process_that_has_gone_is_no_matter_of_access(
    parts: Callable[[], Iterator[bytes]], process: Process, reason: Reason | None
) -> None:
    """Whatever the opener says of its number. Seen to fail without the look whether it lives."""
    told = parts()
    next(told)
    process.exit()
    process.refusal = CowdError(reason, pid=PID) if reason else None
    with pytest.raises(CowdError) as failure:
        list(told)
    assert failure.value.reason is Reason.PROCESS_GONE
