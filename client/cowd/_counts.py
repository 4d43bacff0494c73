# SPDX-License-Identifier: Apache-2.0
"""How many pages are what. Plain values, without protobuf."""

from collections.abc import Iterable
from dataclasses import dataclass
from operator import add, attrgetter
from typing import Final

from cowd._pages import PageState

__all__ = ["PageCounts", "sum_counts"]


@dataclass(frozen=True, slots=True)
class PageCounts:
    """Numbers of pages by state (cowd.v1.PageCounts); each page is counted once."""

    absent: int = 0
    file: int = 0
    anon: int = 0
    anon_swapped: int = 0
    zero: int = 0
    guard: int = 0
    unknown: int = 0

    def __add__(self, other: "PageCounts") -> "PageCounts":
        return PageCounts(*map(add, _list_counts(self), _list_counts(other)))

    def __getitem__(self, state: PageState) -> int:
        count: int = getattr(self, state.name.lower())
        return count

    @property
    def total(self) -> int:
        """All of them, absent ones included."""
        return sum(_list_counts(self))

    @property
    def resident(self) -> int:
        """Pages in memory, as Rss in smaps counts them: the page of zeros is not one."""
        return self.file + self.anon


# dataclasses.astuple copies each number, which takes many times as long.
_list_counts: Final = attrgetter(*PageCounts.__slots__)


def sum_counts(counts: Iterable[PageCounts]) -> PageCounts:
    """Return all of them added up."""
    return sum(counts, PageCounts())
