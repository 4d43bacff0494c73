# SPDX-License-Identifier: Apache-2.0
"""What two processes have at the same addresses. Plain values, without protobuf."""

from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

from cowd._mappings import Mapping
from cowd._pages import PageState

__all__ = [
    "ComparedPages",
    "Comparison",
    "ComparisonChunk",
    "ComparisonTotals",
    "MappingComparison",
    "PageComparison",
    "PageCopier",
    "add_up",
]


class PageComparison(IntEnum):
    """What two processes have at the same address (cowd.v1.PageComparison).

    The page of zeros and guard regions count as no page.
    """

    SAME = 1
    DIFFERENT = 2
    ONLY_FIRST = 3
    ONLY_SECOND = 4
    NEITHER = 5
    UNKNOWN = 6

    @classmethod
    def _missing_(cls, value: object) -> "PageComparison":  # noqa: ARG003
        return cls.UNKNOWN  # Of a newer daemon.


class PageCopier(IntEnum):
    """Which of two processes made its page, where they are different (cowd.v1.PageCopier)."""

    UNSPECIFIED = 0
    FIRST = 1
    SECOND = 2
    BOTH = 3

    @classmethod
    def _missing_(cls, value: object) -> "PageCopier":  # noqa: ARG003
        return cls.UNSPECIFIED  # Of a newer daemon.


class ComparedPages(NamedTuple):
    """How many pages are alike in all of this (cowd.v1.ComparedPages).

    Attributes:
        comparison: what the two processes have there.
        state, other_state: what the page is in the first process, and in the second.
        copied_by: who made it, where the pages are different.
        page_count: number of pages, at least 1.
    """

    comparison: PageComparison
    state: PageState
    other_state: PageState
    copied_by: PageCopier
    page_count: int


def add_up(totals: Iterable[ComparedPages]) -> list[ComparedPages]:
    """Return totals with those that are alike added up, in the order of what they are."""
    counts: Counter[tuple[PageComparison, PageState, PageState, PageCopier]] = Counter()
    for each in totals:
        counts[each[:-1]] += each.page_count
    return [ComparedPages(*alike, counts[alike]) for alike in sorted(counts)]


@dataclass(frozen=True, slots=True)
class ComparisonChunk:
    """Consecutive pages of two processes; those that are listed lie in stretches.

    Every other page is NEITHER, and ABSENT in both. Attributes are those of `cowd.PageChunk`, and:

    Attributes:
        pid, other_pid: the first process and the second.
        start_time_ticks, other_start_time_ticks: when they started, in clock ticks since boot.
        comparisons: values of PageComparison, one for each page listed.
        states, other_states: values of PageState, in the first process and in the second.
        copiers: values of PageCopier.
    """

    pid: int
    other_pid: int
    page_size_bytes: int
    address: int
    page_count: int
    start_time_ticks: int
    other_start_time_ticks: int
    stretch_addresses: "array[int]"
    stretch_page_counts: "array[int]"
    comparisons: bytes
    states: bytes
    other_states: bytes
    copiers: bytes

    @property
    def end_address(self) -> int:
        """First address after the pages, in bytes."""
        return self.address + self.page_count * self.page_size_bytes


@dataclass(frozen=True, slots=True)
class ComparisonTotals:
    """Consecutive pages of two processes, by what they are. Attributes as in ComparisonChunk.

    Attributes:
        totals: add up to `page_count`.
    """

    pid: int
    other_pid: int
    page_size_bytes: int
    address: int
    page_count: int
    start_time_ticks: int
    other_start_time_ticks: int
    totals: Sequence[ComparedPages]


@dataclass(frozen=True, slots=True)
class MappingComparison:
    """What two processes have between two addresses, where neither has a border of a mapping.

    Attributes:
        start_address: first address, in bytes.
        end_address: first address after it, in bytes.
        mapping, other_mapping: of the first process and of the second; None where one has none.
        totals: add up to all pages between the two addresses.
    """

    start_address: int
    end_address: int
    mapping: Mapping | None
    other_mapping: Mapping | None
    totals: Sequence[ComparedPages]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two whole processes.

    Attributes:
        pid, other_pid: the first process and the second.
        start_time_ticks, other_start_time_ticks: when they started, in clock ticks since boot.
        mappings: what they have, mapping by mapping, in address order. There may be thousands, so
            `repr` leaves them out.
    """

    pid: int
    other_pid: int
    page_size_bytes: int
    start_time_ticks: int
    other_start_time_ticks: int
    mappings: Sequence[MappingComparison] = field(repr=False)

    @property
    def totals(self) -> list[ComparedPages]:
        """Of all mappings together."""
        return add_up(each for mapping in self.mappings for each in mapping.totals)

    def count(self, comparison: PageComparison) -> int:
        """Return the number of pages of which this is said."""
        return sum(each.page_count for each in self.totals if each.comparison is comparison)
