# SPDX-License-Identifier: Apache-2.0
"""Streams of a terabyte that is hardly there: all that is, and nothing else, in little time.

By the ioctl PAGEMAP_SCAN. Without it a terabyte is looked at page by page, so a part of it is asked
about there.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing

import pytest
from conftest import MakeDirectory
from cowdaemon.limits import RANGES_PER_CALL
from cowdaemon.worker.page_scan import _REGIONS
from harness.changed_zygote import in_zygote
from harness.daemon import Daemon
from harness.older_kernels import WITHOUT_PAGEMAP_SCAN
from harness.programs import NOBODY, PAGE_BYTES, Caller, StartSubject, parse_pages
from harness.small_steps import SCATTERED
from harness.states import Answer
from harness.streams import (
    NOTHING,
    Part,
    begin_stream,
    finish_stream,
    stream_pages,
    stream_parts,
    try_stream,
)

SECONDS = 5.0
"""For a terabyte: page by page it would be ten times that. It takes some milliseconds."""
ALTERNATING = 2 * _REGIONS + 1_000
"""More single pages than are told of at once, by half of the 512 that the kernel collects."""
OLDER_PAGES = 1 << 20
OUT_OF_RANGE = ("OUT_OF_RANGE", "OUT_OF_ADDRESS_SPACE")


@pytest.fixture(scope="module")
def older(reachable: None, make_directory: MakeDirectory) -> Iterator[Caller]:  # noqa: ARG001
    """Return a caller of a daemon without PAGEMAP_SCAN that takes all frames for scattered."""
    change = "from cowdaemon.worker import kpageflags\n" + SCATTERED + WITHOUT_PAGEMAP_SCAN
    with ExitStack() as stack:
        daemon = Daemon(make_directory(), change=in_zygote(change))
        stack.callback(daemon.stop)
        yield stack.enter_context(closing(Caller(NOBODY, daemon.socket_path)))


def find(parts: Sequence[Part]) -> dict[int, Answer]:
    """Return what is said of pages that are not absent, by address."""
    listed = {address: page for part in parts for address, page in part.listed.items()}
    return {address: page for address, page in listed.items() if page != NOTHING}


@pytest.mark.parametrize("kind", ["reserved", "reserved-markers", "reserved-empty"])
def test_everything_in_reserved_memory_is_found(
    kind: str, nobody: Caller, start_subject: StartSubject
) -> None:
    """Pages, the page of zeros, guards and markers. Seen to fail with guards skipped."""
    subject = start_subject(kind)
    started = time.monotonic()
    parts = stream_parts(nobody, subject.pid, [(subject.address, subject.description["count"])])
    assert time.monotonic() - started < SECONDS
    found = find(parts)
    due = {
        page.address: page
        for page in parse_pages(subject.description)
        if page.states != ("ABSENT",) or page.attributes_set
    }
    assert found.keys() == due.keys()
    for address, page in due.items():
        assert found[address].state in page.states
        assert found[address].attributes >= page.attributes_set


def test_every_second_page(nobody: Caller, older: Caller, start_subject: StartSubject) -> None:
    """Each once. Seen to fail with what 6.18 says of where PAGEMAP_SCAN ended."""
    subject = start_subject("reserved-alternating", ALTERNATING)
    first = subject.address
    due = [first + 2 * number * PAGE_BYTES for number in range(ALTERNATING)]
    parts = stream_parts(
        nobody, subject.pid, [(subject.description["start"], subject.description["count"])]
    )
    assert sorted(find(parts)) == due
    assert {page.state for page in find(parts).values()} == {"ANON"}
    start = first - OLDER_PAGES // 2 * PAGE_BYTES
    assert sorted(find(stream_parts(older, subject.pid, [(start, OLDER_PAGES)]))) == due


def test_ranges_that_overlap_and_come_in_any_order(
    nobody: Caller, older: Caller, start_subject: StartSubject
) -> None:
    subject = start_subject("reserved-alternating", ALTERNATING)
    first, count = subject.address, 2 * ALTERNATING
    ranges = [
        (first + 4_000 * PAGE_BYTES, 3_000),
        (first, count),
        (first + 2 * PAGE_BYTES, 1),
        (first + PAGE_BYTES, 1),
        (first + 4_000 * PAGE_BYTES, 3_000),
        (first - 100_000 * PAGE_BYTES, 100_000),
        (first - 70_000 * PAGE_BYTES, 140_000),
    ]
    whole = stream_pages(nobody, subject.pid, [(first - 100_000 * PAGE_BYTES, 200_000)])
    due = []
    for address, length in ranges:
        place = 100_000 + (address - first) // PAGE_BYTES
        due += [page.state for page in whole[place : place + length]]
    for caller in (nobody, older):
        assert [page.state for page in stream_pages(caller, subject.pid, ranges)] == due


def test_as_many_ranges_as_are_allowed(nobody: Caller, start_subject: StartSubject) -> None:
    subject = start_subject("reserved-alternating", RANGES_PER_CALL)
    first = subject.address
    ranges = [(first + number * PAGE_BYTES, 1) for number in reversed(range(RANGES_PER_CALL))]
    told = [page.state for page in stream_pages(nobody, subject.pid, ranges)]
    assert told == ["ABSENT", "ANON"] * (RANGES_PER_CALL // 2)
    outcome = try_stream(nobody, subject.pid, [*ranges, ranges[0]])
    assert outcome == ("INVALID_ARGUMENT", "INVALID_RANGE_COUNT")


def test_end_of_the_address_space(nobody: Caller, start_subject: StartSubject) -> None:
    """All of every range, or nothing of any."""
    subject = start_subject("anonymous")
    page = subject.address
    end = 1 << 64
    start = 0
    while end - start > PAGE_BYTES:  # the last page that can be asked about is before `end`
        middle = (start + end) // 2 // PAGE_BYTES * PAGE_BYTES
        if outcome := try_stream(nobody, subject.pid, [(middle, 1)]):
            assert outcome == OUT_OF_RANGE
            end = middle
        else:
            start = middle
    whole = stream_parts(nobody, subject.pid, [(0, end // PAGE_BYTES)])
    assert find(whole).keys() > {page}
    [last] = stream_pages(nobody, subject.pid, [(end - PAGE_BYTES, 1)])
    assert last.state == "ABSENT"
    for ranges in (
        [(end - PAGE_BYTES, 2)],
        [(page, 1), (end, 1)],
        [(end - PAGE_BYTES, 1 << 40), (page, 1)],
        [(page, ((1 << 64) - page) // PAGE_BYTES)],
    ):
        assert try_stream(nobody, subject.pid, ranges) == OUT_OF_RANGE
    outcome = try_stream(nobody, subject.pid, [(page, (1 << 64) // PAGE_BYTES)])
    assert outcome == ("INVALID_ARGUMENT", "RANGE_OVERFLOW")


def test_call_that_is_cancelled_at_once(nobody: Caller, start_subject: StartSubject) -> None:
    subject = start_subject("reserved")
    ranges = [(subject.address, subject.description["count"])] * RANGES_PER_CALL
    begin_stream(nobody, subject.pid, ranges, most=1)
    [first] = finish_stream(nobody)
    assert first.address == subject.address
