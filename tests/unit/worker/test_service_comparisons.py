# SPDX-License-Identifier: Apache-2.0
"""ComparePages of two processes that are files: every field, every refusal, and what ends it."""

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cowdaemon.errors import CowdError, Reason
from cowdaemon.limits import PAGES_PER_CALL, RANGES_PER_CALL
from cowdaemon.wire import Purpose
from cowdaemon.worker import comparison_calls as module
from cowdaemon.worker.comparison_calls import ComparisonCalls
from cowdaemon.worker.page_states import Kpageflags
from cowdaemon.worker.reader import Reader
from cowproto.v1 import pageflags_pb2 as messages
from cowproto.v1 import pageflags_pb2_grpc
from unit.worker.served_process import (
    ENTRIES,
    FEATURES,
    FILE,
    FRAMES,
    OTHER_PID,
    OTHER_START_TIME_TICKS,
    PAGE,
    PID,
    PRESENT,
    SECONDS,
    START_TIME_TICKS,
    SWAPPED,
    MakeFile,
    Process,
    make_service,
    refuse,
)

OTHER_ENTRIES = [PRESENT | 3, 0, PRESENT | FILE | 2, PRESENT | 1, 0, SWAPPED | 0x123 << 5 | 1, 0]
"""pagemap of the other process, from its page 0."""
PAGES = len(ENTRIES)
MANY = 5 * PAGES_PER_CALL // 2
"""Pages: more than are read without threads."""
_C, _S = messages.PageComparison, messages.PageState


def ask(
    *ranges: tuple[int, int], totals_only: bool = False, **fields: int
) -> messages.ComparePagesRequest:
    """Return a request about ranges, of first page and number of pages."""
    wanted = [messages.PageRange(address=first * PAGE, count=count) for first, count in ranges]
    fields = {"pid": PID, "other_pid": OTHER_PID, **fields}
    return messages.ComparePagesRequest(ranges=wanted, totals_only=totals_only, **fields)


def list_places(responses: list[Any]) -> list[tuple[int, int]]:
    return [(response.address // PAGE, response.count) for response in responses]


@pytest.fixture(autouse=True)
def other(process: Process, make_file: MakeFile) -> Process:
    """Return the other of the two processes."""
    process.another = Process(make_file)
    process.another.write_pagemap(np.array(OTHER_ENTRIES, np.uint64))
    return process.another


def test_every_field(stub: Any) -> None:
    [response] = stub.ComparePages(ask((0, PAGES)))
    assert response == messages.ComparePagesResponse(
        page_size_bytes=PAGE,
        address=0,
        count=PAGES,
        start_time_ticks=START_TIME_TICKS,
        other_start_time_ticks=OTHER_START_TIME_TICKS,
        stretch_address=[0],
        stretch_page_count=[PAGES],
        comparison=[
            _C.PAGE_COMPARISON_ONLY_SECOND,
            _C.PAGE_COMPARISON_ONLY_FIRST,
            _C.PAGE_COMPARISON_SAME,
            _C.PAGE_COMPARISON_DIFFERENT,
            _C.PAGE_COMPARISON_NEITHER,
            _C.PAGE_COMPARISON_SAME,
            _C.PAGE_COMPARISON_NEITHER,
        ],
        state=[
            _S.PAGE_STATE_ABSENT,
            _S.PAGE_STATE_ANON,
            _S.PAGE_STATE_FILE,
            _S.PAGE_STATE_ANON,
            _S.PAGE_STATE_ZERO,
            _S.PAGE_STATE_ANON_SWAPPED,
            _S.PAGE_STATE_GUARD,
        ],
        other_state=[
            _S.PAGE_STATE_ANON,
            _S.PAGE_STATE_ABSENT,
            _S.PAGE_STATE_FILE,
            _S.PAGE_STATE_ANON,
            _S.PAGE_STATE_ABSENT,
            _S.PAGE_STATE_ANON_SWAPPED,
            _S.PAGE_STATE_ABSENT,
        ],
        copied_by=[0, 0, 0, messages.PAGE_COPIER_SECOND, 0, 0, 0],
    )


@pytest.fixture
def stub_without_copiers(serve: Callable[..., Any], process: Process, make_file: MakeFile) -> Any:
    """Return a stub of a service on a kernel that does not tell who made a page."""
    features = replace(FEATURES, has_page_copiers=False)
    reader = Reader(make_file(np.array(FRAMES, "<u8").tobytes()), features)
    service = make_service(process, reader)
    return pageflags_pb2_grpc.PageFlagsServiceStub(serve(service))


def test_who_made_a_page(stub: Any) -> None:
    """Frame 1 has bit 34, frame 3 has not. Seen to fail with the two sides' flags exchanged."""
    [response] = stub.ComparePages(ask((3, 1)))
    assert list(response.copied_by) == [messages.PAGE_COPIER_SECOND]
    [response] = stub.ComparePages(ask((3, 1), pid=OTHER_PID, other_pid=PID))
    assert list(response.copied_by) == [messages.PAGE_COPIER_FIRST]
    [response] = stub.ComparePages(ask((3, 1), totals_only=True))
    assert [total.copied_by for total in response.totals] == [messages.PAGE_COPIER_SECOND]


def test_who_made_a_page_where_the_kernel_does_not_tell(stub_without_copiers: Any) -> None:
    [response] = stub_without_copiers.ComparePages(ask((3, 1)))
    assert list(response.copied_by) == [messages.PAGE_COPIER_UNSPECIFIED]


def test_process_compared_with_itself_is_the_same(stub: Any) -> None:
    [response] = stub.ComparePages(ask((0, PAGES), other_pid=PID))
    neither = (_S.PAGE_STATE_ABSENT, _S.PAGE_STATE_ZERO, _S.PAGE_STATE_GUARD)
    assert list(response.comparison) == [
        _C.PAGE_COMPARISON_NEITHER if state in neither else _C.PAGE_COMPARISON_SAME
        for state in response.state
    ]
    assert response.state == response.other_state
    assert response.start_time_ticks == response.other_start_time_ticks == START_TIME_TICKS


def test_ranges_come_in_the_order_of_the_request(stub: Any) -> None:
    ranges = [(5, 2), (0, 3), (4, 1), (0, 3)]
    assert list_places(list(stub.ComparePages(ask(*ranges)))) == ranges
    assert list_places(list(stub.ComparePages(ask(*ranges, totals_only=True)))) == ranges


def test_pages_of_either_are_listed(stub: Any, process: Process, other: Process) -> None:
    """And those around them, up to 64 of a step.

    Seen to fail with the pages of one process, and with those of the first chunk told of each.
    """
    for each, pages in (process, [1_000]), (other, [70_000, MANY - 1]):
        entries = np.zeros(MANY, np.uint64)
        entries[pages] = PRESENT | 3
        each.write_pagemap(entries)
    responses = list(stub.ComparePages(ask((0, MANY))))
    assert sum(response.count for response in responses) == MANY
    stretches = [
        (address // PAGE, count)
        for response in responses
        for address, count in zip(
            response.stretch_address, response.stretch_page_count, strict=True
        )
    ]
    assert stretches == [(960, 64), (69_952, 64), (MANY - 64, 64)]
    found = Counter(comparison for response in responses for comparison in response.comparison)
    assert found[_C.PAGE_COMPARISON_ONLY_FIRST] == 1
    assert found[_C.PAGE_COMPARISON_ONLY_SECOND] == 2


def test_totals_are_what_the_lists_count(stub: Any, process: Process, other: Process) -> None:
    """Of each response: those that are not listed are in neither."""
    random = np.random.default_rng(7)
    for each in process, other:
        entries = random.choice(np.array([*ENTRIES, *OTHER_ENTRIES], np.uint64), MANY)
        entries[PAGES_PER_CALL : 2 * PAGES_PER_CALL] = 0
        each.write_pagemap(entries)
    ranges = [(0, MANY), (100, 1_000)]
    lists = list(stub.ComparePages(ask(*ranges)))
    totals = list(stub.ComparePages(ask(*ranges, totals_only=True)))
    assert list_places(totals) == list_places(lists)
    for listing, total in zip(lists, totals, strict=True):
        columns = listing.comparison, listing.state, listing.other_state, listing.copied_by
        due = Counter(zip(*columns, strict=True))
        nothing = _C.PAGE_COMPARISON_NEITHER, *[_S.PAGE_STATE_ABSENT] * 2, 0
        due[nothing] += listing.count - len(listing.comparison)
        told = {
            (each.comparison, each.state, each.other_state, each.copied_by): each.page_count
            for each in total.totals
        }
        assert told == {alike: count for alike, count in due.items() if count}
        assert sum(told.values()) == total.count
        assert not total.stretch_address
        assert not any((total.comparison, total.state, total.other_state, total.copied_by))
        assert not listing.totals


def test_responses_are_of_a_bounded_size(stub: Any, process: Process, other: Process) -> None:
    for each in process, other:
        each.write_pagemap(np.full(MANY, PRESENT | 3, np.uint64))
    responses = list(stub.ComparePages(ask((0, MANY), (7, 1))))
    assert list_places(responses) == [
        (0, PAGES_PER_CALL),
        (PAGES_PER_CALL, PAGES_PER_CALL),
        (2 * PAGES_PER_CALL, PAGES_PER_CALL // 2),
        (7, 1),
    ]
    assert {*responses[0].comparison} == {_C.PAGE_COMPARISON_SAME}


@pytest.mark.parametrize(
    ("ranges", "fields", "reason"),
    [
        ([], {}, Reason.INVALID_RANGE_COUNT),
        ([(0, 1)] * (RANGES_PER_CALL + 1), {}, Reason.INVALID_RANGE_COUNT),
        ([(0, 1)], {"pid": 0}, Reason.INVALID_PID),
        ([(0, 1)], {"other_pid": 0}, Reason.INVALID_PID),
        ([(0, 1)], {"other_pid": -1}, Reason.INVALID_PID),
        ([(0, 1), (0, 0)], {}, Reason.INVALID_COUNT),
        ([(0, 1), (1, 2**64 // PAGE)], {}, Reason.RANGE_OVERFLOW),
        ([(0, 1), (PAGES, 1)], {}, Reason.OUT_OF_ADDRESS_SPACE),
        ([(0, PAGES + 1), (0, 1)], {}, Reason.OUT_OF_ADDRESS_SPACE),
        ([(0, 1)], {"expected_start_time_ticks": 1}, Reason.START_TIME_DIFFERS),
        ([(0, 1)], {"other_expected_start_time_ticks": 1}, Reason.START_TIME_DIFFERS),
        (
            [(0, 1)],
            {"expected_start_time_ticks": OTHER_START_TIME_TICKS},
            Reason.START_TIME_DIFFERS,
        ),
    ],
)
def test_request_that_cannot_be_answered(
    stub: Any, ranges: list[tuple[int, int]], fields: dict[str, int], reason: Reason
) -> None:
    """Before anything is told."""
    responses = stub.ComparePages(ask(*ranges, **fields), timeout=SECONDS)
    assert refuse(lambda: next(responses)).info.reason == reason.name


def test_start_times_that_are_right(stub: Any) -> None:
    expected = {
        "expected_start_time_ticks": START_TIME_TICKS,
        "other_expected_start_time_ticks": OTHER_START_TIME_TICKS,
    }
    assert list(stub.ComparePages(ask((0, 1), **expected)))


@pytest.mark.parametrize("pid", [PID, OTHER_PID])
def test_range_that_one_of_the_two_does_not_have(
    stub: Any, process: Process, other: Process, pid: int
) -> None:
    """The error names it. Seen to fail with the first process looked at alone."""
    shorter = {PID: process, OTHER_PID: other}[pid]
    shorter.write_pagemap(np.zeros(PAGES - 1, np.uint64))
    assert list(stub.ComparePages(ask((0, PAGES - 1))))
    refusal = refuse(lambda: list(stub.ComparePages(ask((0, PAGES)), timeout=SECONDS)))
    assert refusal.info.reason == "OUT_OF_ADDRESS_SPACE"
    assert str(pid) in refusal.message


@pytest.mark.parametrize("pid", [PID, OTHER_PID])
@pytest.mark.parametrize("reason", [Reason.ACCESS_DENIED, Reason.NO_SUCH_PROCESS])
def test_each_of_the_two_must_be_open_to_the_caller(
    stub: Any, process: Process, pid: int, reason: Reason
) -> None:
    """For its pages, whatever a grant of summaries opens."""
    assert list(stub.ComparePages(ask((0, 1))))
    assert process.purposes == [Purpose.PAGES] * 2
    process.refusals[pid] = reason
    refusal = refuse(lambda: list(stub.ComparePages(ask((0, 1)), timeout=SECONDS)))
    assert refusal.info.reason == reason.name
    assert str(pid) in refusal.message


@pytest.fixture
def parts(
    process: Process, other: Process, make_file: MakeFile, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[], Iterator[bytes]]]:
    """Return a function that begins a call of many parts, without gRPC to take them ahead."""
    monkeypatch.setattr(module, "read_ahead", lambda parts, _: parts)
    for each in process, other:
        each.write_pagemap(np.full(9 * PAGES_PER_CALL, PRESENT | 3, np.uint64))
    reader = Reader(make_file(np.full(5, Kpageflags.ANON, "<u8").tobytes()), FEATURES)
    with ThreadPoolExecutor(2) as threads:
        calls = ComparisonCalls(process, reader, threads)  # type: ignore[arg-type]
        request = ask((0, 9 * PAGES_PER_CALL))
        yield lambda: calls.compare_pages(request, lambda: None)


@pytest.mark.parametrize("pid", [PID, OTHER_PID])
def test_access_that_is_lost_ends_the_call(
    parts: Callable[[], Iterator[bytes]], process: Process, pid: int
) -> None:
    """To either. Seen to fail without asking again, and with the first one asked about alone."""
    told = parts()
    next(told)
    process.refusals[pid] = Reason.ACCESS_DENIED
    with pytest.raises(CowdError) as failure:
        next(told)
    assert failure.value.reason is Reason.ACCESS_DENIED


@pytest.mark.parametrize("pid", [PID, OTHER_PID])
@pytest.mark.parametrize("reason", [Reason.ACCESS_DENIED, Reason.NO_SUCH_PROCESS, None])
def test_process_that_has_gone_is_no_matter_of_access(
    parts: Callable[[], Iterator[bytes]],
    process: Process,
    other: Process,
    pid: int,
    reason: Reason | None,
) -> None:
    """Whichever it is, and it is named, whatever the opener says of its number."""
    told = parts()
    next(told)
    {PID: process, OTHER_PID: other}[pid].exit()
    if reason:
        process.refusals[pid] = reason
    with pytest.raises(CowdError) as failure:
        list(told)
    assert failure.value.reason is Reason.PROCESS_GONE
    assert str(pid) in str(failure.value)
