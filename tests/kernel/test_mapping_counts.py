# SPDX-License-Identifier: Apache-2.0
"""Counts of mappings' pages: against the answers about single pages, and the kernel's own sums."""

from collections import Counter

from cowproto.v1 import pageflags_pb2
from harness.programs import PAGE_BYTES, Caller, StartSubject, parse_pages
from harness.states import VSYSCALL, ask, iter_ranges, read_smaps

SUFFIX = "_page_count"


def name_counts(counts: pageflags_pb2.PageCounts) -> Counter[str]:
    """Return counts by the names of the states; what is 0 is left out."""
    return +Counter(
        {
            field.name.removesuffix(SUFFIX).upper(): getattr(counts, field.name)
            for field in counts.DESCRIPTOR.fields
        }
    )


def test_counts_are_the_sums_of_single_pages(
    kind: tuple[str, ...], nobody: Caller, start_subject: StartSubject
) -> None:
    """Mapping by mapping; and the same as without counts otherwise.

    Seen to fail with the counts of the next mapping, and with pages of zeros called anonymous.
    """
    subject = start_subject(*kind)
    with subject.stopped():
        for pid in {page.pid for page in parse_pages(subject.description)}:
            mappings = nobody.list_mappings(pid, with_page_counts=True)
            for mapping in mappings:
                size_pages = (mapping.end_address - mapping.start_address) // PAGE_BYTES
                if mapping.path == VSYSCALL:
                    due = Counter(UNKNOWN=size_pages)
                else:
                    due = Counter(
                        page.state
                        for address, count in iter_ranges(mapping)
                        for page in ask(nobody, pid, address, count)
                    )
                assert name_counts(mapping.page_counts) == due, mapping
                mapping.ClearField("page_counts")
            assert mappings == nobody.list_mappings(pid)


def test_counts_are_those_of_smaps(nobody: Caller, start_subject: StartSubject) -> None:
    """Of a whole process: smaps knows what is anonymous, and what is there."""
    subject = start_subject("anonymous")
    with subject.stopped():
        sections = read_smaps(subject.pid)
        for mapping in nobody.list_mappings(subject.pid, with_page_counts=True):
            fields, counts = sections[mapping.start_address], mapping.page_counts
            if mapping.path == VSYSCALL:
                continue
            assert counts.anon_page_count * PAGE_BYTES == fields["Anonymous"], mapping
            present = counts.anon_page_count + counts.file_page_count
            if mapping.kind != pageflags_pb2.MAPPING_KIND_SPECIAL:  # [vdso] counts as nothing
                assert present * PAGE_BYTES == fields["Rss"], mapping
            assert counts.anon_swapped_page_count * PAGE_BYTES == fields["Swap"], mapping
