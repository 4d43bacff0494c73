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
from harness.states import name_attributes

COPIED_STATES = {"ANON", "ANON_SWAPPED"}


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
        verify_mapping(stretch, caller.list_mappings(pid))
        verify_construction(stretch, response)
        verify_author(stretch, response, author)


def verify_mapping(pages: list[Page], mappings: list[pageflags_pb2.Mapping]) -> None:
    """Assert that all of `pages` are in mappings of the kind that they were made in."""
    reached, end = pages[0].address, pages[-1].address + PAGE_BYTES
    for mapping in mappings:
        if mapping.start_address <= reached < min(end, mapping.end_address):
            name = pageflags_pb2.MappingKind.Name(mapping.kind).removeprefix("MAPPING_KIND_")
            assert name == pages[0].mapping, mapping
            reached = mapping.end_address
    assert reached >= end, f"no mapping at {reached:#x}"


def verify_construction(pages: list[Page], response: pageflags_pb2.GetPageFlagsResponse) -> None:
    """Assert that each page is what it was made to be."""
    for number, page in enumerate(pages):
        state = pageflags_pb2.PageState.Name(response.state[number]).removeprefix("PAGE_STATE_")
        flags = name_flags(response.kpageflags[number])
        attributes = name_attributes(response.attributes[number])
        seen = f"page {number}: {state} {sorted(flags)} {sorted(attributes)}"
        assert state in page.states, seen
        private_file = page.mapping == "PRIVATE_FILE"
        assert (state in COPIED_STATES if private_file else None) is page.copied, seen
        assert attributes >= page.attributes_set, seen
        assert not attributes & page.attributes_clear, seen
        if response.kpageflags[number]:
            assert flags >= page.flags_set, seen
            assert not flags & page.flags_clear, seen
        else:
            assert state in {"ABSENT", "ANON_SWAPPED", "GUARD"}, seen


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
