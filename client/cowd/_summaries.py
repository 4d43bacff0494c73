# SPDX-License-Identifier: Apache-2.0
"""How many pages of a process are what, by kind of mapping. Plain values, without protobuf."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cowd._counts import PageCounts, sum_counts
from cowd._errors import Error
from cowd._mappings import MappingKind
from cowd._pages import PageState

__all__ = ["KindTotals", "ProcessSummary"]

_COPIES: Final = (PageState.ANON, PageState.ANON_SWAPPED)


@dataclass(frozen=True, slots=True)
class KindTotals:
    """The mappings of one kind, of one process.

    Attributes:
        mapping_count: number of mappings, as /proc/PID/maps lists them.
    """

    kind: MappingKind
    mapping_count: int
    page_counts: PageCounts

    @property
    def copied_page_count(self) -> int | None:
        """Pages that are private copies; None for a kind that has no original to be copied from."""
        if self.kind is not MappingKind.PRIVATE_FILE:
            return None
        return sum(self.page_counts[state] for state in _COPIES)


@dataclass(frozen=True, slots=True)
class ProcessSummary:
    """How many pages of a process are what.

    Attributes:
        start_time_ticks: when the process started, in clock ticks since boot; 0 if it failed.
        totals: for each kind of mapping that the process has, in the order of MappingKind.
        failure: why there are no totals; None if there are.
    """

    pid: int
    start_time_ticks: int
    page_size_bytes: int
    totals: Sequence[KindTotals]
    failure: Error | None = None

    @property
    def page_counts(self) -> PageCounts:
        """Of all kinds of mappings together."""
        return sum_counts(each.page_counts for each in self.totals)

    @property
    def copied_page_count(self) -> int:
        """Pages of private mappings of files that are private copies."""
        return sum(each.copied_page_count or 0 for each in self.totals)
