# SPDX-License-Identifier: Apache-2.0
"""What is exported: figures by group of processes, and what each of them means. Pure values."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from cowd._errors import Error
from cowd._statistics import ServerStatistics

__all__ = ["NOT_LOOKED_AT", "OTHER", "STATES", "ForkFigures", "GroupFigures", "Scrape"]

STATES: Final = ("file", "anon", "anon_swapped", "zero", "guard", "absent", "unknown")
"""What a page may be. Each page of a mapping is one of these."""
OTHER: Final = "(other)"
"""Group of all processes whose own group would be one too many."""

NOT_LOOKED_AT: Final = "NOT_LOOKED_AT"
"""Reason for which a process is missing: time or allowance has not sufficed for it yet."""


@dataclass(frozen=True, slots=True)
class ForkFigures:
    """What the parents in a group have in common with the children that they forked.

    Attributes:
        shared_bytes: pages that a child and its parent both map, or have swapped out; of each
            child.
        copied_bytes: pages at whose address the two have one each, because one of them, or both,
            wrote there since the fork; of each child.
    """

    shared_bytes: int
    copied_bytes: int


@dataclass(frozen=True, slots=True)
class GroupFigures:
    """Processes that a pattern of the configuration puts together.

    Attributes:
        process_count: processes in the group that have memory of their own.
        missing: why figures of some of them are missing, or are old ones: reasons of cowd's, or
            NOT_LOOKED_AT.
        oldest_seconds: age of the oldest of the figures that are added up here.
        mapping_bytes: size of the mappings, by what their pages are: one for each of STATES.
        copied_bytes: anonymous pages, swapped out or not, in private mappings of files.
        fork: None if it is not asked for, or no parent with children in it could be compared.
    """

    group: str
    process_count: int
    missing: Collection[str]
    oldest_seconds: float
    mapping_bytes: Mapping[str, int]
    copied_bytes: int
    fork: ForkFigures | None = None

    @property
    def is_complete(self) -> bool:
        """Every process has been looked at, none was refused or failed."""
        return not self.missing


@dataclass(frozen=True, slots=True)
class Scrape:
    """All that is exported at one time.

    Attributes:
        time_seconds: when it was made, in seconds since 1970.
        duration_seconds: how long that took.
        is_up: the daemon answered. If not, there are no groups.
        are_forks_own: children and parents are compared of the calling user alone, though all were
            asked for: there is no grant for more.
        statistics: the daemon's own; None if it is down, or does not let this caller see them.
        left_out_group_count: groups that are added up as OTHER, as there are too many of them.
        failure: why there are no groups; None if there are.
    """

    time_seconds: float
    duration_seconds: float
    is_up: bool
    groups: Sequence[GroupFigures]
    are_forks_own: bool = False
    statistics: ServerStatistics | None = None
    left_out_group_count: int = 0
    failure: Error | None = None
