# SPDX-License-Identifier: Apache-2.0
"""ComparePages, asked through a caller and verified as the contract has it; and what root sees.

Runs in the test process. An answer that is not as the contract says raises AssertionError.
"""

import os
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from cowproto.v1 import pageflags_pb2

from harness.programs import EVERY, PAGE_BYTES, Caller, CallError
from harness.reference import Reference, read_word
from harness.states import PAGES_PER_CALL

Range = tuple[int, int]
"""Address in bytes, and number of pages."""


class Compared(NamedTuple):
    """What is said of one page, by names without their prefixes."""

    comparison: str
    state: str
    other_state: str
    copied_by: str = "UNSPECIFIED"


NOTHING = Compared("NEITHER", "ABSENT", "ABSENT")
"""What is said of a page by not listing it."""
NO_PAGES = {"ABSENT", "ZERO", "GUARD"}
ANONYMOUS = {"ANON", "ANON_SWAPPED"}


def make_request(
    pid: int,
    other_pid: int,
    ranges: Sequence[Range],
    expected_start_times_ticks: tuple[int, int] = (0, 0),
    totals_only: bool = False,
    without_copiers: bool = False,
) -> pageflags_pb2.ComparePagesRequest:
    """Return the request."""
    wanted = [pageflags_pb2.PageRange(address=first, count=count) for first, count in ranges]
    return pageflags_pb2.ComparePagesRequest(
        pid=pid,
        other_pid=other_pid,
        ranges=wanted,
        expected_start_time_ticks=expected_start_times_ticks[0],
        other_expected_start_time_ticks=expected_start_times_ticks[1],
        totals_only=totals_only,
        without_copiers=without_copiers,
    )


def finish_comparison(caller: Caller) -> list[pageflags_pb2.ComparePagesResponse]:
    """Return the responses of the call begun longest ago, or raise CallError."""
    parse = pageflags_pb2.ComparePagesResponse.FromString
    return [parse(response) for response in caller.finish_stream()]


def try_comparison(
    caller: Caller,
    pid: int,
    other_pid: int,
    ranges: Sequence[Range],
    expected_start_times_ticks: tuple[int, int] = (0, 0),
) -> tuple[str, str] | None:
    """Return the code and reason with which a call fails; None if it does not."""
    request = make_request(pid, other_pid, ranges, expected_start_times_ticks)
    caller.begin("ComparePages", request, most=EVERY)
    try:
        finish_comparison(caller)
    except CallError as failure:
        return failure.outcome
    return None


def compare_pages(
    caller: Caller,
    pid: int,
    other_pid: int,
    ranges: Sequence[Range],
    without_copiers: bool = False,
) -> list[Compared]:
    """Return what the daemon says of every page of several ranges, listed or not."""
    request = make_request(pid, other_pid, ranges, without_copiers=without_copiers)
    caller.begin("ComparePages", request, most=EVERY)
    responses = finish_comparison(caller)
    verify_places(responses, ranges)
    return [page for response in responses for page in name_pages(response)]


def compare_in_all_ways(
    caller: Caller, pid: int, other_pid: int, ranges: Sequence[Range]
) -> list[Compared]:
    """Return what `compare_pages` does, of processes that hold still.

    Without who made a page, the same must be told of each; and totals must be what the lists count.
    """
    asked = caller, pid, other_pid, ranges
    told = compare_pages(*asked)
    assert count_compared(*asked) == Counter(told)
    due = [page._replace(copied_by="UNSPECIFIED") for page in told]
    assert compare_pages(*asked, without_copiers=True) == due
    assert count_compared(*asked, without_copiers=True) == Counter(due)
    return told


def count_compared(
    caller: Caller,
    pid: int,
    other_pid: int,
    ranges: Sequence[Range],
    without_copiers: bool = False,
) -> Counter[Compared]:
    """Return what the daemon says of several ranges when it is asked for totals."""
    request = make_request(
        pid, other_pid, ranges, totals_only=True, without_copiers=without_copiers
    )
    caller.begin("ComparePages", request, most=EVERY)
    responses = finish_comparison(caller)
    verify_places(responses, ranges)
    counted: Counter[Compared] = Counter()
    for response in responses:
        assert not response.comparison
        assert not response.stretch_address
        assert sum(each.page_count for each in response.totals) == response.count
        for each in response.totals:
            names = _name(each.comparison, each.state, each.other_state, each.copied_by)
            counted[names] += each.page_count
    return counted


def name_pages(response: pageflags_pb2.ComparePagesResponse) -> list[Compared]:
    """Return what a response says of each page; stretches must be inside it, and ascend."""
    assert response.page_size_bytes == PAGE_BYTES
    assert response.start_time_ticks
    assert response.other_start_time_ticks
    assert len(response.comparison) <= PAGES_PER_CALL
    pages = [NOTHING] * response.count
    columns = (response.comparison, response.state, response.other_state, response.copied_by)
    listed = [_name(*each) for each in zip(*columns, strict=True)]
    reached = 0
    stretches = zip(response.stretch_address, response.stretch_page_count, strict=True)
    for address, count in stretches:
        first = (address - response.address) // PAGE_BYTES
        assert reached <= first < first + count <= response.count
        pages[first : first + count], listed = listed[:count], listed[count:]
        reached = first + count
    assert not listed
    return pages


def verify_places(
    responses: Sequence[pageflags_pb2.ComparePagesResponse], ranges: Sequence[Range]
) -> None:
    """Assert that responses are those of the ranges, in their order, without gaps."""
    left = iter(responses)
    for address, count in ranges:
        reached, end = address, address + count * PAGE_BYTES
        while reached < end:
            response = next(left)
            assert response.address == reached
            assert response.count >= 1
            reached += response.count * PAGE_BYTES
        assert reached == end
    assert next(left, None) is None


def _name(comparison: int, state: int, other_state: int, copied_by: int) -> Compared:
    state_name = pageflags_pb2.PageState.Name
    return Compared(
        pageflags_pb2.PageComparison.Name(comparison).removeprefix("PAGE_COMPARISON_"),
        state_name(state).removeprefix("PAGE_STATE_"),
        state_name(other_state).removeprefix("PAGE_STATE_"),
        pageflags_pb2.PageCopier.Name(copied_by).removeprefix("PAGE_COPIER_"),
    )


class _Seen(NamedTuple):
    """What root sees of a page of one process."""

    state: str
    place: int
    """Of pagemap, which frame or swap entry."""
    flags: int
    is_private: bool


def compare_by_frames(
    reference: Reference, pid: int, other_pid: int, address: int, count: int
) -> list[Compared]:
    """Return what two processes that hold still have, read frame by frame and by plain ifs."""
    sides = [_see(reference, each, address, count) for each in (pid, other_pid)]
    return [_decide(*pair) for pair in zip(*sides, strict=True)]


def _see(reference: Reference, pid: int, address: int, count: int) -> list[_Seen]:
    states = [page.state for page in reference.read_pages(pid, address, count)]
    with (
        open(f"/proc/{pid}/pagemap", "rb", buffering=0) as pagemap,
        open("/proc/kpageflags", "rb", buffering=0) as kpageflags,
    ):
        words = os.pread(pagemap.fileno(), count * 8, address // PAGE_BYTES * 8)
        seen = []
        for page, state in enumerate(states):
            entry = int.from_bytes(words[page * 8 : page * 8 + 8], "little")
            flags = read_word(kpageflags.fileno(), entry & 2**55 - 1) if entry >> 63 else 0
            place, is_private = (
                entry & (3 << 62 | 2**55 - 1),
                entry >> 56 & 1 and not entry >> 61 & 1,
            )
            seen.append(_Seen(state, place, flags or 0, bool(is_private)))
    return seen


def _decide(first: _Seen, second: _Seen) -> Compared:
    states = first.state, second.state
    has_first, has_second = (state not in NO_PAGES for state in states)
    if not has_first and not has_second:
        return Compared("NEITHER", *states)
    if has_first != has_second:
        return Compared("ONLY_FIRST" if has_first else "ONLY_SECOND", *states)
    if first.place == second.place:
        return Compared("SAME", *states)
    if first.state in ANONYMOUS and second.state == "FILE":
        return Compared("DIFFERENT", *states, "FIRST")
    if first.state == "FILE" and second.state in ANONYMOUS:
        return Compared("DIFFERENT", *states, "SECOND")
    if set(states) == ANONYMOUS and any(map(_may_be_in_swap_cache, (first, second))):
        return Compared("UNKNOWN", *states)
    if states == ("ANON", "ANON") and not (first.flags | second.flags) >> 21 & 1:  # merged
        alone = _is_alone(first.flags), _is_alone(second.flags)
        copiers = {
            (True, False): "FIRST",
            (False, True): "SECOND",
            (True, True): "BOTH",
            (False, False): "UNSPECIFIED",
        }
        return Compared("DIFFERENT", *states, copiers[alone])
    return Compared("DIFFERENT", *states)


def _may_be_in_swap_cache(seen: _Seen) -> bool:
    """Tell whether a page that is present is there, or shared: of that nobody is told."""
    return bool(seen.flags) and (not seen.is_private or bool(seen.flags & (1 << 13 | 1 << 22)))


def _is_alone(flags: int) -> bool:
    """Tell whether one process alone may write to a page: not of part of a large folio."""
    return bool(flags >> 34 & 1 and not (flags >> 15 & 3 and not flags >> 17 & 1))
