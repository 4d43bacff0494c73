# SPDX-License-Identifier: Apache-2.0
"""Where pagemap ends, and what happens when a process does: an error, never pages of zeros.

tests/security/test_attack_07_ending_targets.py ends processes in the middle of a read.
"""

import os
import signal
from pathlib import Path

import pytest
from cowproto.v1 import pageflags_pb2
from harness.outcomes import ABSENT, WITHOUT_MEMORY
from harness.programs import PAGE_BYTES, Caller, CallError, StartSubject, parse_pages
from harness.states import ask

OUT_OF_RANGE = ("OUT_OF_RANGE", "OUT_OF_ADDRESS_SPACE")
VSYSCALL = 0xFFFFFFFFFF600000
"""x86-64's; no user's address anywhere."""


def find_end(caller: Caller, pid: int, inside: int) -> int:
    """Return the first address past the address space, by asking for single pages."""
    outside = VSYSCALL
    while outside - inside > PAGE_BYTES:
        middle = (inside + outside) // 2 // PAGE_BYTES * PAGE_BYTES
        request = pageflags_pb2.GetPageFlagsRequest(pid=pid, address=middle, count=1)
        caller.begin("GetPageFlags", request)
        answer = finish(caller)
        if isinstance(answer, tuple):
            assert answer == OUT_OF_RANGE
            outside = middle
        else:
            inside = middle
    return outside


def finish(caller: Caller) -> pageflags_pb2.GetPageFlagsResponse | tuple[str, str]:
    """Return the response of the call that was begun, or how it failed."""
    try:
        return pageflags_pb2.GetPageFlagsResponse.FromString(caller.finish())
    except CallError as error:
        return error.outcome


def test_end_of_the_address_space(nobody: Caller, start_subject: StartSubject) -> None:
    """All of a range, or nothing; unmapped addresses below are absent, and no error."""
    subject = start_subject("anonymous")
    (page, *_) = parse_pages(subject.description)
    end = find_end(nobody, subject.pid, page.address)
    highest = max(
        mapping.end_address
        for mapping in nobody.list_mappings(subject.pid)
        if mapping.path != b"[vsyscall]"
    )
    assert highest <= end
    pages = ask(nobody, subject.pid, end - 3 * PAGE_BYTES, 3)
    assert len(pages) == 3
    assert pages[-1].state == "ABSENT"
    for address, count in ((end - 3 * PAGE_BYTES, 4), (end - PAGE_BYTES, 65_536), (end, 1)):
        assert nobody.refused_page_flags(subject.pid, address, count) == OUT_OF_RANGE


def test_vsyscall(nobody: Caller, start_subject: StartSubject) -> None:
    """Listed as a mapping where there is one, and out of pagemap's range all the same."""
    subject = start_subject("anonymous")
    assert nobody.refused_page_flags(subject.pid, VSYSCALL) == OUT_OF_RANGE
    for mapping in nobody.list_mappings(subject.pid):
        if mapping.path == b"[vsyscall]":
            assert mapping.start_address == VSYSCALL
            assert mapping.kind == pageflags_pb2.MAPPING_KIND_SPECIAL


def test_range_beyond_the_end_of_a_file_that_was_cut(
    nobody: Caller, start_subject: StartSubject, public_directory: Path
) -> None:
    """Nothing can be there, and the mapping is: no copies, and no error."""
    subject = start_subject("truncated", public_directory)
    address = parse_pages(subject.description)[0].address
    told = ask(nobody, subject.pid, address + 2 * PAGE_BYTES, 2)
    assert [page.state for page in told] == ["ABSENT"] * 2


@pytest.mark.parametrize("reaped", [False, True], ids=["zombie", "reaped"])
def test_process_that_has_ended_has_no_pages_though_it_is_held_open(
    nobody: Caller, start_subject: StartSubject, reaped: bool
) -> None:
    """The daemon still holds it open: a descriptor of an address space that is gone."""
    subject = start_subject("anonymous")
    (page, *_) = parse_pages(subject.description)
    assert ask(nobody, subject.pid, page.address, 1)[0].state == "ANON"
    if reaped:
        subject.kill()
        assert nobody.refused_page_flags(subject.pid, page.address) == ABSENT
    else:
        os.kill(subject.pid, signal.SIGKILL)
        os.waitid(os.P_PID, subject.pid, os.WEXITED | os.WNOWAIT)
        assert nobody.refused_page_flags(subject.pid, page.address) == WITHOUT_MEMORY
