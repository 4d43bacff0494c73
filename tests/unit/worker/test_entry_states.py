# SPDX-License-Identifier: Apache-2.0
"""States from entries alone, against the truth table over made-up entries and frames.

A machine is made up whose frames agree with the entries, as the kernel's do: which of them is told
by an entry alone, and which needs flags, must not show.
"""

from typing import Final, NamedTuple

import numpy as np
import pytest
from cowdaemon.worker.entry_states import classify_entries
from cowdaemon.worker.page_states import (
    EntryLayout,
    Kpageflags,
    PageState,
    classify,
    is_contradictory,
)
from cowdaemon.worker.pagemap import NO_STRETCHES
from hypothesis import example, given
from hypothesis import strategies as st

PRESENT, SWAPPED, FILE, GUARD, UFFD_WP = 1 << 63, 1 << 62, 1 << 61, 1 << 58, 1 << 57
EXCLUSIVE, SOFT_DIRTY = 1 << 56, 1 << 55
MARKER_TYPE, HUGE_PAGES = 31, 8
ZERO_FRAMES = (5, 6)
HUGE_ZERO_FRAME = 16
"""The first of HUGE_PAGES."""
FIRST_PAGE = 8 * HUGE_PAGES
LAYOUT: Final = EntryLayout(MARKER_TYPE, zero_frames=ZERO_FRAMES, huge_page_pages=HUGE_PAGES)
UNPROBED: Final = EntryLayout(MARKER_TYPE, huge_page_pages=HUGE_PAGES)
ANON_FLAGS = Kpageflags.ANON | Kpageflags.MMAP
FILE_FLAGS = Kpageflags.MMAP | Kpageflags.LRU


class Page(NamedTuple):
    """An entry without its frame, what its frame is, and where it may be."""

    entry: int
    flags: int
    in_anonymous: bool = True
    elsewhere: bool = True


KINDS = {
    "absent": Page(0, 0),
    "absent and dirty": Page(SOFT_DIRTY, 0),
    "file": Page(PRESENT | FILE, FILE_FLAGS, in_anonymous=False),
    "file, alone": Page(PRESENT | FILE | EXCLUSIVE, FILE_FLAGS, in_anonymous=False),
    "anonymous, alone": Page(PRESENT | EXCLUSIVE, ANON_FLAGS),
    "anonymous, protected": Page(PRESENT | EXCLUSIVE | UFFD_WP, ANON_FLAGS),
    "anonymous, shared": Page(PRESENT, ANON_FLAGS),
    "a driver's": Page(PRESENT, FILE_FLAGS, in_anonymous=False),
    "zero": Page(PRESENT, Kpageflags.ZERO_PAGE),
    "swapped": Page(SWAPPED | 0x1234 << 5 | 1, 0),
    "migrating, file": Page(SWAPPED | FILE | 0x1234 << 5 | 29, 0, in_anonymous=False),
    "guard": Page(SWAPPED | GUARD | 4 << 5 | MARKER_TYPE, 0),
    "guard, no bit": Page(SWAPPED | 4 << 5 | MARKER_TYPE, 0),
    "guard, no entry": Page(GUARD, 0),
    "protected": Page(SWAPPED | 1 << 5 | MARKER_TYPE, 0, in_anonymous=False),
    "poisoned": Page(SWAPPED | 2 << 5 | MARKER_TYPE, 0),
    "no information": Page(PRESENT, 0, in_anonymous=False),
}
HUGE_ZEROS = {
    "huge zero": PRESENT | FILE,
    "huge zero, not said to be a file": PRESENT,
}


class Machine(NamedTuple):
    """Pages of a process and the frames of the machine, and which pages are anonymous memory."""

    entries: np.ndarray
    flags: np.ndarray
    """Of each page's frame."""
    heads: dict[int, int]
    stretches: np.ndarray
    anonymous: np.ndarray


@st.composite
def machines(draw: st.DrawFn) -> Machine:
    """Huge pages side by side, each of any pages, or of the huge page of zeros."""
    entries, flags, heads, anonymous = [], [], {}, []
    free = 64
    for block in range(draw(st.integers(1, 6))):
        first = FIRST_PAGE + block * HUGE_PAGES
        is_anonymous = draw(st.booleans())
        if is_anonymous:
            anonymous.append((first, first + HUGE_PAGES))
        if huge := draw(st.sampled_from([None, None, *HUGE_ZEROS.values()])):
            entries += [huge | HUGE_ZERO_FRAME + page for page in range(HUGE_PAGES)]
            flags += [Kpageflags.ZERO_PAGE | Kpageflags.THP] * HUGE_PAGES
            continue
        allowed = [kind for kind in KINDS.values() if kind.in_anonymous or not is_anonymous]
        moved = draw(st.integers(0, 1))  # else every page is where one of a huge page would be
        for page in range(HUGE_PAGES):
            kind = draw(st.sampled_from(allowed))
            frame = free + page + moved if kind.entry & PRESENT else 0
            if kind == KINDS["zero"]:
                frame = draw(st.sampled_from(ZERO_FRAMES))
            entries.append(kind.entry | frame)
            flags.append(int(kind.flags))
        free += 2 * HUGE_PAGES
    for head in range(0, free, HUGE_PAGES):
        heads[head] = Kpageflags.ZERO_PAGE if head == HUGE_ZERO_FRAME else FILE_FLAGS
    kept = sorted(draw(st.sets(st.integers(0, len(entries) - 1), min_size=1)))
    pages = np.array(kept) + FIRST_PAGE
    return Machine(
        np.array(entries, np.uint64)[kept],
        np.array(flags, np.uint64)[kept],
        heads,
        np.column_stack((pages, pages + 1)),
        np.array(anonymous, np.int64).reshape(-1, 2),
    )


def resolve(machine: Machine, layout: EntryLayout) -> tuple[np.ndarray, set[int]]:
    """Return the states, with what is in doubt looked up; and which places were."""
    states, doubts = classify_entries(machine.entries, machine.stretches, machine.anonymous, layout)
    states[doubts.pages], _ = classify(
        machine.entries[doubts.pages], machine.flags[doubts.pages], layout
    )
    for place, head in zip(doubts.huge.tolist(), doubts.heads.tolist(), strict=True):
        if machine.heads[head] & Kpageflags.ZERO_PAGE:
            states[place] = PageState.ZERO
    return states, set(doubts.pages.tolist())


@pytest.mark.parametrize("layout", [LAYOUT, UNPROBED])
@given(machine=machines())
def test_states_are_those_of_the_truth_table(layout: EntryLayout, machine: Machine) -> None:
    """Seen to fail with a rule left out: markers, pages of zeros, huge ones, anonymous memory.

    Where the frames of zeros are not known, more is looked up, and the same comes out.
    """
    due, _ = classify(machine.entries, machine.flags, layout)
    states, looked_up = resolve(machine, layout)
    assert [PageState(state).name for state in states] == [PageState(each).name for each in due]
    if layout is LAYOUT:
        for place in looked_up:
            entry = int(machine.entries[place])
            assert entry & PRESENT
            assert not entry & (EXCLUSIVE | FILE)


def classify_one(entry: int, page: int, anonymous: bool, layout: EntryLayout = LAYOUT) -> tuple:
    """Return the state of one page and how many were in doubt, by themselves and as huge ones."""
    stretch = np.array([[page, page + 1]])
    states, doubts = classify_entries(
        np.array([entry], np.uint64), stretch, stretch if anonymous else stretch[:0], layout
    )
    return PageState(states[0]).name, len(doubts.pages), len(doubts.huge)


@pytest.mark.parametrize(
    ("entry", "page", "anonymous", "due"),
    [
        (PRESENT | FILE | 33, 64, False, ("FILE", 0, 0)),
        (PRESENT | FILE | 32, 64, False, ("FILE", 0, 1)),
        (PRESENT | FILE | EXCLUSIVE | 32, 64, False, ("FILE", 0, 0)),
        (PRESENT | FILE | 32, 64, True, ("FILE", 0, 1)),
        (PRESENT | 33, 64, True, ("ANON", 0, 0)),
        (PRESENT | 33, 64, False, ("ANON", 1, 0)),
        (PRESENT | EXCLUSIVE | 33, 64, False, ("ANON", 0, 0)),
        (PRESENT | 5, 64, False, ("ZERO", 0, 0)),
        (PRESENT | 6, 64, True, ("ZERO", 0, 0)),
        (SWAPPED | 1, 64, False, ("ANON_SWAPPED", 0, 0)),
    ],
)
def test_little_is_looked_up(entry: int, page: int, anonymous: bool, due: tuple) -> None:
    """What is said before that, and how much is asked of kpageflags."""
    assert classify_one(entry, page, anonymous) == due


def test_file_that_was_mapped_after_the_listing_is_no_page_of_zeros() -> None:
    """Where its frames lie as those of the huge page of zeros would, its own flags decide.

    Seen to fail with such pages taken for zeros because of the mapping that was listed there.
    """
    entries = [PRESENT | FILE | 32 + page for page in range(HUGE_PAGES)]
    flags = np.full(HUGE_PAGES, int(FILE_FLAGS), np.uint64)
    stretch = np.array([[64, 64 + HUGE_PAGES]])
    machine = Machine(np.array(entries, np.uint64), flags, {32: FILE_FLAGS}, stretch, stretch)
    states, _ = resolve(machine, LAYOUT)
    assert set(states.tolist()) == {PageState.FILE}


def test_huge_page_of_zeros_is_no_single_page() -> None:
    """One whose frame lies as its would is looked up only if the page behind it is another such.

    Seen to fail with every one looked up.
    """
    entries = np.array([PRESENT | FILE | 40 - page for page in range(HUGE_PAGES)], np.uint64)
    stretch = np.array([[64, 64 + HUGE_PAGES]])
    _, doubts = classify_entries(entries, stretch, NO_STRETCHES, LAYOUT)
    assert not len(doubts.huge)


def test_huge_page_of_zeros_that_was_split_between_two_reads_is_looked_up() -> None:
    """Its last page before the border has none like it behind it. Seen to fail without the rule."""
    entries = np.full(HUGE_PAGES, PRESENT | FILE | ZERO_FRAMES[0], np.uint64)
    entries[:3] = [PRESENT | FILE | HUGE_ZERO_FRAME + page for page in range(3)]
    stretch = np.array([[64, 64 + HUGE_PAGES]])
    _, doubts = classify_entries(entries, stretch, stretch, LAYOUT)
    assert 2 in doubts.huge


@given(st.lists(st.integers(64, 127), min_size=1, max_size=20))
def test_pages_may_come_in_any_order_and_twice(pages: list[int]) -> None:
    """As the ranges of a comparison do. Seen to fail with pages taken to ascend."""
    anonymous = np.array([[70, 72], [80, 100], [120, 130]])
    entries = np.full(len(pages), PRESENT | 33, np.uint64)
    stretches = np.array([(page, page + 1) for page in pages])
    _, doubts = classify_entries(entries, stretches, anonymous, LAYOUT)
    outside = [
        place
        for place, page in enumerate(pages)
        if not any(first <= page < end for first, end in anonymous)
    ]
    assert doubts.pages.tolist() == outside


def test_machine_without_huge_pages_has_none_in_doubt() -> None:
    layout = EntryLayout(zero_frames=ZERO_FRAMES)
    assert classify_one(PRESENT | FILE | 64, 64, False, layout) == ("FILE", 0, 0)
    assert classify_one(PRESENT | FILE | 64, 64, True, layout) == ("FILE", 0, 0)


@example(entries=[PRESENT | FILE | EXCLUSIVE])
@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=40))
def test_entries_that_contradict_nothing_need_no_flags(entries: list[int]) -> None:
    """Any words: whatever is said at once is what any flags that agree with them would say."""
    words = np.array(entries, np.uint64)
    stretches = np.array([[1, 1 + len(words)]])
    states, doubts = classify_entries(words, stretches, stretches[:0], LAYOUT)
    said = np.ones(len(words), np.bool_)
    said[doubts.pages] = said[doubts.huge] = False
    said &= ~np.isin(words & np.uint64((1 << 55) - 1), np.array(ZERO_FRAMES, np.uint64))
    for flags in (ANON_FLAGS, FILE_FLAGS):
        agreeing = np.full(len(words), int(flags), np.uint64)
        due, _ = classify(words, agreeing, LAYOUT)
        agrees = ~is_contradictory(words, agreeing) & said
        assert states[agrees].tolist() == due[agrees].tolist()
