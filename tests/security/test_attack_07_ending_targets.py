# SPDX-License-Identifier: Apache-2.0
"""Attack 7: have the target exit, or execute another program, in the middle of a long read.

What the daemon holds then reads nothing. It must not be filled up: pages that are there would be
told to be absent, and so not copied. Every answer is whole, or an error.
"""

import os
import random
import signal
import time
from collections.abc import Callable

import pytest
from cowproto.v1 import pageflags_pb2
from google.protobuf.message import Message
from harness.outcomes import ENDED, GONE
from harness.processes import Departure
from harness.programs import Caller, CallError, StartSubject, Subject

EXITS = 10
END_RACES = 60
"""Rounds of ending a process in mid-read, at most."""
END_RACES_WON = 3
"""Rounds after which it has been seen often enough that the end fell into a read."""
MAPPINGS = 4000
"""Fewer than limits.MAPPINGS_PER_CALL."""

endings = pytest.mark.parametrize("ending", ["exit", "execute"])


def verify_pages(response: bytes, subject: Subject) -> None:
    """Assert that an answer about written pages shows all of them."""
    parsed = pageflags_pb2.GetPageFlagsResponse.FromString(response)
    assert list(parsed.state) == [pageflags_pb2.PAGE_STATE_ANON] * subject.description["count"]
    assert all(parsed.kpageflags)


def verify_mappings(response: bytes, subject: Subject) -> None:
    """Assert that a listing goes on to the last mapping, which is behind the many."""
    parsed = pageflags_pb2.ListMappingsResponse.FromString(response)
    assert len(parsed.mappings) > MAPPINGS
    assert parsed.mappings[-1].start_address > subject.address
    assert not parsed.next_start_address


def race(
    nobody: Caller,
    start: Callable[[], Subject],
    make_request: Callable[[Subject], tuple[str, Message]],
    verify: Callable[[bytes, Subject], None],
    ending: str,
) -> None:
    """End subjects at all moments of a call, until that fell into the read often enough."""
    moments = random.Random(0)
    longest_seconds = 0.0
    outcomes = []
    for _ in range(END_RACES):
        subject = start()
        method, request = make_request(subject)
        nobody.begin(method, request)
        response, seconds = nobody.finish_timed()
        verify(response, subject)
        longest_seconds = max(longest_seconds, seconds)
        nobody.begin(method, request)
        # The moment of the end is what this test varies: there is no event to wait for.
        time.sleep(moments.uniform(0.0, longest_seconds))
        subject.kill() if ending == "exit" else subject.write({"execute": True})
        try:
            verify(nobody.finish(), subject)
        except CallError as error:
            outcomes.append(error.outcome)
        subject.kill()
        if outcomes.count(GONE) >= END_RACES_WON:
            break
    assert set(outcomes) <= ENDED
    assert outcomes.count(GONE) >= END_RACES_WON


@endings
def test_process_that_ends_while_its_pages_are_read(
    nobody: Caller, start_subject: StartSubject, ending: str
) -> None:
    """Seen to fail with a reader that leaves what it could not read at zero."""

    def ask(subject: Subject) -> tuple[str, Message]:
        count = subject.description["count"]
        return "GetPageFlags", pageflags_pb2.GetPageFlagsRequest(
            pid=subject.pid, address=subject.address, count=count
        )

    race(nobody, lambda: start_subject("large"), ask, verify_pages, ending)


@endings
def test_process_that_ends_while_its_mappings_are_listed(
    nobody: Caller, start_subject: StartSubject, ending: str
) -> None:
    """Seen to fail without the look whether it is still there, after the list."""

    def ask(subject: Subject) -> tuple[str, Message]:
        return "ListMappings", pageflags_pb2.ListMappingsRequest(pid=subject.pid)

    race(nobody, lambda: start_subject("many-mappings", MAPPINGS), ask, verify_mappings, ending)


def test_process_that_is_exiting(nobody: Caller, start_subject: StartSubject) -> None:
    """Its memory is gone before its number is: that is no matter of the caller's rights.

    Seen to fail with an opener to which PF_EXITING says nothing. It looks for that twice, before
    the opens and after a refusal, and one look alone is hardly ever too early or too late.
    """
    outcomes = set()
    for _ in range(EXITS):
        subject = start_subject("large")  # which takes the kernel some milliseconds to free
        with Departure([subject.pid]) as departure:
            os.kill(subject.pid, signal.SIGKILL)
            while departure.wait(0):
                try:
                    nobody.get_page_flags(subject.pid, subject.address)
                except CallError as error:
                    outcomes.add(error.outcome)
        subject.close()
    assert outcomes
    assert outcomes <= ENDED
