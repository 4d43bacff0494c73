# SPDX-License-Identifier: Apache-2.0
"""Processes by group, no more groups than are wanted, and what is added up of each."""

from mmap import PAGESIZE

import pytest
from cowd import PageCounts, Shares
from cowd.exporters.config import GroupRule
from cowd.exporters.figures import OTHER, STATES, ForkFigures
from cowd.exporters.groups import Groups, add_up
from cowd.exporters.looks import Looked
from cowd.exporters.processes import Identity, Process
from cowd.exporters.schedule import Entry

BY_COMMAND = (GroupRule("{command}"),)
COUNTS = PageCounts(absent=1, file=2, anon=3, anon_swapped=4, zero=5, guard=6, unknown=7)


def make_processes(*commands):
    return [
        Process(Identity(pid, pid, pid), 1, 1000, command, "", "/", 1)
        for pid, command in enumerate(commands, 10)
    ]


def sort(groups, *commands, is_visible=lambda _: True):
    sorted_ = groups.sort(make_processes(*commands), is_visible)
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
    assert sort(groups, "a", "b", "y") == {"a": ["a"], "mine": [], "y": ["y"], OTHER: ["b"]}
    assert sort(groups, "b") == {"b": ["b"], "mine": []}
    assert groups.left_out_count == 0


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
    told = add_up("g", looks, [Entry(shares), Entry(shares)], now=100.0)
    assert (told.group, told.process_count, told.oldest_seconds) == ("g", 2, 30.0)
    assert told.is_complete
    assert tuple(told.mapping_bytes) == STATES
    assert [told.mapping_bytes[state] for state in ("absent", "file", "anon", "anon_swapped")] == [
        2 * pages * PAGESIZE for pages in (1, 2, 3, 4)
    ]
    assert sum(told.mapping_bytes.values()) == 2 * COUNTS.total * PAGESIZE
    assert told.copied_bytes == 7 * PAGESIZE
    assert told.fork == ForkFigures(20 * PAGESIZE, 20 * PAGESIZE)


@pytest.mark.parametrize(
    ("looks", "comparisons"),
    [
        ([Entry()], []),
        ([Entry(Looked(COUNTS, 1)), Entry()], []),
        ([Entry(Looked(COUNTS, 1), reason="OPEN_TIMED_OUT")], []),
        ([Entry(Looked(COUNTS, 1))], [Entry()]),
    ],
)
def test_what_is_missing_makes_a_group_incomplete(looks, comparisons):
    told = add_up("g", looks, comparisons, now=0.0)
    assert not told.is_complete
    assert told.fork is None
    assert told.process_count == len(looks)


def test_a_group_of_nothing():
    told = add_up("g", [], [], now=5.0)
    assert told.is_complete
    assert told.process_count == told.oldest_seconds == told.copied_bytes == 0
    assert set(told.mapping_bytes.values()) == {0}
