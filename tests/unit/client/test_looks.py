# SPDX-License-Identifier: Apache-2.0
"""What changed from one look at a process's pages to the next: against a look page by page."""

from array import array
from mmap import PAGESIZE as PAGE

import pytest
from cowd import Mapping, MappingKind, PageChunk, PageState, is_copied
from cowd.cli.looks import Look, Stretch, count_copied, iter_changes, iter_stretches
from hypothesis import given
from hypothesis import strategies as st

STATES = {".": 1, "f": 2, "a": 3, "s": 4, "z": 5, "G": 6, "?": 7}
KINDS = {"p": MappingKind.PRIVATE_FILE, "h": MappingKind.ANONYMOUS, "s": MappingKind.SHARED_FILE}
PATHS = {"p": b"/words", "h": b"[heap]", "s": b"/dev/shm/x"}


def make_look(mappings, states):
    """Return a look: a character a page; " " in `mappings` where there is none."""
    listed, stretches = [], []
    for start, kind in enumerate(mappings):
        if listed and listed[-1].end_address == start * PAGE and listed[-1].path == PATHS.get(kind):
            listed[-1] = make_mapping(listed[-1].start_address // PAGE, start + 1, kind)
        elif kind != " ":
            listed.append(make_mapping(start, start + 1, kind))
    for page, state in enumerate(states):
        if state in ". " or mappings[page] == " ":
            continue
        start, found = page * PAGE, PageState(STATES[state])
        if stretches and stretches[-1][1:] == (start, found):
            start = stretches.pop().start
        stretches.append(Stretch(start, (page + 1) * PAGE, found))
    return Look(listed, stretches)


def make_mapping(first, end, kind):
    return Mapping(first * PAGE, end * PAGE, "rw-p", 0, PATHS[kind], KINDS[kind])


def make_chunk(first, states):
    """Return pages as a backend does; those that are "." are not listed, but " " are."""
    stretches, listed = [], ""
    for page, state in enumerate(states):
        if state == ".":
            continue
        if stretches and sum(stretches[-1]) == first + page:
            stretches[-1][1] += 1
        else:
            stretches.append([first + page, 1])
        listed += state
    values = bytes(STATES["." if state == " " else state] for state in listed)
    return PageChunk(
        pid=7,
        page_size_bytes=PAGE,
        address=first * PAGE,
        page_count=len(states),
        start_time_ticks=5,
        masks=None,
        stretch_addresses=array("Q", [start * PAGE for start, _ in stretches]),
        stretch_page_counts=array("Q", [count for _, count in stretches]),
        kpageflags=None,
        states=values,
        attributes=bytes(len(values)),
    )


def find(before, after):
    """Return the changes as (page, count, from, to, copied, path)."""
    names = {None: " ", **{PageState(value): char for char, value in STATES.items()}}
    return [
        (
            each.address // PAGE,
            each.page_count,
            names[each.before],
            names[each.after],
            each.copied,
            each.mapping.path,
        )
        for each in iter_changes(before, after, PAGE)
    ]


@pytest.mark.parametrize(
    ("mappings", "before", "after", "changes"),
    [
        ("pppp", "ffff", "ffff", []),
        ("pppp", "f.ff", "aaff", [(0, 1, "f", "a", True), (1, 1, ".", "a", True)]),
        ("pppp", "ffff", "faaf", [(1, 2, "f", "a", True)]),
        ("pppp", "aaaa", "assf", [(1, 2, "a", "s", False), (3, 1, "a", "f", False)]),
        ("pppp", "....", "ss..", [(0, 2, ".", "s", True)]),
        ("ppph", "ffff", "faaa", [(1, 2, "f", "a", True), (3, 1, "f", "a", False)]),
        ("hhss", "zzff", "aa..", [(0, 2, "z", "a", False), (2, 2, "f", ".", False)]),
        ("pp p", "f  f", "?  G", [(0, 1, "f", "?", False), (3, 1, "f", "G", False)]),
    ],
)
def test_changes_are_what_is_not_the_same(mappings, before, after, changes):
    """Seen to fail with copied said of every page that became anonymous."""
    found = find(make_look(mappings, before), make_look(mappings, after))
    assert [change[:5] for change in found] == changes
    assert all(change[5] == PATHS[mappings[change[0]]] for change in found)


def test_what_is_mapped_and_unmapped_without_pages_is_no_change():
    assert find(make_look("pp  ", "f.  "), make_look("ppph", "f...")) == []
    assert find(make_look("pphh", "f..."), make_look("pp  ", "f   ")) == []


def test_pages_that_come_and_go_with_their_mappings_are_changes():
    """Seen to fail where only what is mapped in both looks was compared."""
    with_heap, without = make_look("pphh", "ffaz"), make_look("pp  ", "ff  ")
    assert find(without, with_heap) == [
        (2, 1, " ", "a", False, b"[heap]"),
        (3, 1, " ", "z", False, b"[heap]"),
    ]
    assert [change[2:4] for change in find(with_heap, without)] == [("a", " "), ("z", " ")]


def test_a_file_that_is_mapped_in_the_place_of_memory_has_been_copied_there():
    changes = find(make_look("h", "a"), make_look("p", "a"))
    assert changes == []  # The same state: who looks cannot tell, and nothing is claimed.
    assert find(make_look("h", "."), make_look("p", "a"))[0][4]


KIND = st.sampled_from("phs ")
STATE = st.sampled_from("".join(STATES))


@given(st.lists(st.tuples(KIND, STATE, KIND, STATE), min_size=1, max_size=12))
def test_changes_are_those_of_a_comparison_page_by_page(pages):
    """Seen to fail with a stretch that was not cut at the border of a mapping."""
    old, old_states, new, new_states = map("".join, zip(*pages, strict=True))
    before, after = make_look(old, old_states), make_look(new, new_states)
    wanted = {}
    for page, (kind, state, other_kind, other_state) in enumerate(pages):
        was = None if kind == " " else state
        now = None if other_kind == " " else other_state
        if (was or ".") != (now or "."):
            became = is_copied(KINDS.get(other_kind), PageState(STATES[other_state]))
            had = is_copied(KINDS.get(kind), PageState(STATES[state]))
            wanted[page] = (was or " ", now or " ", bool(became and not had))
    found = {
        page: change[2:5]
        for change in find(before, after)
        for page in range(change[0], change[0] + change[1])
    }
    assert found == wanted
    copies = [
        is_copied(KINDS.get(kind), PageState(STATES[state])) and kind != " "
        for kind, state, _, _ in pages
    ]
    assert count_copied(before, PAGE) == sum(map(bool, copies))


def test_stretches_go_on_across_chunks_and_mappings():
    """Seen to fail where each chunk began a stretch of its own."""
    chunks = [make_chunk(4, "..ff"), make_chunk(8, "fa a"), make_chunk(20, "aa?")]
    found = [(each.start // PAGE, each.end // PAGE, each.state) for each in iter_stretches(chunks)]
    assert found == [
        (6, 9, PageState.FILE),
        (9, 10, PageState.ANON),
        (11, 12, PageState.ANON),
        (20, 22, PageState.ANON),
        (22, 23, PageState.UNKNOWN),
    ]


def test_copies_are_counted_on_both_sides_of_a_border():
    look = make_look("pphp", "aaaa")
    joined = Look(look.mappings, [Stretch(0, 4 * PAGE, PageState.ANON)])
    assert count_copied(joined, PAGE) == count_copied(look, PAGE) == 3
