# SPDX-License-Identifier: Apache-2.0
"""Processes by group, no more groups than are wanted, and what is added up of each."""

from mmap import PAGESIZE

import pytest
from cowd import PageCounts, Shares
from cowd.exporters.config import GroupRule
from cowd.exporters.figures import NOT_LOOKED_AT, OTHER, STATES, ForkFigures
from cowd.exporters.groups import Groups, add_up
from cowd.exporters.looks import Looked
from cowd.exporters.processes import Identity, Process
from cowd.exporters.schedule import Entry

BY_COMMAND = (GroupRule("{command}"),)
COUNTS = PageCounts(absent=1, file=2, anon=3, anon_swapped=4, zero=5, guard=6, unknown=7)


def make_processes(*commands, uid=0):
    return [
        Process(Identity(pid, pid, pid), 1, uid, command, "", "/", 1)
        for pid, command in enumerate(commands, 10)
    ]


def sort(groups, *commands, is_visible=lambda _: True, now=0.0, uid=0):
    sorted_ = groups.sort(make_processes(*commands, uid=uid), is_visible, now)
    return {name: [each.command for each in members] for name, members in sorted_.items()}


def test_processes_by_group():
    groups = Groups((GroupRule("shells", command=("*sh",)), *BY_COMMAND), 10)
    assert sort(groups, "bash", "vim", "zsh") == {"shells": ["bash", "zsh"], "vim": ["vim"]}
    assert sort(groups) == {"shells": []}
    assert groups.left_out_count == 0


def test_too_many_groups_are_added_up_and_those_that_were_there_stay():
    groups = Groups((GroupRule("mine", command=("m",)), *BY_COMMAND), 3)
    assert sort(groups, "m", "x", "y") == {"mine": ["m"], "x": ["x"], "y": ["y"]}
    assert sort(groups, "a", "b", "x", "m", "y", "b") == {
        "mine": ["m"],
        "x": ["x"],
        "y": ["y"],
        OTHER: ["a", "b", "b"],
    }
    assert groups.left_out_count == 2


def test_a_group_keeps_its_place_for_an_hour():
    """Or there would be new ones without end. Seen to fail with places of those alone that are."""
    groups = Groups((GroupRule("mine", command=("m",)), *BY_COMMAND), 3)
    sort(groups, "x", "y")
    assert sort(groups, "y", "z", now=600.0) == {"mine": [], "y": ["y"], OTHER: ["z"]}
    assert sort(groups, "x", now=3599.0) == {"mine": [], "x": ["x"]}
    # y was there at 600 s.
    assert sort(groups, "z", now=4199.0) == {"mine": [], OTHER: ["z"]}
    assert sort(groups, "z", now=4200.0) == {"mine": [], "z": ["z"]}
    assert groups.left_out_count == 0


def test_one_user_has_half_of_the_places():
    """Seen to fail with as many as there are."""
    groups = Groups(BY_COMMAND, 4)
    assert sort(groups, "a", "b", "c", uid=1000) == {"a": ["a"], "b": ["b"], OTHER: ["c"]}
    assert sort(groups, "c", uid=1001) == {"c": ["c"]}
    assert sort(groups, "d", "e", "a") == {"a": ["a"], "d": ["d"], OTHER: ["e"]}


def test_a_name_with_escaped_braces_is_the_settings_own():
    """Seen to fail with the name taken as it is written."""
    groups = Groups((GroupRule("a{{b}}"),), 10)
    assert sort(groups, "x", is_visible=lambda _: False) == {"a{b}": ["x"]}
    assert groups.literal_names == {"a{b}"}


def test_no_name_is_made_of_a_process_without_figures():
    groups = Groups((GroupRule("shells", command=("*sh",)), *BY_COMMAND), 10)
    nothing = sort(groups, "bash", "vim", is_visible=lambda _: False)
    assert nothing == {"shells": ["bash"]}


def test_figures_are_added_up():
    looks = [
        Entry(Looked(COUNTS, 3), found_at=90.0),
        Entry(Looked(COUNTS, 4), found_at=70.0),
    ]
    shares = Shares(shared=10, copied_by_child=1, copied_by_parent=2, both=3, different=4, own=9)
    told = add_up("g", looks, [Entry(shares, 60.0), Entry(shares, 80.0)], now=100.0)
    assert (told.group, told.process_count, told.oldest_seconds) == ("g", 2, 40.0)
    assert told.is_complete
    assert tuple(told.mapping_bytes) == STATES
    assert [told.mapping_bytes[state] for state in ("absent", "file", "anon", "anon_swapped")] == [
        2 * pages * PAGESIZE for pages in (1, 2, 3, 4)
    ]
    assert sum(told.mapping_bytes.values()) == 2 * COUNTS.total * PAGESIZE
    assert told.copied_bytes == 7 * PAGESIZE
    assert told.fork == ForkFigures(20 * PAGESIZE, 20 * PAGESIZE)


def test_a_child_that_has_nothing_of_its_parents_has_no_age():
    """It is compared once an hour. Seen to fail with the age of each comparison."""
    told = add_up("g", [], [Entry(Shares(own=9), 5.0), Entry(Shares(shared=1), 90.0)], now=100.0)
    assert told.oldest_seconds == 10.0


@pytest.mark.parametrize(
    ("looks", "comparisons", "missing"),
    [
        ([Entry()], [], {NOT_LOOKED_AT}),
        ([Entry(Looked(COUNTS, 1)), Entry()], [], {NOT_LOOKED_AT}),
        ([Entry(Looked(COUNTS, 1), reason="OPEN_TIMED_OUT")], [], {"OPEN_TIMED_OUT"}),
        ([Entry(reason="x")], [Entry()], {"x", NOT_LOOKED_AT}),
    ],
)
def test_what_is_missing_makes_a_group_incomplete(looks, comparisons, missing):
    told = add_up("g", looks, comparisons, now=0.0)
    assert told.missing == missing
    assert not told.is_complete
    assert told.fork is None
    assert told.process_count == len(looks)


def test_a_group_of_nothing():
    told = add_up("g", [], [], now=5.0)
    assert told.is_complete
    assert told.process_count == told.oldest_seconds == told.copied_bytes == 0
    assert set(told.mapping_bytes.values()) == {0}
