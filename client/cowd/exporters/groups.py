# SPDX-License-Identifier: Apache-2.0
"""Processes by group, no more groups than are wanted, and the figures of each. Pure.

Every group is a series, or several, in somebody's database, and who runs processes chooses their
names: so there is a bound, and a group that is there keeps its place.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from mmap import PAGESIZE
from typing import Final

from cowd._counts import sum_counts
from cowd._shares import Shares
from cowd.exporters.config import GroupRule
from cowd.exporters.figures import OTHER, STATES, ForkFigures, GroupFigures
from cowd.exporters.looks import Looked
from cowd.exporters.processes import Process, choose_group
from cowd.exporters.schedule import Entry

__all__ = ["NOT_TOLD", "Groups", "add_up"]

NOT_TOLD: Final = frozenset({"OWN_PROCESS", "NO_ADDRESS_SPACE", "NO_SUCH_PROCESS"})
"""Reasons of cowd's for which a process has no part in its group: it has no figures to miss."""


class Groups:
    """Chooses the group of each process.

    Args:
        rules: of the configuration.
        maximum_count: further groups are added up as OTHER.
    """

    def __init__(self, rules: Sequence[GroupRule], maximum_count: int) -> None:
        self._rules = rules
        self._maximum_count = maximum_count
        self._names: set[str] = set()
        self.literal_names = frozenset(
            rule.name.format() for rule in rules if not rule.placeholders
        )
        self.left_out_count = 0

    def sort(
        self, processes: Iterable[Process], is_visible: Callable[[Process], bool]
    ) -> dict[str, list[Process]]:
        """Return the processes of each group, by its name; those that fit no rule are in none.

        Args:
            processes: all that there are.
            is_visible: whether there may be figures of a process. Of one without any, no name is
                made; in a group that has a name it is missed.
        """
        found: dict[str, list[Process]] = {name: [] for name in sorted(self.literal_names)}
        for process in processes:
            name = choose_group(process, self._rules)
            if name is not None and (name in self.literal_names or is_visible(process)):
                found.setdefault(name, []).append(process)
        # Those of a literal name first, then those that had a place, then the rest by name.
        ranked = sorted(
            found, key=lambda name: (name not in self.literal_names, name not in self._names, name)
        )
        self._names = set(ranked[: self._maximum_count])
        left_out = ranked[self._maximum_count :]
        self.left_out_count = len(left_out)
        kept = {name: found[name] for name in sorted(self._names)}
        if left_out:
            kept.setdefault(OTHER, []).extend(each for name in left_out for each in found[name])
        return kept


def add_up(
    group: str,
    looks: Collection[Entry[Looked]],
    comparisons: Collection[Entry[Shares]],
    now: float,
) -> GroupFigures:
    """Return the figures of a group.

    Args:
        group: its name.
        looks: what is known of each process that has a part in it.
        comparisons: what is known of each of them with each of its children.
        now: the time, as in the entries.
    """
    values = [entry.value for entry in looks if entry.value is not None]
    compared = [entry.value for entry in comparisons if entry.value is not None]
    counts = sum_counts(value.page_counts for value in values)
    shares = sum(compared, Shares())
    return GroupFigures(
        group=group,
        process_count=len(looks),
        is_complete=all(entry.is_good for entry in looks)
        and all(entry.is_good for entry in comparisons),
        oldest_seconds=max((now - entry.found_at for entry in looks if entry.value), default=0.0),
        mapping_bytes={state: getattr(counts, state) * PAGESIZE for state in STATES},
        copied_bytes=sum(value.copied_page_count for value in values) * PAGESIZE,
        fork=ForkFigures(shares.shared * PAGESIZE, shares.copied * PAGESIZE) if compared else None,
    )
