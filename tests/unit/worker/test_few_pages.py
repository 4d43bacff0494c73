# SPDX-License-Identifier: Apache-2.0
"""Few pages are what many are: the same answer, or none where the other way has to decide."""

import os
from typing import Any

import numpy as np
import pytest
from cowdaemon.worker import few_pages
from cowdaemon.worker.disclosure import FULL, SAFE, DisclosureMasks
from cowdaemon.worker.features import KernelFeatures
from cowdaemon.worker.few_pages import DisclosedPages, read_few
from cowdaemon.worker.page_states import EntryLayout, Kpageflags
from cowdaemon.worker.reader import Reader, classify_readings
from hypothesis import given
from hypothesis import strategies as st
from unit.worker.served_process import (
    ENTRIES,
    EXCLUSIVE,
    FILE,
    FRAMES,
    PAGE,
    PRESENT,
    SOFT_DIRTY,
    SWAPPED,
    MakeFile,
)

LAYOUT = EntryLayout(31, has_soft_dirty=True)
WITHOUT_SOFT_DIRTY = EntryLayout(31)
UFFD_WP, GUARD = 1 << 57, 1 << 58
FLAGS = st.lists(st.sampled_from(list(Kpageflags))).map(lambda bits: sum(set(bits)))
BITS = st.lists(
    st.sampled_from([PRESENT, SWAPPED, FILE, EXCLUSIVE, SOFT_DIRTY, UFFD_WP, GUARD])
).map(lambda bits: sum(set(bits)))


def make_words(words: list[int]) -> int:
    """Return the descriptor of a file of words."""
    descriptor = os.memfd_create("words")
    os.pwrite(descriptor, np.array(words, np.uint64).tobytes(), 0)
    return descriptor


def read_as_many(
    kpageflags: int, pagemap: int, count: int, layout: EntryLayout, masks: DisclosureMasks
) -> DisclosedPages:
    reader = Reader(kpageflags, KernelFeatures(layout, False, False))
    readings = reader.read(pagemap, 0, count)
    states, attributes = classify_readings(readings, layout)
    shown = masks.apply(readings.entries, readings.flags)
    return DisclosedPages(shown.astype("<u8").tobytes(), states.tobytes(), attributes.tobytes())


@given(
    st.lists(st.tuples(BITS, FLAGS), min_size=1, max_size=4),
    st.sampled_from([LAYOUT, WITHOUT_SOFT_DIRTY]),
    st.sampled_from([SAFE, FULL]),
)
def test_few_are_what_many_are(
    pages: list[tuple[int, int]], layout: EntryLayout, masks: DisclosureMasks
) -> None:
    entries = [bits | number for number, (bits, _) in enumerate(pages)]
    kpageflags, pagemap = make_words([flags for _, flags in pages]), make_words(entries)
    try:
        few = read_few(kpageflags, pagemap, 0, len(pages), layout, masks)
        if few:
            assert few == read_as_many(kpageflags, pagemap, len(pages), layout, masks)
    finally:
        os.close(kpageflags)
        os.close(pagemap)


@pytest.fixture
def kpageflags(make_file: MakeFile) -> int:
    return make_file(np.array(FRAMES, np.uint64).tobytes())


@pytest.fixture
def pagemap(make_file: MakeFile) -> int:
    return make_file(np.array(ENTRIES, np.uint64).tobytes())


@pytest.mark.parametrize("masks", [SAFE, FULL])
@pytest.mark.parametrize("layout", [LAYOUT, WITHOUT_SOFT_DIRTY])
def test_ordinary_pages_are_told(
    kpageflags: int, pagemap: int, layout: EntryLayout, masks: DisclosureMasks
) -> None:
    """An absent page, anonymous ones, a file's, and the page of zeros."""
    few = read_few(kpageflags, pagemap, 0, 5, layout, masks)
    assert few == read_as_many(kpageflags, pagemap, 5, layout, masks)


def test_range_starts_at_its_address(kpageflags: int, pagemap: int) -> None:
    whole = read_few(kpageflags, pagemap, 0, 5, LAYOUT, SAFE)
    part = read_few(kpageflags, pagemap, 2 * PAGE, 2, LAYOUT, SAFE)
    assert whole
    assert part == (whole.flags[16:32], whole.states[2:4], whole.attributes[2:4])


def test_frame_past_the_last_has_no_flags(kpageflags: int, make_file: MakeFile) -> None:
    pagemap = make_file(np.array([PRESENT | FILE | 1000], np.uint64).tobytes())
    few = read_few(kpageflags, pagemap, 0, 1, LAYOUT, SAFE)
    assert few == read_as_many(kpageflags, pagemap, 1, LAYOUT, SAFE)


@pytest.mark.parametrize(
    "entry", [SWAPPED | 1, SWAPPED | 4 << 5 | 31, PRESENT | 2], ids=["swapped", "marker", "odd"]
)
def test_what_takes_another_look_is_left(kpageflags: int, make_file: MakeFile, entry: int) -> None:
    pagemap = make_file(np.array([PRESENT | 1, entry], np.uint64).tobytes())
    assert read_few(kpageflags, pagemap, 0, 1, LAYOUT, SAFE)
    assert read_few(kpageflags, pagemap, 0, 2, LAYOUT, SAFE) is None


def test_range_that_pagemap_ends_in_is_left(kpageflags: int, pagemap: int) -> None:
    assert read_few(kpageflags, pagemap, 4 * PAGE, 4, LAYOUT, SAFE) is None


def test_page_that_changes_meanwhile_is_left(
    kpageflags: int, pagemap: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its frame may have become another page's. Seen to fail without the second read."""
    read_flags = few_pages._read_flags

    def change(*args: Any) -> int:
        os.pwrite(pagemap, np.array([PRESENT | 3], np.uint64).tobytes(), 8)
        return read_flags(*args)

    monkeypatch.setattr(few_pages, "_read_flags", change)
    assert read_few(kpageflags, pagemap, 0, 2, LAYOUT, SAFE) is None
