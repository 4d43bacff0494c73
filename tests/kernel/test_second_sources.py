# SPDX-License-Identifier: Apache-2.0
"""Every kind of page, and whatever else its process maps, against what others say of it.

The sources: a slow reader that root runs page by page (harness/reference.py), the ioctl
PAGEMAP_SCAN, asked by the process about itself, and the sums of /proc/PID/smaps. Where a source
means something else by its words, the rule is written here with its reason.
"""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest
from cowproto.v1 import pageflags_pb2
from harness.author import AuthorsMethod
from harness.kernel_flags import mask_flags
from harness.programs import PAGE_BYTES, Caller, StartSubject, iter_stretches, parse_pages
from harness.reference import Reference
from harness.states import VSYSCALL, Answer, ask, iter_ranges, read_smaps, read_smaps_rollup

# Categories of PAGEMAP_SCAN, linux/fs.h.
FILE, PRESENT, SWAPPED, PFNZERO, GUARD = 4, 8, 16, 32, 256
SCANNED = {
    "ABSENT": 0,
    "FILE": PRESENT | FILE,
    "ANON": PRESENT,
    "ANON_SWAPPED": SWAPPED,
    "ZERO": PRESENT | PFNZERO,
    "GUARD": SWAPPED | GUARD,
}


def test_reference_reader(
    kind: tuple[str, ...], nobody: Caller, start_subject: StartSubject, reference: Reference
) -> None:
    """State and attributes of every page of the whole process."""
    subject = start_subject(*kind)
    pages = parse_pages(subject.description)
    made = {(page.pid, page.address) for page in pages}
    with subject.stopped():
        for pid in {page.pid for page in pages}:
            for mapping in nobody.list_mappings(pid):
                if mapping.path == VSYSCALL:
                    continue
                for address, count in iter_ranges(mapping):
                    told = ask(nobody, pid, address, count)
                    read = reference.read_pages(pid, address, count)
                    for number, (one, other) in enumerate(zip(told, read, strict=True)):
                        place = (pid, address + number * PAGE_BYTES)
                        assert one.state == other.state, (mapping, number)
                        # Programs and libraries are mapped by others, who come and go.
                        others = {"EXCLUSIVE"} if one.state == "FILE" and place not in made else {}
                        assert one.attributes.difference(others) == other.attributes.difference(
                            others
                        ), (mapping, number)


def test_pagemap_scan(kind: tuple[str, ...], nobody: Caller, start_subject: StartSubject) -> None:
    """What the kernel tells the process itself of the pages that were made."""
    subject = start_subject(*kind)
    stretches = [
        stretch
        for stretch in iter_stretches(parse_pages(subject.description))
        if stretch[0].pid == subject.pid
    ]
    for stretch in stretches:
        subject.write({"scan": [stretch[0].address, len(stretch)]})
        scanned = subject.read()
        if "unavailable" in scanned:
            pytest.skip(scanned["unavailable"])
        told = ask(nobody, subject.pid, stretch[0].address, len(stretch))
        due = [
            # The ioctl calls all swapped that is neither present nor empty, and so what stands in
            # the page table for no page, too (pagemap_page_category, fs/proc/task_mmu.c).
            SCANNED[page.state] | made.marker * SWAPPED
            for page, made in zip(told, stretch, strict=True)
        ]
        assert scanned["scan"] == due


class Sums(NamedTuple):
    """What smaps says of mappings, in pages; the names are its own."""

    resident: int
    anonymous: int
    swap: int
    lazyfree: int
    hugetlb: int


def test_smaps(kind: tuple[str, ...], nobody: Caller, start_subject: StartSubject) -> None:
    """The sums over each mapping of the process, and over all of them."""
    subject = start_subject(*kind)
    with subject.stopped():
        smaps, rollup = read_smaps(subject.pid), read_smaps_rollup(subject.pid)
        totals = []
        for mapping in nobody.list_mappings(subject.pid):
            fields = smaps[mapping.start_address]
            if mapping.path == VSYSCALL:
                assert not any(find_sums(fields))
                continue
            pages = [
                page
                for address, count in iter_ranges(mapping)
                for page in ask(nobody, subject.pid, address, count)
            ]
            due = add_up(pages, mapping, fields)
            assert find_sums(fields) == due, mapping
            totals.append(due)
    assert find_sums(rollup) == tuple(map(sum, zip(*totals, strict=True)))


def find_sums(fields: dict[str, int]) -> Sums:
    """Return the sums that a section of smaps has."""
    hugetlb = fields["Shared_Hugetlb"] + fields["Private_Hugetlb"]
    sizes = (fields["Rss"], fields["Anonymous"], fields["Swap"], fields["LazyFree"], hugetlb)
    return Sums(*(size // PAGE_BYTES for size in sizes))


def add_up(pages: list[Answer], mapping: pageflags_pb2.Mapping, fields: dict[str, int]) -> Sums:
    """Return the sums that the daemon's answer about one mapping amounts to."""
    states = Counter(page.state for page in pages)
    lazyfree = sum("LAZYFREE" in page.attributes for page in pages)
    swapped = states["ANON_SWAPPED"]
    present = states["ANON"] + states["FILE"]  # zeros are nobody's memory: they count nowhere
    if fields["MMUPageSize"] > PAGE_BYTES:
        # What an administrator set aside does not count as the process's memory
        # (Documentation/filesystems/proc.rst).
        return Sums(0, 0, swapped, 0, present)
    if mapping.kind == pageflags_pb2.MAPPING_KIND_SHARED_FILE:
        # smaps adds what of the file is paged out (shmem_swap_usage); the page table, and so
        # pagemap, has nothing where such a page was.
        assert swapped == 0
        assert fields["Swap"] // PAGE_BYTES <= states["ABSENT"]
        swapped = fields["Swap"] // PAGE_BYTES
    return Sums(present, states["ANON"], swapped, lazyfree, 0)


def test_memory_that_is_paged_out_of_a_file_is_no_copy(
    nobody: Caller,
    start_subject: StartSubject,
    swap_space: None,  # noqa: ARG001
) -> None:
    """smaps counts shared memory that is paged out, and so shows that it is."""
    subject = start_subject("swapped-shared")
    pages = parse_pages(subject.description)
    assert read_smaps(subject.pid)[pages[0].address]["Swap"] == len(pages) * PAGE_BYTES
    told = ask(nobody, subject.pid, pages[0].address, len(pages))
    assert {page.state for page in told} == {"ABSENT"}


def test_page_that_was_taken_back_after_it_was_given_up(
    nobody: Caller, start_subject: StartSubject
) -> None:
    """Written again after MADV_FREE it stays as it is: only its entry in the page table is dirty.

    smaps looks there; pagemap does not tell, and the flags of the frame do not change before the
    kernel looks for memory to reclaim. So the attribute says "was given up", and no more.
    """
    subject = start_subject("taken-back")
    (page,) = parse_pages(subject.description)
    fields = read_smaps(subject.pid)[page.address]
    assert (fields["LazyFree"], fields["Anonymous"]) == (0, PAGE_BYTES)
    (told,) = ask(nobody, subject.pid, page.address, 1)
    assert told.state == "ANON"
    assert "LAZYFREE" in told.attributes


def test_private_dirty_is_not_what_is_copied(
    nobody: Caller, start_subject: StartSubject, public_directory: Path
) -> None:
    """A file that was just written is dirty in memory: that makes no page a copy."""
    subject = start_subject("fresh", public_directory)
    pages = parse_pages(subject.description)
    fields = read_smaps(subject.pid)[pages[0].address]
    told = ask(nobody, subject.pid, pages[0].address, len(pages))
    copies = sum(page.state == "ANON" for page in told)
    assert copies == sum(page.copied is True for page in pages) == 16
    assert fields["Anonymous"] == copies * PAGE_BYTES
    assert fields["Private_Dirty"] == len(pages) * PAGE_BYTES


@pytest.fixture(params=["public_directory", "huge_tmpfs_directory"])
def place(request: pytest.FixtureRequest) -> Path:
    """Return a directory of a file system that may keep its files in large pieces."""
    directory: Path = request.getfixturevalue(request.param)
    return directory


def test_page_cache_in_large_pieces_is_no_huge_page(
    place: Path,
    nobody: Caller,
    start_subject: StartSubject,
    author: AuthorsMethod,
) -> None:
    """Root sees the flag "thp" on pages of a file. It is not told, and no page is a copy for it."""
    subject = start_subject("large-folio", place)
    pages = parse_pages(subject.description)
    frames = author.read_frames(subject.pid, pages[0].address, len(pages))
    told = ask(nobody, subject.pid, pages[0].address, len(pages))
    thp, anonymous = mask_flags("thp"), mask_flags("anonymous")
    large = [
        page
        for page, frame in zip(told, frames, strict=True)
        if frame.kpageflags is not None and frame.kpageflags & (thp | anonymous) == thp
    ]
    if not large:
        pytest.skip("this file system keeps its files in single pages")
    assert {page.state for page in large} == {"FILE"}
    assert not any(page.kpageflags & thp for page in large)
