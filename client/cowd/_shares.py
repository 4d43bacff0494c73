# SPDX-License-Identifier: Apache-2.0
"""Pages of a parent and its child by who has them, and by what the memory is for. Pure."""

from collections import defaultdict
from collections.abc import Container, Iterable
from dataclasses import dataclass
from enum import StrEnum
from operator import add, attrgetter
from typing import Final

from cowd._comparisons import ComparedPages, MappingComparison, PageComparison, PageCopier
from cowd._mappings import Mapping, MappingKind
from cowd._pages import PageState

__all__ = ["MemoryGroup", "Shares", "choose_group", "count_shares", "group_shares"]

_PRIVATE_PAGES: Final = (PageState.ANON, PageState.ANON_SWAPPED)


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

    @property
    def copied(self) -> int:
        """Where each has its own, whoever wrote."""
        return self.copied_by_child + self.copied_by_parent + self.both + self.different


_list_shares: Final = attrgetter(*Shares.__slots__)


def group_shares(compared: Iterable[MappingComparison]) -> dict[MemoryGroup, Shares]:
    """Return who has which pages, by what the memory is for, in the order of MemoryGroup.

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


def _list_code(mappings: Iterable[Mapping | None]) -> set[bytes]:
    """Return the paths of files of which something can be executed."""
    return {
        each.path
        for each in mappings
        if each is not None and "x" in each.permissions and each.kind is MappingKind.PRIVATE_FILE
    }


def choose_group(mapping: Mapping, code: Container[bytes]) -> MemoryGroup:
    """Return what memory is for. `code` has the paths of files that can be executed."""
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
    """Return who has which pages."""
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
