# SPDX-License-Identifier: Apache-2.0
"""What the daemon found that the kernel can tell, against what programs find by using it.

The daemon tries everything once, as it starts, and depends on what it found. Kernels that tell the
same page in another way are older than the one that runs: their entries are made of real ones.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cowdaemon.worker import features
from cowdaemon.worker.features import probe_features
from cowdaemon.worker.page_states import Attribute, EntryLayout, PageState, Words, classify
from harness.author import AuthorsMethod
from harness.programs import NOBODY, Caller, Page, StartSubject, Subject, parse_pages
from harness.puppets import Puppet

MADV_WITHOUT_MEANING = 12_345
SOFT_DIRTY = 1 << 55
UFFD_WP = np.uint64(1 << 57)
GUARD = np.uint64(1 << 58)


def can_make(kind: str) -> bool:
    """Return whether a program of a user can have pages of this kind here."""
    subject = Subject(NOBODY, kind)
    subject.close()
    return subject.unavailable is None


def test_guard_regions_and_markers(nobody: Caller) -> None:
    """Where a program gets them, the daemon knows them."""
    told = nobody.get_server_info().kernel_features
    guards, markers = can_make("guard"), can_make("uffd-file")
    assert told.guard_regions == guards
    assert told.markers == (guards or markers)


def test_pagemap_scan(nobody: Caller, start_subject: StartSubject) -> None:
    """Where a program can use the ioctl, the daemon says that it is there."""
    subject = start_subject("anonymous")
    (page, *_) = parse_pages(subject.description)
    subject.write({"scan": [page.address, 1]})
    assert nobody.get_server_info().kernel_features.pagemap_scan == ("scan" in subject.read())


def test_soft_dirty(nobody: Caller, puppet: Puppet, author: AuthorsMethod) -> None:
    """Where it is cleared and set again by a write. Elsewhere clearing it succeeds all the same."""
    mapped = puppet.map_pages(None, 1)
    seen = []
    puppet.do("store", 0, 1)
    Path(f"/proc/{mapped.pid}/clear_refs").write_text("4")
    for action in ("load", "store"):
        puppet.do(action, 0, 1)
        (frame,) = author.read_frames(mapped.pid, mapped.address, 1)
        seen.append(bool(frame.entry & SOFT_DIRTY))
    puppet.clear()
    assert nobody.get_server_info().kernel_features.soft_dirty == (seen == [False, True])


def read_live_entries(author: AuthorsMethod, pages: list[Page]) -> Words:
    """Return the pagemap entries of pages that follow each other."""
    frames = author.read_frames(pages[0].pid, pages[0].address, len(pages))
    return np.array([frame.entry for frame in frames], np.uint64)


@pytest.fixture
def guards(start_subject: StartSubject, author: AuthorsMethod) -> Words:
    """Return the entries of two guards."""
    pages = parse_pages(start_subject("guard").description)
    return read_live_entries(author, [page for page in pages if page.states == ("GUARD",)])


def name_states(entries: Words, layout: EntryLayout) -> set[str]:
    """Return what the daemon takes entries without a page for."""
    states, _ = classify(entries, np.zeros(len(entries), np.uint64), layout)
    return {PageState(state).name for state in states}


def test_guard_without_its_own_bit(guards: Words) -> None:
    """As on 6.13 and 6.14: by the swap type of markers, and by the marker's offset."""
    layout = probe_features().layout
    assert layout.marker_type is not None
    assert name_states(guards & ~GUARD, layout) == {"GUARD"}


def test_guard_where_markers_are_not_known(guards: Words) -> None:
    """By its own bit, since 6.15."""
    if not all(guards & GUARD):
        pytest.skip("the kernel has no bit for guard regions (it is in 6.15)")
    layout = replace(probe_features().layout, marker_type=None)
    assert name_states(guards, layout) == {"GUARD"}


def test_markers_where_there_are_no_guard_regions(
    guards: Words, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As before 6.13: userfaultfd shows how a marker looks, and it is how a guard's does."""
    monkeypatch.setattr(features, "_MADV_GUARD_INSTALL", MADV_WITHOUT_MEANING)
    found = probe_features()
    assert not found.has_guard_regions
    assert name_states(guards & ~GUARD, found.layout) == {"GUARD"}


def test_marker_of_userfaultfd_without_its_own_bit(
    start_subject: StartSubject, author: AuthorsMethod
) -> None:
    """The marker itself says that it stands for write-protection; poison does not."""
    layout = probe_features().layout
    for kind, is_protected in (("uffd-file", True), ("uffd-poisoned", False)):
        pages = parse_pages(start_subject(kind).description)
        for marker in filter(lambda page: page.marker, pages):
            entries = read_live_entries(author, [marker]) & ~UFFD_WP
            states, attributes = classify(entries, np.zeros(1, np.uint64), layout)
            assert states.tolist() == [PageState.ABSENT]
            assert attributes.tolist() == [Attribute.UFFD_WP if is_protected else 0]
