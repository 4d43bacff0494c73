# SPDX-License-Identifier: Apache-2.0
"""What a process still shares with the children that it forked, and what has been copied, by whom.

Runs with the caller's own rights; the daemon compares. Who is a child of whom is public in /proc.
"""

import os
from collections import defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from operator import add, attrgetter
from typing import Final

from cowd._client import Client
from cowd._comparisons import (
    ComparedPages,
    Comparison,
    MappingComparison,
    PageComparison,
    PageCopier,
)
from cowd._counts import PageCounts, sum_counts
from cowd._errors import OF_ONE_PROCESS, Error, NoSuchProcess
from cowd._mappings import Mapping as MemoryMapping
from cowd._mappings import MappingKind, MappingList
from cowd._overviews import compare_mappings, open_client
from cowd._pages import PageState

__all__ = ["Child", "Family", "MemoryGroup", "Shares", "family"]

_PRIVATE_PAGES: Final = (PageState.ANON, PageState.ANON_SWAPPED)
_PPID_INDEX: Final = 1
"""Among the fields of /proc/PID/stat after the name, as proc(5) has them."""


class MemoryGroup(StrEnum):
    """What memory is for, as far as its mapping says."""

    HEAP = "heap"
    STACK = "stack"
    ANONYMOUS = "anonymous"
    LIBRARY = "library"
    FILE = "file"
    SHARED = "shared"
    SPECIAL = "special"


@dataclass(frozen=True, slots=True)
class Shares:
    """Numbers of pages of a parent and its child, by who has them; each page is counted once.

    Attributes:
        shared: both map the same frame, or have the same page swapped out.
        copied_by_child: each has its own, as the child wrote to it.
        copied_by_parent: each has its own, as the parent wrote to it.
        both: each has its own, and both have written.
        different: each has its own, and it cannot be told who wrote.
        own: the child alone has an anonymous page, swapped out or not.
        parent_only: the parent alone has one.
        file_only: a file's page that only one of them maps now.
        neither: none of the two has a page.
        unknown: it cannot be told.
    """

    shared: int = 0
    copied_by_child: int = 0
    copied_by_parent: int = 0
    both: int = 0
    different: int = 0
    own: int = 0
    parent_only: int = 0
    file_only: int = 0
    neither: int = 0
    unknown: int = 0

    def __add__(self, other: "Shares") -> "Shares":
        return Shares(*map(add, _list_shares(self), _list_shares(other)))

    @property
    def total(self) -> int:
        """All of them."""
        return sum(_list_shares(self))


_list_shares: Final = attrgetter(*Shares.__slots__)


@dataclass(frozen=True, slots=True)
class Child:
    """One child, compared with its parent.

    Attributes:
        start_time_ticks: when it was forked, in clock ticks since boot.
        comparison: mapping by mapping, the parent being first and the child second.
        groups: the same by what the memory is for; a group that neither has is left out.
        page_counts: the child's own pages, by what they are.
    """

    pid: int
    start_time_ticks: int
    comparison: Comparison
    groups: Mapping[MemoryGroup, Shares]
    page_counts: PageCounts

    @property
    def total(self) -> Shares:
        """Of all groups together."""
        return sum(self.groups.values(), Shares())


@dataclass(frozen=True, slots=True)
class Family:
    """A process and the children that it has now.

    Attributes:
        start_time_ticks: when the parent started, in clock ticks since boot.
        parent: its pages, by what they are.
        children: in ascending order of pids.
        skipped: children that are left out, by pid, and why: most have ended meanwhile.
    """

    pid: int
    start_time_ticks: int
    page_size_bytes: int
    parent: PageCounts
    children: Sequence[Child]
    skipped: Sequence[tuple[int, Error]]


def family(pid: int, *, address: str | None = None) -> Family:
    """Return what a process still shares with each of its children, and what has been copied.

    There is no answer without the daemon: whether two pages have one frame is for root. The figures
    of processes that run meanwhile are of no one moment.

    Args:
        pid: of the parent, not of a thread. Children of its children are not told of.
        address: of the daemon, as in `cowd.Client`.

    Raises:
        Error: a subclass of it, see `cowd.Error`, about the parent.
    """
    with open_client(address) as client:
        parent = client.list_mappings(pid, with_page_counts=True)
        children, skipped = [], []
        for child_pid in _list_children(pid):
            try:
                children.append(_compare_child(client, parent, child_pid))
            except OF_ONE_PROCESS as error:
                # It may be about the parent: then this is said once, and of the right process.
                client.list_mappings(pid, expected_start_time_ticks=parent.start_time_ticks)
                skipped.append((child_pid, error))
    return Family(
        pid=pid,
        start_time_ticks=parent.start_time_ticks,
        page_size_bytes=os.sysconf("SC_PAGE_SIZE"),
        parent=_add_up(parent),
        children=tuple(children),
        skipped=tuple(skipped),
    )


def _compare_child(client: Client, parent: MappingList, pid: int) -> Child:
    listed = client.list_mappings(pid, with_page_counts=True)
    # Between these two its pid cannot have become that of a stranger's: start times are compared.
    if _read_parent(pid) != parent.pid:
        raise NoSuchProcess(
            f"no child {pid} of {parent.pid}: it has ended", reason="NO_SUCH_PROCESS", pid=pid
        )
    comparison = compare_mappings(client, parent, listed)
    return Child(
        pid=pid,
        start_time_ticks=listed.start_time_ticks,
        comparison=comparison,
        groups=group(comparison.mappings),
        page_counts=_add_up(listed),
    )


def _add_up(listed: MappingList) -> PageCounts:
    return sum_counts(each.page_counts for each in listed.mappings if each.page_counts is not None)


def group(compared: Iterable[MappingComparison]) -> dict[MemoryGroup, Shares]:
    """Return who has which pages, by what the memory is for, in the order of MemoryGroup. Pure.

    What the memory is for is said by the mapping of the child, which is the second process; by the
    parent's where that has none.
    """
    compared = list(compared)
    code_of_parent = _list_code(each.mapping for each in compared)
    code_of_child = _list_code(each.other_mapping for each in compared)
    groups: defaultdict[MemoryGroup, Shares] = defaultdict(Shares)
    for each in compared:
        if each.other_mapping is not None:
            place = choose_group(each.other_mapping, code_of_child)
        elif each.mapping is not None:
            place = choose_group(each.mapping, code_of_parent)
        else:
            continue  # There is none such: a place is told of where one of the two has a mapping.
        groups[place] += count_shares(each.totals)
    return {place: groups[place] for place in MemoryGroup if place in groups}


def _list_code(mappings: Iterable[MemoryMapping | None]) -> set[bytes]:
    """Return the paths of files of which something can be executed."""
    return {
        each.path
        for each in mappings
        if each is not None and "x" in each.permissions and each.kind is MappingKind.PRIVATE_FILE
    }


def choose_group(mapping: MemoryMapping, code: Container[bytes]) -> MemoryGroup:
    """Return what memory is for. `code` has the paths of files that can be executed. Pure."""
    if mapping.kind is MappingKind.SPECIAL:
        return MemoryGroup.SPECIAL
    if mapping.kind is MappingKind.SHARED_FILE:
        return MemoryGroup.SHARED
    if mapping.kind is MappingKind.PRIVATE_FILE:
        return MemoryGroup.LIBRARY if mapping.path in code else MemoryGroup.FILE
    if mapping.path == b"[heap]":
        return MemoryGroup.HEAP
    return MemoryGroup.STACK if mapping.path == b"[stack]" else MemoryGroup.ANONYMOUS


def count_shares(totals: Iterable[ComparedPages]) -> Shares:
    """Return who has which pages. Pure."""
    numbers: defaultdict[str, int] = defaultdict(int)
    for each in totals:
        numbers[_choose_share(each)] += each.page_count
    return Shares(**numbers)


_SHARES_OF_DIFFERENT: Final = {
    PageCopier.FIRST: "copied_by_parent",
    PageCopier.SECOND: "copied_by_child",
    PageCopier.BOTH: "both",
    PageCopier.UNSPECIFIED: "different",
}


def _choose_share(pages: ComparedPages) -> str:
    """Return the name of the field of Shares that has these."""
    match pages.comparison:
        case PageComparison.SAME:
            return "shared"
        case PageComparison.DIFFERENT:
            return _SHARES_OF_DIFFERENT[pages.copied_by]
        case PageComparison.ONLY_FIRST:
            return _choose_lone_share(pages.state, "parent_only")
        case PageComparison.ONLY_SECOND:
            return _choose_lone_share(pages.other_state, "own")
        case PageComparison.NEITHER:
            return "neither"
    return "unknown"


def _choose_lone_share(state: PageState, name_if_private: str) -> str:
    if state in _PRIVATE_PAGES:
        return name_if_private
    return "file_only" if state is PageState.FILE else "unknown"


def _list_children(pid: int) -> list[int]:
    """Return the pids of all children that a process has now, ascending."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
        found = {
            int(child)
            for thread in threads
            for child in _read(f"/proc/{pid}/task/{thread}/children").split()
        }
    except OSError:  # without CONFIG_PROC_CHILDREN, or a thread that has just ended
        found = {
            int(name) for name in os.listdir("/proc") if name.isdecimal() and _is_child(name, pid)
        }
    return sorted(found)


def _is_child(name: str, pid: int) -> bool:
    return _read_parent(int(name)) == pid


def _read_parent(pid: int) -> int | None:
    """Return the pid of a process's parent; None if there is no such process."""
    try:
        text = _read(f"/proc/{pid}/stat")
    except OSError:
        return None
    return int(text[text.rindex(b")") + 2 :].split()[_PPID_INDEX])


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()
