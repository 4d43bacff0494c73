# SPDX-License-Identifier: Apache-2.0
"""What is exported: figures by group of processes, and what each of them means. Pure values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from cowd._errors import Error
from cowd._statistics import ServerStatistics

__all__ = ["OTHER", "STATES", "ForkFigures", "GroupFigures", "Scrape"]

STATES: Final = ("file", "anon", "anon_swapped", "zero", "guard", "absent", "unknown")
"""What a page may be. Each page of a mapping is one of these."""
OTHER: Final = "(other)"
"""Group of all processes whose own group would be one too many."""


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
        is_complete: every one of them has been looked at, none refused or failed.
        oldest_seconds: age of the oldest of the figures that are added up here.
        mapping_bytes: size of the mappings, by what their pages are: one for each of STATES.
        copied_bytes: anonymous pages, swapped out or not, in private mappings of files.
        fork: None if it is not asked for, or no parent with children in it could be compared.
    """

    group: str
    process_count: int
    is_complete: bool
    oldest_seconds: float
    mapping_bytes: Mapping[str, int]
    copied_bytes: int
    fork: ForkFigures | None = None


@dataclass(frozen=True, slots=True)
class Scrape:
    """All that is exported at one time.

    Attributes:
        time_seconds: when it was made, in seconds since 1970.
        duration_seconds: how long that took.
        is_up: the daemon answered. If not, there are no groups.
        statistics: the daemon's own; None if it is down, or does not let this caller see them.
        left_out_group_count: groups that are added up as OTHER, as there are too many of them.
        failure: why the daemon did not answer; None if it did.
    """

    time_seconds: float
    duration_seconds: float
    is_up: bool
    groups: Sequence[GroupFigures]
    statistics: ServerStatistics | None = None
    left_out_group_count: int = 0
    failure: Error | None = None
