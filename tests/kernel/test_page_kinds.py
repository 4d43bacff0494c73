# SPDX-License-Identifier: Apache-2.0
"""Every kind of page, asked through the daemon by an unprivileged process, against two sources.

The first source is how the page was made (subjects.py), the second the author's method in C, run
as root. Each kind is asked about another process of the same user, and by a process about itself.
"""

import pytest
from cowproto.v1 import pageflags_pb2
from harness.author import AuthorsMethod
from harness.kernel_flags import (
    PAGEMAP_EXCLUSIVE,
    PAGEMAP_PRESENT,
    PRIVATE_FLAGS_MASK,
    SHARED_FLAGS_MASK,
    VOLATILE_FLAGS,
    disclose,
    name_flags,
)
from harness.programs import (
    PAGE_BYTES,
    Caller,
    Page,
    StartCaller,
    StartSubject,
    iter_stretches,
    parse_pages,
)

COPIED_STATES = {"ANON", "ANON_SWAPPED"}
KINDS = {
    "file": "public_directory",
    "tmpfs": "tmpfs_directory",
    "memfd": None,
    "shared-file": "public_directory",
    "dropped": "public_directory",
    "anonymous": None,
    "zero": None,
    "thp": None,
    "huge-zero": None,
    "fork": None,
    "fork-file": "public_directory",
    "swapped": "swapped_directory",
    "guard": None,
    "lazyfree": None,
    "special": None,
}
"""The kinds of subjects.py that are kinds of page, with the fixture that is their argument."""


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """Return the arguments that make subjects.py create one kind of page."""
    fixture = KINDS[request.param]
    return (request.param, *([str(request.getfixturevalue(fixture))] if fixture else []))


def test_another_process_of_the_same_user(
    kind: tuple[str, ...], nobody: Caller, start_subject: StartSubject, author: AuthorsMethod
) -> None:
    """One process of a user asks about another."""
    subject = start_subject(*kind)
    verify_pages(nobody, parse_pages(subject.description), author)


def test_a_process_about_itself(
    kind: tuple[str, ...], start_caller: StartCaller, author: AuthorsMethod
) -> None:
    """A process asks about its own pages."""
    caller = start_caller()
    description = caller.create(*kind)
    if "unavailable" in description:
        pytest.skip(description["unavailable"])
    assert description["pid"] == caller.pid
    verify_pages(caller, parse_pages(description), author)


def verify_pages(caller: Caller, pages: list[Page], author: AuthorsMethod) -> None:
    """Assert that the daemon tells of `pages` what both sources do."""
    for stretch in iter_stretches(pages):
        pid, address = stretch[0].pid, stretch[0].address
        response = caller.get_page_flags(pid, address, len(stretch))
        assert response.page_size_bytes == PAGE_BYTES
        assert response.address == address
        assert response.masks.private_flags_mask == PRIVATE_FLAGS_MASK
        assert response.masks.shared_flags_mask == SHARED_FLAGS_MASK
        lengths = (len(response.kpageflags), len(response.state), len(response.attributes))
        assert lengths == (len(stretch),) * 3
        verify_construction(stretch, response, is_private_file(caller, pid, address))
        verify_author(stretch, response, author)


def is_private_file(caller: Caller, pid: int, address: int) -> bool:
    """Return whether the daemon lists `address` in a private mapping of a file."""
    for mapping in caller.list_mappings(pid):
        if mapping.start_address <= address < mapping.end_address:
            return mapping.kind == pageflags_pb2.MAPPING_KIND_PRIVATE_FILE
    raise AssertionError(f"no mapping at {address:#x}")


def verify_construction(
    pages: list[Page], response: pageflags_pb2.GetPageFlagsResponse, private_file: bool
) -> None:
    """Assert that each page is what it was made to be."""
    for number, page in enumerate(pages):
        state = pageflags_pb2.PageState.Name(response.state[number]).removeprefix("PAGE_STATE_")
        flags = name_flags(response.kpageflags[number])
        attributes = name_attributes(response.attributes[number])
        seen = f"page {number}: {state} {sorted(flags)} {sorted(attributes)}"
        assert state in page.states, seen
        assert (state in COPIED_STATES if private_file else None) is page.copied, seen
        assert attributes >= page.attributes_set, seen
        assert not attributes & page.attributes_clear, seen
        if response.kpageflags[number]:
            assert flags >= page.flags_set, seen
            assert not flags & page.flags_clear, seen
        else:
            assert state in {"ABSENT", "ANON_SWAPPED", "GUARD"}, seen


def name_attributes(bits: int) -> set[str]:
    """Return the names of the attributes in `bits`, all of which must be documented."""
    named = {
        name.removeprefix("PAGE_ATTRIBUTE_"): number
        for name, number in pageflags_pb2.PageAttribute.items()
    }
    assert bits & ~sum(named.values()) == 0, f"undocumented attributes: {bits:#x}"
    return {name for name, number in named.items() if bits & number}


def verify_author(
    pages: list[Page], response: pageflags_pb2.GetPageFlagsResponse, author: AuthorsMethod
) -> None:
    """Assert that flags and exclusiveness are what root reads, after the disclosure rule."""
    masks = response.masks
    frames = author.read_frames(pages[0].pid, pages[0].address, len(pages))
    for number, frame in enumerate(frames):
        told = response.kpageflags[number]
        assert (frame.kpageflags is None) == (not frame.entry & PAGEMAP_PRESENT)
        due = (
            disclose(
                frame.entry, frame.kpageflags, masks.private_flags_mask, masks.shared_flags_mask
            )
            if frame.kpageflags is not None
            else 0
        )
        assert told & ~VOLATILE_FLAGS == due & ~VOLATILE_FLAGS, f"page {number}"
        hidden = ~(masks.private_flags_mask | masks.shared_flags_mask)
        assert told & hidden == 0, f"page {number}"
        exclusive = bool(response.attributes[number] & pageflags_pb2.PAGE_ATTRIBUTE_EXCLUSIVE)
        assert exclusive == bool(frame.entry & PAGEMAP_EXCLUSIVE), f"page {number}"
