# SPDX-License-Identifier: Apache-2.0
"""Attack 7: have the target exit, or execute another program, in the middle of a long read.

What the daemon holds then reads nothing. It must not be filled up: pages that are there would be
told to be absent, and so not copied. Every answer is whole, or an error.
"""

import os
import signal
import sys
from collections.abc import Callable

import pytest
from cowproto.v1 import pageflags_pb2
from google.protobuf.message import Message
from harness.endings import ENDINGS, EndRace
from harness.outcomes import ENDED
from harness.processes import Departure
from harness.programs import Caller, CallError, StartSubject, Subject

EXITS = 10
MAPPINGS = 4000
"""Fewer than limits.MAPPINGS_PER_CALL."""

endings = pytest.mark.parametrize("ending", ENDINGS)


def shows_all_pages(response: bytes, subject: Subject) -> bool:
    """Tell whether an answer shows all of the written pages.

    If not, it must be about the program that the subject has executed, of which none is there.
    """
    parsed = pageflags_pb2.GetPageFlagsResponse.FromString(response)
    assert len(parsed.state) == subject.description["count"]
    if pageflags_pb2.PAGE_STATE_ANON in parsed.state:
        assert set(parsed.state) == {pageflags_pb2.PAGE_STATE_ANON}
        assert all(parsed.kpageflags)
        return True
    return False


def shows_all_mappings(response: bytes, subject: Subject) -> bool:
    """Tell whether a listing goes on to the last mapping, which is behind the many.

    If not, it must be of the program that the subject has executed: some, and none of its own.
    """
    parsed = pageflags_pb2.ListMappingsResponse.FromString(response)
    assert not parsed.next_start_address
    assert parsed.mappings
    if os.fsencode(os.path.realpath(sys.executable)) in {
        mapping.path for mapping in parsed.mappings
    }:
        assert len(parsed.mappings) > MAPPINGS
        assert parsed.mappings[-1].start_address > subject.address
        return True
    return False


def race(
    nobody: Caller,
    start: Callable[[], Subject],
    make_request: Callable[[Subject], tuple[str, Message]],
    shows_all: Callable[[bytes, Subject], bool],
    ending: str,
) -> None:
    """End subjects at all moments of a call, until that fell into the read often enough.

    A call that is served after an exec may open the subject anew, and answers about its new program
    then; after an exit nothing is left to be answered about.
    """
    end_race = EndRace(ending)
    for _ in end_race.rounds():
        subject = start()
        method, request = make_request(subject)
        nobody.begin(method, request)
        response, seconds = nobody.finish_timed()
        assert shows_all(response, subject)
        end_race.measured(seconds)
        nobody.begin(method, request)
        end_race.end(subject)
        try:
            response = nobody.finish()
        except CallError as error:
            end_race.outcomes.append(error.outcome)
        else:
            assert shows_all(response, subject) or ending == "execute"
        subject.kill()


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

    race(nobody, lambda: start_subject("large"), ask, shows_all_pages, ending)


@endings
def test_process_that_ends_while_its_mappings_are_listed(
    nobody: Caller, start_subject: StartSubject, ending: str
) -> None:
    """Seen to fail without the look whether it is still there, after the list."""

    def ask(subject: Subject) -> tuple[str, Message]:
        return "ListMappings", pageflags_pb2.ListMappingsRequest(pid=subject.pid)

    race(nobody, lambda: start_subject("many-mappings", MAPPINGS), ask, shows_all_mappings, ending)


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
