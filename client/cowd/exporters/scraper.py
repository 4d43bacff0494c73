# SPDX-License-Identifier: Apache-2.0
"""Asks the daemon about the processes of this machine, within a budget, and adds up by group.

Runs as whoever exports. A scrape looks at the process first that was looked at least recently, and
ends when its time or its pages are spent; of the others it tells what an earlier one found, and how
old that is. A process that does not answer is asked alone from then on, and ever less often.
"""

import threading
import time
from collections.abc import Callable, Iterable, Sequence

from cowd._address import resolve_address
from cowd._client import Client
from cowd._errors import Error
from cowd._pages import GrantDetail, ServerInfo
from cowd.exporters.config import ExportConfig
from cowd.exporters.figures import GroupFigures, Scrape
from cowd.exporters.groups import NOT_TOLD, Groups, add_up
from cowd.exporters.looks import Comparisons, Pair, Summaries
from cowd.exporters.processes import Process, list_processes
from cowd.exporters.schedule import Allowance

__all__ = ["Scraper"]


class Scraper:
    """What makes scrapes, one at a time; threads may share it.

    Args:
        config: the settings.
        address: of the daemon, which need not be there yet, as in `cowd.Client`.
        clock: a steady clock, in seconds.

    Raises:
        Error: the address is none.
    """

    def __init__(
        self,
        config: ExportConfig,
        address: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._path = resolve_address(address)
        self._clock = clock
        self._groups = Groups(config.groups, config.maximum_group_count)
        # Apart, or those that come second would get what the first have left.
        self._allowances = [Allowance(config.pages_per_second, clock()) for _ in range(2)]
        self._summaries = Summaries(self._allowances[0], config.cache_seconds, clock)
        self._comparisons = Comparisons(self._allowances[1], config.cache_seconds, clock)
        self._lock = threading.Lock()
        self._last: Scrape | None = None
        self._ended_at = float("-inf")

    def scrape(self) -> Scrape:
        """Return the figures of now. Who asks while a scrape is under way gets what it finds."""
        asked_at = self._clock()
        with self._lock:
            if self._last is None or self._ended_at < asked_at:
                self._last = self._scrape(self._clock())
                self._ended_at = self._clock()
            return self._last

    def _scrape(self, started_at: float) -> Scrape:
        statistics, failure = None, None
        groups: Sequence[GroupFigures] = ()
        try:
            # Half of a scrape for one answer, so that there is time for others. And a connection of
            # its own: one that is kept has a worker wait, and threads at both ends.
            with Client(self._path, timeout_seconds=self._config.scrape_seconds / 2) as client:
                info = client.get_server_info()
                if _is_granted(info, GrantDetail.SUMMARY):
                    statistics = client.get_statistics()
                groups = self._look(client, info, started_at)
        except Error as error:
            failure = error
        except OSError as error:
            failure = Error(f"cannot list processes in /proc: {error.strerror}")
        return Scrape(
            time_seconds=time.time(),
            duration_seconds=self._clock() - started_at,
            is_up=failure is None,
            groups=groups,
            statistics=statistics,
            left_out_group_count=self._groups.left_out_count,
            failure=failure,
        )

    def _look(self, client: Client, info: ServerInfo, started_at: float) -> Sequence[GroupFigures]:
        """Look at what is due, and return the figures of all groups.

        Raises:
            Error: it concerns no single process.
        """
        for allowance in self._allowances:
            allowance.refill(started_at)
        deadline = started_at + self._config.scrape_seconds
        processes = list_processes()
        looks = self._summaries.ledger
        looks.keep([each.identity for each in processes])

        def is_visible(process: Process) -> bool:
            has_figures = looks[process.identity].reason not in NOT_TOLD
            return has_figures and _may_see(info, process, GrantDetail.SUMMARY)

        by_group = self._groups.sort(processes, is_visible)
        members = {each.identity: each for group in by_group.values() for each in group}
        pairs = self._list_pairs(info, members.values(), processes)
        self._comparisons.ledger.keep(pairs)
        self._summaries.update(client, list(filter(is_visible, members.values())), deadline)
        # What does not answer alone would not answer in company.
        answering = {
            pair: pages
            for pair, pages in pairs.items()
            if all(looks[identity].reason is None for identity in pair)
        }
        self._comparisons.update(client, answering, deadline)
        now = self._clock()
        return [
            figures
            for name, group in by_group.items()
            if (figures := self._add_up(name, group, pairs, now)) is not None
        ]

    def _add_up(
        self, name: str, group: Iterable[Process], pairs: Iterable[Pair], now: float
    ) -> GroupFigures | None:
        """Return the figures of a group; None if there are none and nobody has named it."""
        entries = {each.identity: self._summaries.ledger[each.identity] for each in group}
        told = {key: entry for key, entry in entries.items() if entry.reason not in NOT_TOLD}
        has_figures = any(entry.value for entry in told.values())
        if not has_figures and name not in self._groups.literal_names:
            return None
        compared = [self._comparisons.ledger[pair] for pair in pairs if pair.parent in told]
        there = [entry for entry in compared if entry.reason not in NOT_TOLD]
        return add_up(name, told.values(), there, now)

    def _list_pairs(
        self, info: ServerInfo, members: Iterable[Process], processes: Iterable[Process]
    ) -> dict[Pair, int]:
        """Return all members with each of their children, and about how many pages they have."""
        if not self._config.fork:
            return {}
        comparable = {
            each.identity.pid: each for each in members if _may_see(info, each, GrantDetail.PAGES)
        }
        pairs = {}
        for child in processes:
            parent = comparable.get(child.parent_pid)
            if parent is not None and _may_see(info, child, GrantDetail.PAGES):
                pair = Pair(parent.identity, child.identity)
                pairs[pair] = max(parent.page_count, child.page_count)
        return pairs


def _is_granted(info: ServerInfo, needed: GrantDetail) -> bool:
    return info.caller.uid == 0 or info.granted >= needed


def _may_see(info: ServerInfo, process: Process, needed: GrantDetail) -> bool:
    """Whether it is worth asking: of others' processes each refusal would be put on record."""
    return _is_granted(info, needed) or process.uid == info.caller.uid
