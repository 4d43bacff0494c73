# SPDX-License-Identifier: Apache-2.0
"""Looks at processes, and at parents with their children, as long as there is time and allowance.

Runs as whoever exports; the daemon reads. What was found is kept until the next look. What does not
answer is asked alone from then on, after all others, and ever less often, so that a process that
hangs delays nothing but itself.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
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
from cowd._overviews import iter_shares
from cowd._shares import Shares
from cowd._summaries import ProcessSummary
from cowd.exporters.processes import Identity, Process, is_alive
from cowd.exporters.schedule import Allowance, Candidate, Ledger

__all__ = ["Comparisons", "Looked", "Pair", "Summaries", "is_related"]

_PAGES_PER_PROCESS: Final = 20_000
"""What it costs to look at a process, however few pages it has, as if they were pages."""
_PAGES_PER_PAIR: Final = 200_000
"""What it costs to list the mappings of two processes and to compare them, in the same way."""
_LOOKS_PER_COMPARISON: Final = 4
"""What a page of two processes costs: three looks, and to compare what they found."""
_UNRELATED_SECONDS: Final = 3600.0
"""How long a child is left alone that has nothing of its parent's."""
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
        candidates = {
            each.identity: Candidate(each.page_count + _PAGES_PER_PROCESS, each.uid)
            for each in processes
        }
        self._asked_alone &= candidates.keys()
        due = self._allowance.choose(self.ledger.list_due(candidates, self._clock()))
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
    """What is known of parents with their children.

    Args:
        allowance, cache_seconds, clock: as of Summaries.
        longest_seconds: that one comparison may take.
    """

    def __init__(
        self,
        allowance: Allowance,
        cache_seconds: float,
        clock: Callable[[], float],
        longest_seconds: float,
    ) -> None:
        self._allowance = allowance
        self._clock = clock
        self._longest_seconds = longest_seconds
        self.ledger: Ledger[Pair, Shares] = Ledger(cache_seconds)

    def update(self, client: Client, pairs: Mapping[Pair, Candidate], deadline: float) -> None:
        """Compare those that are due.

        Args:
            client: of the daemon.
            pairs: what may be compared; each costs about as much as the larger of the two.
            deadline: when to begin no more.

        Raises:
            Error: it concerns no single process.
        """
        candidates = {
            pair: Candidate(_LOOKS_PER_COMPARISON * pages + _PAGES_PER_PAIR, uid)
            for pair, (pages, uid) in pairs.items()
        }
        listed: dict[Identity, MappingList] = {}  # of parents
        hung: set[Identity] = set()
        for pair in self._allowance.choose(self.ledger.list_due(candidates, self._clock())):
            started_at = self._clock()
            if started_at >= deadline:
                return
            if pair.parent in hung:
                continue
            try:
                if pair.parent not in listed:
                    listed[pair.parent] = client.list_mappings(pair.parent.pid)
                child = client.list_mappings(pair.child.pid)
                parts = iter_shares(client, listed[pair.parent], child)
                shares = self._add_up(parts, started_at + self._longest_seconds)
            except _OF_ONE_PAIR as error:
                is_late = isinstance(error, TimedOut)
                self._allowance.spend(candidates[pair].cost_pages if is_late else _PAGES_PER_PAIR)
                self._note_failure(pair, error)
                if is_late:
                    hung.add(pair.parent)
            else:
                self._note(pair, shares)

    def _add_up(self, parts: Iterable[Shares], deadline: float) -> Shares:
        """Return all of it together.

        Raises:
            TimedOut: it goes on for too long.
            Error: as of the client.
        """
        shares = Shares()
        for part in parts:
            shares += part
            if self._clock() >= deadline:
                raise TimedOut("they take too long to compare", reason="TOO_LARGE")
        return shares

    def _note(self, pair: Pair, shares: Shares) -> None:
        cost = _LOOKS_PER_COMPARISON * (shares.total - shares.neither) + _PAGES_PER_PAIR
        self._allowance.spend(cost)
        if not _are_alive(pair):
            self.ledger.note_failure(pair, "NO_SUCH_PROCESS", self._clock())
            return
        self.ledger.note(pair, shares, cost, self._clock())
        if not is_related(shares):
            self.ledger.pause(pair, self._clock(), _UNRELATED_SECONDS)

    def _note_failure(self, pair: Pair, failure: Error) -> None:
        if not isinstance(failure, _ENDED):
            reason = failure.reason or type(failure).__name__
            self.ledger.note_failure(pair, reason, self._clock())
        elif not _are_alive(pair):
            self.ledger.note_failure(pair, "NO_SUCH_PROCESS", self._clock())


def is_related(shares: Shares) -> bool:
    """Whether a child has anything of its parent's: not if it has executed a program."""
    return bool(shares.shared or shares.copied)


def _are_alive(pair: Pair) -> bool:
    return is_alive(pair.parent) and is_alive(pair.child)
