# SPDX-License-Identifier: Apache-2.0
"""Pages that come and go while they are read: their frames become other pages' in between.

No second source can look at the same moment, but what such a page can ever be is known.
"""

from collections import Counter

from harness.programs import Caller, StartSubject, parse_pages
from harness.states import Answer, ask

PAGES = 8
CALLS = 600
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
