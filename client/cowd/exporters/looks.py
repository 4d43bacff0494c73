# SPDX-License-Identifier: Apache-2.0
"""Looks at processes, and at parents with their children, as long as there is time and allowance.

Runs as whoever exports; the daemon reads. What was found is kept until the next look. What does not
answer is asked alone from then on, after all others, and ever less often, so that a process that
hangs delays nothing but itself.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Final, NamedTuple

from cowd._client import Client
from cowd._counts import PageCounts
from cowd._errors import (
    OF_ONE_PROCESS,
    Aborted,
    Error,
    InvalidRequest,
    NoSuchProcess,
    TimedOut,
)
from cowd._mappings import MappingList
from cowd._overviews import count_all_shares
from cowd._shares import Shares
from cowd._summaries import ProcessSummary
from cowd.exporters.processes import Identity, Process, is_alive
from cowd.exporters.schedule import Allowance, Ledger

__all__ = ["Comparisons", "Looked", "Pair", "Summaries"]

_PAGES_PER_PROCESS: Final = 20_000
"""What it costs to look at a process, however few pages it has, as if they were pages."""
_PAGES_PER_PAIR: Final = 200_000
"""What it costs to list the mappings of two processes and to compare them, in the same way."""
_LOOKS_PER_COMPARISON: Final = 4
"""Two at a page of each process."""
_UNRELATED_SECONDS: Final = 3600.0
"""How long a child is left alone that has nothing of its parent's: it has executed a program."""
_ENDED: Final = (Aborted, NoSuchProcess)
"""Errors of a process that has ended, or is another program by now."""
_OF_ONE_PAIR: Final = (*OF_ONE_PROCESS, InvalidRequest)
"""The last if they have address spaces of different sizes."""


class Looked(NamedTuple):
    """What was found of a process."""

    page_counts: PageCounts
    copied_page_count: int


class Pair(NamedTuple):
    """A process and a child of it."""

    parent: Identity
    child: Identity


class Summaries:
    """What is known of processes.

    Args:
        allowance: what may be spent on looks.
        cache_seconds: how long what was found is good.
        clock: a steady clock, in seconds.
    """

    def __init__(
        self, allowance: Allowance, cache_seconds: float, clock: Callable[[], float]
    ) -> None:
        self._allowance = allowance
        self._clock = clock
        self._asked_alone: set[Identity] = set()
        self.ledger: Ledger[Identity, Looked] = Ledger(cache_seconds)

    def update(self, client: Client, processes: Collection[Process], deadline: float) -> None:
        """Look at those that are due.

        Args:
            client: of the daemon.
            processes: all that may be looked at.
            deadline: when to look no more.

        Raises:
            Error: it concerns no single process.
        """
        expected = {each.identity: each.page_count + _PAGES_PER_PROCESS for each in processes}
        self._asked_alone &= expected.keys()
        due = self._allowance.choose(self.ledger.list_due(expected, self._clock()))
        together = [identity for identity in due if identity not in self._asked_alone]
        alone = [identity for identity in due if identity in self._asked_alone]
        try:
            self._summarize(client, together, deadline)
        except TimedOut:
            # One of those that are left keeps the others waiting: most likely the first, which is
            # asked last, but the daemon works on several.
            self._asked_alone.update(together)
            alone = together[1:] + alone + together[:1]
        for identity in alone:
            try:
                self._summarize(client, [identity], deadline)
            except TimedOut as error:
                self._note_failure(identity, error)

    def _summarize(self, client: Client, identities: list[Identity], deadline: float) -> None:
        """Ask about all of them, in one call, until the deadline; take those off that are answered.

        Raises:
            TimedOut: there was no answer for one of them.
            Error: it concerns no single process.
        """
        if not identities or self._clock() >= deadline:
            return
        answers = client.summarize_processes([each.pid for each in identities])
        for summary in answers:
            self._note(identities.pop(0), summary)
            if self._clock() >= deadline:
                return  # and the iterator, dropped, ends the call

    def _note(self, identity: Identity, summary: ProcessSummary) -> None:
        if summary.failure is not None:
            self._note_failure(identity, summary.failure)
            return
        counts = summary.page_counts
        cost = counts.total - counts.absent + _PAGES_PER_PROCESS
        self._allowance.spend(cost)
        if is_alive(identity):  # else the answer may be about another process of that pid
            looked = Looked(counts, summary.copied_page_count)
            self.ledger.note(identity, looked, cost, self._clock())
            self._asked_alone.discard(identity)
        else:
            self.ledger.note_failure(identity, "NO_SUCH_PROCESS", self._clock())

    def _note_failure(self, identity: Identity, failure: Error) -> None:
        self._allowance.spend(_PAGES_PER_PROCESS)
        if isinstance(failure, TimedOut):
            self._asked_alone.add(identity)
        if not isinstance(failure, _ENDED):
            reason = failure.reason or type(failure).__name__
            self.ledger.note_failure(identity, reason, self._clock())
        elif not is_alive(identity):  # else its group would miss it in this scrape
            self.ledger.note_failure(identity, "NO_SUCH_PROCESS", self._clock())


class Comparisons:
    """What is known of parents with their children. Arguments are those of Summaries."""

    def __init__(
        self, allowance: Allowance, cache_seconds: float, clock: Callable[[], float]
    ) -> None:
        self._allowance = allowance
        self._clock = clock
        self.ledger: Ledger[Pair, Shares] = Ledger(cache_seconds)

    def update(self, client: Client, pairs: Mapping[Pair, int], deadline: float) -> None:
        """Compare those that are due.

        Args:
            client: of the daemon.
            pairs: with about how many pages each has to compare.
            deadline: when to compare no more.

        Raises:
            Error: it concerns no single process.
        """
        expected = {
            pair: _LOOKS_PER_COMPARISON * pages + _PAGES_PER_PAIR for pair, pages in pairs.items()
        }
        listed: dict[Identity, MappingList] = {}  # of parents
        hung: set[Identity] = set()
        for pair in self._allowance.choose(self.ledger.list_due(expected, self._clock())):
            if self._clock() >= deadline:
                return
            if pair.parent in hung:
                continue
            try:
                if pair.parent not in listed:
                    listed[pair.parent] = client.list_mappings(pair.parent.pid)
                child = client.list_mappings(pair.child.pid)
                shares = count_all_shares(client, listed[pair.parent], child)
            except _OF_ONE_PAIR as error:
                self._note_failure(pair, error)
                if isinstance(error, TimedOut):
                    hung.add(pair.parent)
            else:
                self._note(pair, shares)

    def _note(self, pair: Pair, shares: Shares) -> None:
        cost = _LOOKS_PER_COMPARISON * (shares.total - shares.neither) + _PAGES_PER_PAIR
        self._allowance.spend(cost)
        if not _are_alive(pair):
            self.ledger.note_failure(pair, "NO_SUCH_PROCESS", self._clock())
            return
        self.ledger.note(pair, shares, cost, self._clock())
        if not shares.shared and not shares.copied:
            self.ledger.pause(pair, self._clock(), _UNRELATED_SECONDS)

    def _note_failure(self, pair: Pair, failure: Error) -> None:
        self._allowance.spend(_PAGES_PER_PAIR)
        if not isinstance(failure, _ENDED):
            reason = failure.reason or type(failure).__name__
            self.ledger.note_failure(pair, reason, self._clock())
        elif not _are_alive(pair):
            self.ledger.note_failure(pair, "NO_SUCH_PROCESS", self._clock())


def _are_alive(pair: Pair) -> bool:
    return is_alive(pair.parent) and is_alive(pair.child)
