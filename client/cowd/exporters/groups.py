# SPDX-License-Identifier: Apache-2.0
"""Processes by group, no more groups than are wanted, and the figures of each. Pure.

Every group is a series, or several, in somebody's database, and who runs processes chooses their
names: so there is a bound. A group that was there keeps its place for a while, or there would be
new ones all the time; and no user but root has all of them.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from mmap import PAGESIZE
from typing import Any, Final

from cowd._counts import sum_counts
from cowd._shares import Shares
from cowd.exporters.config import GroupRule
from cowd.exporters.figures import NOT_LOOKED_AT, OTHER, STATES, ForkFigures, GroupFigures
from cowd.exporters.looks import Looked, is_related
from cowd.exporters.processes import Process, choose_group
from cowd.exporters.schedule import Entry

__all__ = ["NOT_TOLD", "Groups", "add_up"]

NOT_TOLD: Final = frozenset({"OWN_PROCESS", "NO_ADDRESS_SPACE", "NO_SUCH_PROCESS"})
"""Reasons of cowd's for which a process has no part in its group: it has no figures to miss."""

_PLACE_SECONDS: Final = 3600.0
"""How long a group keeps its place without a process."""


@dataclass(slots=True)
class _Place:
    """That of a group whose name is made of what a process has.

    Attributes:
        uid: whose process it was.
        seen_at: when the group had a process last.
    """

    uid: int
    seen_at: float


class Groups:
    """Chooses the group of each process.

    Args:
        rules: of the configuration.
        maximum_count: further groups are added up as OTHER. Processes of one user but root bring at
            most half as many.
    """

    def __init__(self, rules: Sequence[GroupRule], maximum_count: int) -> None:
        self._rules = rules
        self._maximum_count = maximum_count
        self._places: dict[str, _Place] = {}
        self.literal_names = frozenset(
            rule.name.format() for rule in rules if not rule.placeholders
        )
        self.left_out_count = 0

    def sort(
        self, processes: Iterable[Process], is_visible: Callable[[Process], bool], now: float
    ) -> dict[str, list[Process]]:
        """Return the processes of each group, by its name; those that fit no rule are in none.

        Args:
            processes: all that there are.
            is_visible: whether there may be figures of a process. Of one without any, no name is
                made; in a group that has a name it is missed.
            now: the time, in seconds of a steady clock.
        """
        found: dict[str, list[Process]] = {name: [] for name in sorted(self.literal_names)}
        for process in processes:
            name = choose_group(process, self._rules)
            if name is not None and (name in self.literal_names or is_visible(process)):
                found.setdefault(name, []).append(process)
        literal = sorted(self.literal_names)[: self._maximum_count]
        uids = {name: group[0].uid for name, group in found.items() if group}
        self._place({name: uids[name] for name in sorted(uids.keys() - self.literal_names)}, now)
        names = {*literal, *self._places}
        left_out = found.keys() - names
        self.left_out_count = len(left_out)
        kept = {name: found[name] for name in sorted(names & found.keys())}
        if left_out:
            kept.setdefault(OTHER, []).extend(
                each for name in sorted(left_out) for each in found[name]
            )
        return kept

    def _place(self, uids: Mapping[str, int], now: float) -> None:
        """Give places to groups that are there, as far as there are any.

        Args:
            uids: whose process is in each.
            now: the time.
        """
        for name in uids.keys() & self._places.keys():
            self._places[name].seen_at = now
        self._places = {
            name: place
            for name, place in self._places.items()
            if now - place.seen_at < _PLACE_SECONDS
        }
        held = Counter(place.uid for place in self._places.values())
        free_count = self._maximum_count - len(self.literal_names) - len(self._places)
        for name, uid in uids.items():
            is_modest = uid == 0 or 2 * held[uid] < self._maximum_count
            if name not in self._places and is_modest and free_count > 0:
                self._places[name] = _Place(uid, now)
                held[uid] += 1
                free_count -= 1


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
    ages = [now - entry.found_at for entry in looks if entry.value is not None]
    # Of those that have nothing in common there is nothing that could be old.
    ages += [
        now - entry.found_at for entry in comparisons if entry.value and is_related(entry.value)
    ]
    return GroupFigures(
        group=group,
        process_count=len(looks),
        missing=_list_missing(looks) | _list_missing(comparisons),
        oldest_seconds=max(ages, default=0.0),
        mapping_bytes={state: getattr(counts, state) * PAGESIZE for state in STATES},
        copied_bytes=sum(value.copied_page_count for value in values) * PAGESIZE,
        fork=ForkFigures(shares.shared * PAGESIZE, shares.copied * PAGESIZE) if compared else None,
    )


def _list_missing(entries: Iterable[Entry[Any]]) -> set[str]:
    return {entry.reason or NOT_LOOKED_AT for entry in entries if not entry.is_good}
