# SPDX-License-Identifier: Apache-2.0
"""Asks the daemon about the processes of this machine, within a budget, and adds up by group.

Runs as whoever exports. A scrape looks at the process first that was looked at least recently, and
ends when its time or its pages are spent; of the others it tells what an earlier one found, and how
old that is. A process that does not answer is asked alone from then on, and ever less often.
"""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from cowd._address import resolve_address
from cowd._client import Client
from cowd._errors import Error
from cowd._pages import GrantDetail, ServerInfo
from cowd.exporters.config import ExportConfig
from cowd.exporters.figures import GroupFigures, Scrape
from cowd.exporters.groups import NOT_TOLD, Groups, add_up
from cowd.exporters.looks import Comparisons, Pair, Summaries
from cowd.exporters.processes import Process, list_processes
from cowd.exporters.schedule import Allowance, Candidate

__all__ = ["Scraper"]

_FRESH_SECONDS: Final = 1.0
"""How long a scrape is that of now. Whoever may connect to an exporter may ask without end."""


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
        # Half of a scrape for one answer, so that there is time for others.
        self._longest_seconds = config.scrape_seconds / 2
        self._comparisons = Comparisons(
            self._allowances[1], config.cache_seconds, clock, self._longest_seconds
        )
        self._lock = threading.Lock()
        self._last: Scrape | None = None
        self._fresh_until = float("-inf")

    def scrape(self) -> Scrape:
        """Return the figures of now. Who asks while a scrape is under way gets what it finds.

        So does who asks a moment later, unless it failed or the settings want nothing cached.
        """
        asked_at = self._clock()
        with self._lock:
            if self._last is None or self._fresh_until < asked_at:
                self._last = self._scrape(self._clock())
                self._fresh_until = self._clock()
                if self._last.failure is None:
                    self._fresh_until += min(self._config.cache_seconds, _FRESH_SECONDS)
            return self._last

    def _scrape(self, started_at: float) -> Scrape:
        info, statistics, failure = None, None, None
        is_up = True
        groups: Sequence[GroupFigures] = ()
        try:
            # A connection of its own: one that is kept has a worker wait, and threads at both ends.
            with Client(self._path, timeout_seconds=self._longest_seconds) as client:
                info = client.get_server_info()
                if _is_granted(info, GrantDetail.SUMMARY):
                    statistics = client.get_statistics()
                groups = self._look(client, info, started_at)
        except Error as error:
            failure, is_up = error, False
        except OSError as error:
            failure = Error(f"cannot list processes in /proc: {error.strerror}")
        return Scrape(
            time_seconds=time.time(),
            duration_seconds=self._clock() - started_at,
            is_up=is_up,
            groups=groups,
            are_forks_own=self._config.fork
            and info is not None
            and not _is_granted(info, GrantDetail.PAGES),
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
        # cowd's openers and workers come and go, and each that is asked about is put on record.
        own = {each.pid for each in looks if looks[each].reason == "OWN_PROCESS"}
        processes = [each for each in processes if each.parent_pid not in own]

        def is_visible(process: Process) -> bool:
            has_figures = looks[process.identity].reason not in NOT_TOLD
            return has_figures and _may_see(info, process, GrantDetail.SUMMARY)

        by_group = self._groups.sort(processes, is_visible, started_at)
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
        # Without a grant it is no news that the kernel refuses one of the user's own.
        is_granted = _is_granted(info, GrantDetail.SUMMARY)
        nameless = NOT_TOLD if is_granted else NOT_TOLD | {"ACCESS_DENIED"}
        now = self._clock()
        return [
            self._add_up(name, group, pairs, now)
            for name, group in by_group.items()
            if name in self._groups.literal_names
            or any(looks[each.identity].reason not in nameless for each in group)
        ]

    def _add_up(
        self, name: str, group: Iterable[Process], pairs: Iterable[Pair], now: float
    ) -> GroupFigures:
        """Return the figures of a group."""
        entries = {each.identity: self._summaries.ledger[each.identity] for each in group}
        told = {key: entry for key, entry in entries.items() if entry.reason not in NOT_TOLD}
        compared = [self._comparisons.ledger[pair] for pair in pairs if pair.parent in told]
        there = [entry for entry in compared if entry.reason not in NOT_TOLD]
        return add_up(name, told.values(), there, now)

    def _list_pairs(
        self, info: ServerInfo, members: Iterable[Process], processes: Iterable[Process]
    ) -> dict[Pair, Candidate]:
        """Return all members with each of their children, and how many pages the larger one has."""
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
                pages = max(parent.page_count, child.page_count)
                pairs[pair] = Candidate(pages, child.uid)
        return pairs


def _is_granted(info: ServerInfo, needed: GrantDetail) -> bool:
    return info.caller.uid == 0 or info.granted >= needed


def _may_see(info: ServerInfo, process: Process, needed: GrantDetail) -> bool:
    """Whether it is worth asking: of others' processes each refusal would be put on record."""
    return _is_granted(info, needed) or process.uid == info.caller.uid
