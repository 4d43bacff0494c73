# SPDX-License-Identifier: Apache-2.0
"""What processes use, by pages: rows of `cowctl top`, their order and what changed. Pure."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import cowd
from cowd import MappingKind, PageCounts

__all__ = ["ORDERS", "Usage", "add_usages", "list_usages", "sort_usages"]


@dataclass(frozen=True, slots=True)
class Usage:
    """One process, or several together, at one look.

    Attributes:
        pid: 0 of several.
        user, command: names; None where they cannot be told any more.
        counts: of the pages of all kinds of mappings together, by state.
        by_kind: of the pages, by kind of mapping.
        copied_page_count: pages of private mappings of files that are private copies.
        copied_since_page_count: how many more of those there are than at the look before; less
            than 0 where copies were dropped, None at the first look.
        elapsed_seconds: since the look before; 0 at the first look.
    """

    pid: int
    start_time_ticks: int
    user: str | None
    command: str | None
    counts: PageCounts
    by_kind: Mapping[MappingKind, PageCounts]
    copied_page_count: int
    copied_since_page_count: int | None
    elapsed_seconds: float

    @property
    def copied_pages_per_second(self) -> float | None:
        """Private copies more, for each second since the look before."""
        if self.copied_since_page_count is None or not self.elapsed_seconds:
            return None
        return round(self.copied_since_page_count / self.elapsed_seconds, 1)


ORDERS: Final[Mapping[str, Callable[[Usage], int]]] = {
    "copied": lambda usage: -usage.copied_page_count,
    "resident": lambda usage: -usage.counts.resident,
    "anon": lambda usage: -usage.counts.anon,
    "swapped": lambda usage: -usage.counts.anon_swapped,
    "pid": lambda usage: usage.pid,
}
"""What processes may be sorted by: the most first, but by pid."""


def list_usages(
    summaries: Iterable[cowd.ProcessSummary],
    names: Callable[[int], tuple[str | None, str | None]],
    before: Sequence[Usage] | None,
    elapsed_seconds: float,
) -> list[Usage]:
    """Return what the processes use that there is an answer about.

    Args:
        summaries: of this look.
        names: returns user and command of a pid.
        before: what the look before returned; None at the first one.
        elapsed_seconds: since then.
    """
    known = {(each.pid, each.start_time_ticks): each.copied_page_count for each in before or ()}
    usages = []
    for summary in summaries:
        if summary.failure:
            continue
        copied = summary.copied_page_count
        # A process that was not there before has copied all that since.
        past = None if before is None else known.get((summary.pid, summary.start_time_ticks), 0)
        usages.append(
            Usage(
                summary.pid,
                summary.start_time_ticks,
                *names(summary.pid),
                summary.page_counts,
                {each.kind: each.page_counts for each in summary.totals},
                copied,
                None if past is None else copied - past,
                elapsed_seconds,
            )
        )
    return usages


def sort_usages(usages: Iterable[Usage], order: str) -> list[Usage]:
    """Return them in an order of ORDERS; those that are equal in it by what is in memory."""
    key = ORDERS[order]
    return sorted(usages, key=lambda usage: (key(usage), -usage.counts.resident, usage.pid))


def add_usages(usages: Sequence[Usage]) -> Usage:
    """Return all of them together; there is at least one."""
    since = [each.copied_since_page_count for each in usages]
    known = [each for each in since if each is not None]
    by_kind: dict[MappingKind, PageCounts] = {}
    counts = PageCounts()
    for usage in usages:
        counts += usage.counts
        for kind, of_kind in usage.by_kind.items():
            by_kind[kind] = by_kind.get(kind, PageCounts()) + of_kind
    return Usage(
        0,
        0,
        None,
        None,
        counts,
        by_kind,
        sum(each.copied_page_count for each in usages),
        sum(known) if known else None,
        usages[0].elapsed_seconds,
    )
