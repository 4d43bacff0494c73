# SPDX-License-Identifier: Apache-2.0
"""Pages that come and go while they are read: their frames become other pages' in between.

No second source can look at the same moment, but what such a page can ever be is known.
"""

from collections import Counter

import pytest
from harness.changed_zygote import in_zygote
from harness.daemon import StartDaemon
from harness.older_kernels import WITHOUT_PAGEMAP_SCAN
from harness.programs import PAGE_BYTES, Caller, StartCaller, StartSubject, parse_pages
from harness.small_steps import SCATTERED, SMALL_STEPS
from harness.states import Answer, ask
from harness.streams import stream_pages

PAGES = 8
CALLS = 600
MOST_UNSTABLE = 0.1
"""Of pages that are as they were but for that a fork had them too."""
STREAMS = 6
STEP_PAGES, RESTLESS_PAGES = 8_000, 16
"""As in kinds/restless.py."""
STEPS = {"as it is": 10, "in small steps": 1, "scattered": 1, "without the ioctl": 10}
"""Ten of them are more pages than one response has."""
STEADY = ("ANON", "ANON", "ZERO", "ABSENT")
CHANGES = {
    "as it is": "",
    "in small steps": SMALL_STEPS,
    "scattered": SMALL_STEPS + SCATTERED,
    "without the ioctl": WITHOUT_PAGEMAP_SCAN,
}
MOST_WRONG = 0.01
"""Of the answers. A page that comes back to the same frame each time it is looked at, and has left
it each time that the frame is, deceives every reader: hardly ever. Without a second look it is one
answer in ten."""


def test_page_that_comes_and_goes(nobody: Caller, start_subject: StartSubject) -> None:
    """It is anonymous, or not there, or said to be unstable; never another owner's page."""
    subject = start_subject("restless-pages", PAGES)
    address = parse_pages(subject.description)[0].address
    seen = Counter(
        judge(page) for _ in range(CALLS) for page in ask(nobody, subject.pid, address, PAGES)
    )
    assert seen["ANON"]
    assert seen["ABSENT"]
    assert seen["wrong"] < MOST_WRONG * PAGES * CALLS, seen


def judge(page: Answer) -> str:
    """Return the state of a page that can be right, or "wrong"."""
    if page.state == "ANON" and page.kpageflags:
        return "ANON"
    if page.state == "ABSENT" and not page.kpageflags and not page.attributes:
        return "ABSENT"
    if page.state == "UNKNOWN" and not page.kpageflags and page.attributes == {"UNSTABLE"}:
        return "UNKNOWN"
    return "wrong"


@pytest.fixture(params=CHANGES)
def streamer(
    request: pytest.FixtureRequest, start_daemon: StartDaemon, start_caller: StartCaller
) -> Caller:
    """Return a caller of a daemon that reads in one of several ways."""
    daemon = start_daemon(change=in_zygote(CHANGES[request.param]))
    return start_caller(socket_path=daemon.socket_path)


def test_ranges_of_pages_that_come_and_go(streamer: Caller, start_subject: StartSubject) -> None:
    """In no order, and over each other. Seen to fail with pages that are taken to ascend."""
    subject = start_subject("restless-pages", PAGES)
    address = subject.address
    ranges = [(address + page * PAGE_BYTES, 1) for page in reversed(range(PAGES))]
    ranges += [(address, PAGES), (address + PAGE_BYTES, 2), (address, PAGES)]
    pages = PAGES * 3 + 2
    calls = CALLS // 3
    seen = Counter(
        judge(page) for _ in range(calls) for page in stream_pages(streamer, subject.pid, ranges)
    )
    assert seen["ANON"]
    assert seen["ABSENT"]
    assert seen["wrong"] < MOST_WRONG * pages * calls, seen


@pytest.mark.parametrize(("streamer", "steps"), STEPS.items(), indirect=["streamer"])
def test_pages_that_do_not_change_are_right_beside_those_that_do(
    streamer: Caller, steps: int, start_subject: StartSubject
) -> None:
    """While their process writes, drops, unmaps, maps and forks: which makes no page another's.

    A fork makes pages shared for a moment, and that is a change: it may come at each look, seldom.
    Seen to fail with what has changed put a page further.
    """
    subject = start_subject("restless-neighbours", steps)
    count = subject.description["count"]
    around = STEP_PAGES - 100  # what changes, and before and after it
    ranges = [(subject.address, count), (subject.address + around * PAGE_BYTES, 100)]
    ranges += [(subject.address + (around - 50) * PAGE_BYTES, 100)]
    numbers = [*range(count), *range(around, around + 100), *range(around - 50, around + 50)]
    seen: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}
    for _ in range(STREAMS):
        told = stream_pages(streamer, subject.pid, ranges)
        for number, page in zip(numbers, told, strict=True):
            is_restless = number % STEP_PAGES >= STEP_PAGES - RESTLESS_PAGES
            if not is_restless and page.state == STEADY[number % 4]:
                assert bool(page.kpageflags) == (page.state != "ABSENT")
                seen[is_restless]["right"] += 1
            else:
                assert is_restless or judge(page) == "UNKNOWN", (number, page)
                seen[is_restless][judge(page)] += 1
    assert seen[False]["UNKNOWN"] < MOST_UNSTABLE * seen[False].total(), seen
    assert seen[True]["ANON"]
    assert seen[True]["wrong"] <= MOST_WRONG * seen[True].total(), seen
