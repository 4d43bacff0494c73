# SPDX-License-Identifier: Apache-2.0
"""What a process still shares with the children that it forked, and what has been copied, by whom.

Runs with the caller's own rights; the daemon compares. Who is a child of whom is public in /proc.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from cowd._client import Client
from cowd._comparisons import Comparison
from cowd._counts import PageCounts, sum_counts
from cowd._errors import OF_ONE_PROCESS, Error, NoSuchProcess
from cowd._mappings import MappingList
from cowd._overviews import compare_mappings, open_client
from cowd._shares import MemoryGroup, Shares, group_shares

__all__ = ["Child", "Family", "family"]

_PPID_INDEX: Final = 1
"""Among the fields of /proc/PID/stat after the name, as proc(5) has them."""


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
        groups=group_shares(comparison.mappings),
        page_counts=_add_up(listed),
    )


def _add_up(listed: MappingList) -> PageCounts:
    return sum_counts(each.page_counts for each in listed.mappings if each.page_counts is not None)


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
