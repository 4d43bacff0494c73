# SPDX-License-Identifier: Apache-2.0
"""ComparePages of real processes, mostly a parent and its fork: by construction, and by frames.

test_random_pages.py compares random ones in the same way.
"""

import os
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest
from harness.comparisons import (
    Compared,
    Range,
    compare_by_frames,
    compare_in_all_ways,
    compare_pages,
)
from harness.programs import PAGE_BYTES, Caller, StartSubject, parse_pages
from harness.puppets import Puppet
from harness.reference import Reference
from harness.states import VSYSCALL

PAGES = 10
PAGE_OUTS = 100
"""How often the kernel is asked to page out, at most: it need not at once."""
RANGES_AT_ONCE = 200
RESTLESS_STEPS = 10
STEP_PAGES, RESTLESS_PAGES = 8_000, 16
"""As in kinds/restless.py."""
COMPARISONS = 6
SHUFFLES = 12
MOST_UNKNOWN = 0.01
FORKED = {
    "fork": None,
    "fork-parent": None,
    "fork-merged": "merging",
    "thp-forked": None,
    "thp-forked-parent": None,
    "hugetlb-fork": "hugetlb",
}
"""Kinds of subjects.py whose pages are in two processes, with the fixture that they need."""

STEPS = [
    ("store", 0, 7),
    ("load", 7, 3),
    ("fork", 0, 1),
    ("child-load", 7, 3),
    ("child-store", 1, 1),
    ("store", 2, 1),
    ("child-store", 3, 1),
    ("store", 3, 1),
    ("child-drop", 4, 1),
    ("drop", 5, 1),
    ("child-drop", 6, 1),
    ("drop", 6, 1),
    ("child-store", 8, 1),
    ("store", 9, 1),
]
"""What is done before a fork, and then by either side."""
SHARED = Compared("SAME", "ANON", "ANON")
OF_ANONYMOUS = [
    SHARED,
    Compared("DIFFERENT", "ANON", "ANON", "SECOND"),
    Compared("DIFFERENT", "ANON", "ANON", "FIRST"),
    Compared("DIFFERENT", "ANON", "ANON", "BOTH"),
    Compared("ONLY_FIRST", "ANON", "ABSENT"),
    Compared("ONLY_SECOND", "ABSENT", "ANON"),
    Compared("NEITHER", "ABSENT", "ABSENT"),
    Compared("NEITHER", "ZERO", "ZERO"),
    Compared("ONLY_SECOND", "ZERO", "ANON"),
    Compared("ONLY_FIRST", "ANON", "ZERO"),
]
OF_FILES = [
    *OF_ANONYMOUS[:7],
    Compared("SAME", "FILE", "FILE"),
    Compared("DIFFERENT", "FILE", "ANON", "SECOND"),
    Compared("DIFFERENT", "ANON", "FILE", "FIRST"),
]
PLACES = {
    "anonymous": (None, OF_ANONYMOUS),
    "disk": ("public_directory", OF_FILES),
    "tmpfs": ("tmpfs_directory", OF_FILES),
    "memfd": (None, OF_FILES),
}


@contextmanager
def stopped(*pids: int) -> Iterator[None]:
    """Have processes hold still; those that are nobody's child of ours as well."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
        while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
            os.sched_yield()
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def play(puppet: Puppet, steps: Sequence[tuple[str, int, int]]) -> int:
    """Have the puppet take all steps, and return the pid of its fork."""
    child = 0
    for action, first, count in steps:
        done = puppet.do(action, first, count)
        assert done, action
        child = done if action == "fork" else child
    return child


@pytest.mark.parametrize("place", PLACES)
def test_what_either_side_of_a_fork_did(
    place: str,
    request: pytest.FixtureRequest,
    puppet: Puppet,
    nobody: Caller,
    reference: Reference,
) -> None:
    """Each alone, both, and none of them.

    Seen to fail with the flags of the two exchanged, with their states exchanged, and with the page
    of zeros taken for a page.
    """
    fixture, due = PLACES[place]
    directory = str(request.getfixturevalue(fixture)) if fixture else None
    mapped = puppet.map_pages("memfd" if place == "memfd" else directory, PAGES)
    child = play(puppet, STEPS)
    wanted = (mapped.address, PAGES)
    with stopped(mapped.pid, child):
        assert compare_in_all_ways(nobody, mapped.pid, child, [wanted]) == due
        assert compare_by_frames(reference, mapped.pid, child, *wanted) == due
        exchanged = compare_in_all_ways(nobody, child, mapped.pid, [wanted])
        assert exchanged == compare_by_frames(reference, child, mapped.pid, *wanted)


def test_shared_memory_is_the_same_until_it_is_dropped(
    puppet: Puppet, nobody: Caller, public_directory: Path
) -> None:
    """Whoever writes to it."""
    mapped = puppet.map_pages(str(public_directory), 3, private=False)
    steps = [("store", 0, 3), ("fork", 0, 1), ("child-load", 0, 3), ("child-store", 1, 1)]
    child = play(puppet, [*steps, ("child-drop", 2, 1)])
    same = Compared("SAME", "FILE", "FILE")
    due = [same, same, Compared("ONLY_FIRST", "FILE", "ABSENT")]
    assert compare_in_all_ways(nobody, mapped.pid, child, [(mapped.address, 3)]) == due


def test_guards_are_no_pages(puppet: Puppet, nobody: Caller) -> None:
    mapped = puppet.map_pages(None, 3)
    child = play(puppet, [("store", 0, 3), ("fork", 0, 1)])
    if not puppet.do("guard", 1, 2):
        pytest.skip("no guard regions here (anonymous 6.13)")
    play(puppet, [("child-guard", 2, 1)])
    assert compare_in_all_ways(nobody, mapped.pid, child, [(mapped.address, 3)]) == [
        SHARED,
        Compared("ONLY_SECOND", "GUARD", "ANON"),
        Compared("NEITHER", "GUARD", "GUARD"),
    ]


def test_pages_that_are_swapped_out(
    puppet: Puppet,
    nobody: Caller,
    reference: Reference,
    swap_space: None,  # noqa: ARG001
) -> None:
    """Both have one swap entry; a page that was read back may be the other's, or is a copy.

    Seen to fail with swap entries taken for none, and without the look at the swap cache.
    """
    mapped = puppet.map_pages(None, 4)
    wanted = (mapped.address, 4)
    puppet.do("store", 0, 4)
    for _ in range(PAGE_OUTS):
        puppet.do("page_out", 0, 4)
        if {page.state for page in reference.read_pages(mapped.pid, *wanted)} == {"ANON_SWAPPED"}:
            break
    else:
        pytest.skip("the kernel does not page out")
    child = play(
        puppet, [("fork", 0, 1), ("child-load", 1, 1), ("child-store", 2, 1), ("child-drop", 3, 1)]
    )
    told = compare_in_all_ways(nobody, mapped.pid, child, [wanted])
    assert told == compare_by_frames(reference, mapped.pid, child, *wanted)
    assert told[0] == Compared("SAME", "ANON_SWAPPED", "ANON_SWAPPED")
    assert told[1][:2] == ("UNKNOWN", "ANON_SWAPPED")
    assert told[2] == Compared("DIFFERENT", "ANON_SWAPPED", "ANON")
    assert told[3] == Compared("ONLY_FIRST", "ANON_SWAPPED", "ABSENT")


def test_page_that_others_share_may_be_what_was_swapped_out(
    puppet: Puppet,
    nobody: Caller,
    reference: Reference,
    swap_space: None,  # noqa: ARG001
) -> None:
    """Whether the swap cache has it they would move. Seen to fail with that told of any page."""
    mapped = puppet.map_pages(None, 1)
    wanted = (mapped.address, 1)
    puppet.do("store", 0, 1)
    for _ in range(PAGE_OUTS):
        puppet.do("page_out", 0, 1)
        if reference.read_pages(mapped.pid, *wanted)[0].state == "ANON_SWAPPED":
            break
    else:
        pytest.skip("the kernel does not page out")
    child = play(puppet, [("fork", 0, 1), ("store", 0, 1)])
    alone = compare_in_all_ways(nobody, mapped.pid, child, [wanted])
    assert alone == [Compared("DIFFERENT", "ANON", "ANON_SWAPPED")]
    puppet.do("fork", 0, 1)
    told = compare_in_all_ways(nobody, mapped.pid, child, [wanted])
    assert told == [Compared("UNKNOWN", "ANON", "ANON_SWAPPED")]
    assert told == compare_by_frames(reference, mapped.pid, child, *wanted)


@pytest.mark.parametrize("kind", FORKED)
def test_kinds_of_pages_that_a_fork_has(
    kind: str,
    request: pytest.FixtureRequest,
    nobody: Caller,
    reference: Reference,
    start_subject: StartSubject,
) -> None:
    """Huge pages, hugetlb's and merged ones: as their frames are. Merged ones are the same.

    Seen to fail with large folios told by their head's flag.
    """
    fixture = FORKED[kind]
    value = request.getfixturevalue(fixture) if fixture else None
    subject = start_subject(kind, *([value] if isinstance(value, Path) else []))
    pages = parse_pages(subject.description)
    [child] = {page.pid for page in pages} - {subject.pid}
    wanted = (subject.address, len(pages) // 2)
    with stopped(subject.pid, child):
        told = compare_in_all_ways(nobody, subject.pid, child, [wanted])
        assert told == compare_by_frames(reference, subject.pid, child, *wanted)
    seen = Counter(page.comparison for page in told)
    assert seen["DIFFERENT"] == {"fork-merged": 0, "hugetlb-fork": 512}.get(kind, 1)
    assert seen["SAME"] == len(told) - seen["DIFFERENT"]
    copiers = {page.copied_by for page in told if page.comparison == "DIFFERENT"}
    if kind != "fork-merged":
        assert copiers == {"FIRST" if kind.endswith("-parent") else "SECOND"}


def list_ranges(caller: Caller, *pids: int) -> list[Range]:
    """Return all that any of the processes has mapped, cut at the borders of all."""
    mappings = [
        mapping for pid in pids for mapping in caller.list_mappings(pid) if mapping.path != VSYSCALL
    ]
    borders = sorted(
        {border for each in mappings for border in (each.start_address, each.end_address)}
    )
    return [
        (start, (end - start) // PAGE_BYTES)
        for start, end in pairwise(borders)
        if any(each.start_address <= start < each.end_address for each in mappings)
    ]


def test_ranges_in_any_order_are_told_of_alike(puppet: Puppet, nobody: Caller) -> None:
    """Of two interpreters, which map files side by side with memory of their own.

    Seen to fail with the ranges taken to ascend, where anonymous memory is looked for: pages of
    files were zeros.
    """
    puppet.map_pages(None, PAGES)
    child = play(puppet, [("store", 0, PAGES), ("fork", 0, 1)])
    with stopped(puppet.pid, child):
        ranges = list_ranges(nobody, puppet.pid, child)[:RANGES_AT_ONCE]
        due = {
            wanted: compare_in_all_ways(nobody, puppet.pid, child, [wanted]) for wanted in ranges
        }
        for step in range(2, SHUFFLES):
            asked = [*ranges[::step], *ranges[1::step], *ranges[step:]][:RANGES_AT_ONCE]
            told = compare_in_all_ways(nobody, puppet.pid, child, asked)
            assert told == [page for wanted in asked for page in due[wanted]]


def test_whole_processes_agree_with_their_frames_page_for_page(
    puppet: Puppet, nobody: Caller, reference: Reference
) -> None:
    """Parent and child, an interpreter each; and totals are what the lists count.

    Seen to fail with the flags of the two exchanged, and with their states.
    """
    puppet.map_pages(None, PAGES)
    child = play(puppet, STEPS)
    with stopped(puppet.pid, child):
        ranges = list_ranges(nobody, puppet.pid, child)
        seen = Counter[Compared]()
        for start in range(0, len(ranges), RANGES_AT_ONCE):
            part = ranges[start : start + RANGES_AT_ONCE]
            told = compare_in_all_ways(nobody, puppet.pid, child, part)
            due = [
                page
                for wanted in part
                for page in compare_by_frames(reference, puppet.pid, child, *wanted)
            ]
            assert told == due
            seen.update(told)
    names = {page.comparison for page in seen}
    assert names >= {"SAME", "DIFFERENT", "ONLY_FIRST", "ONLY_SECOND", "NEITHER"}


def test_strangers_share_pages_of_files_alone(
    nobody: Caller, reference: Reference, start_subject: StartSubject
) -> None:
    """Two interpreters that have nothing to do with each other, at the addresses of the first."""
    first, second = start_subject("anonymous"), start_subject("anonymous")
    with first.stopped(), second.stopped():
        for start, count in list_ranges(nobody, first.pid):
            told = compare_in_all_ways(nobody, first.pid, second.pid, [(start, count)])
            assert told == compare_by_frames(reference, first.pid, second.pid, start, count)
            assert all(page.state == "FILE" for page in told if page.comparison == "SAME")


def test_pages_that_stay_are_right_beside_those_that_do_not(
    nobody: Caller, start_subject: StartSubject
) -> None:
    """While one process writes, drops, unmaps, maps and forks.

    Seen to fail with the flags of the two exchanged. What moves is looked at by
    tests/unit/worker/test_comparison_stream.py: here it seldom moves between two looks.
    """
    subject = start_subject("restless-fork", RESTLESS_STEPS)
    child, count = subject.description["child"], subject.description["count"]
    due = [
        SHARED,
        Compared("DIFFERENT", "ANON", "ANON", "SECOND"),
        Compared("NEITHER", "ZERO", "ZERO"),
        Compared("NEITHER", "ABSENT", "ABSENT"),
    ]
    unknown = 0
    restless: Counter[str] = Counter()
    for _ in range(COMPARISONS):
        told = compare_pages(nobody, subject.pid, child, [(subject.address, count)])
        for number, page in enumerate(told):
            if number % STEP_PAGES >= STEP_PAGES - RESTLESS_PAGES:
                assert page.comparison != "SAME" or page.state == "ANON"
                restless[page.comparison] += 1
            elif page.comparison == "UNKNOWN":
                unknown += 1
            else:
                assert page == due[number % 4], number
    assert unknown <= MOST_UNKNOWN * COMPARISONS * count
    assert restless["DIFFERENT"]
