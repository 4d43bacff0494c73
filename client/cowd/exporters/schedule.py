# SPDX-License-Identifier: Apache-2.0
"""What to look at next, and when to stop: least recently looked at first, within an allowance.

Pure but for its own memory; whoever calls says what time it is, in seconds of any steady clock.
"""

from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Final, Generic, NamedTuple, TypeVar

__all__ = ["Allowance", "Candidate", "Entry", "Ledger"]

_BURST_SECONDS: Final = 60.0
"""Of an allowance that may be saved up: a scrape a minute may look at what a minute allows. As much
may be owed: what was larger than that keeps the rest waiting for no longer."""
_FIRST_PAUSE_SECONDS: Final = 60.0
_LONGEST_PAUSE_SECONDS: Final = 3600.0

_Key = TypeVar("_Key", bound=Hashable)
_Value = TypeVar("_Value")


class Allowance:
    """How many pages may be looked at: so many a second, saved up for a while.

    Args:
        pages_per_second: 0 for as many as there are.
        now: the time.
    """

    def __init__(self, pages_per_second: int, now: float) -> None:
        self._rate: Final = pages_per_second
        self._pages = pages_per_second * _BURST_SECONDS
        self._at = now

    def refill(self, now: float) -> None:
        """Add what time has brought."""
        saved = self._pages + self._rate * (now - self._at)
        self._pages = min(self._rate * _BURST_SECONDS, saved)
        self._at = now

    def spend(self, pages: int) -> None:
        """Note that so many have been looked at, which may be more than there were to spend."""
        self._pages = max(self._pages - pages, -self._rate * _BURST_SECONDS)

    def choose(self, costs: Iterable[tuple[_Key, int]]) -> list[_Key]:
        """Return as many as there are pages for, in their order; nothing is spent yet.

        The last one may cost more than is left, however much: what comes after it waits for that,
        a while at most.
        """
        chosen: list[_Key] = []
        left = self._pages
        for key, cost in costs:
            if self._rate and left <= 0:
                break
            left -= cost
            chosen.append(key)
        return chosen


class Candidate(NamedTuple):
    """What may be looked at.

    Attributes:
        cost_pages: what that may cost, as far as one knows beforehand.
        uid: whose it is.
    """

    cost_pages: int
    uid: int


@dataclass(slots=True)
class Entry(Generic[_Value]):
    """What is known of one thing that is looked at from time to time.

    Attributes:
        value: what was found last; None if nothing was ever found.
        found_at: when that was.
        cost_pages: what that look cost.
        failures: looks in a row that failed.
        reason: why the last look failed; None if it did not.
        not_before: when to look again at the earliest.
    """

    value: _Value | None = None
    found_at: float = 0.0
    cost_pages: int | None = None
    failures: int = 0
    reason: str | None = None
    not_before: float = float("-inf")

    @property
    def is_good(self) -> bool:
        """Whether the last look found something."""
        return self.value is not None and self.reason is None


class Ledger(Generic[_Key, _Value]):
    """What is known of everything that is looked at.

    Args:
        cache_seconds: how long what was found is good.
    """

    def __init__(self, cache_seconds: float) -> None:
        self._cache_seconds: Final = cache_seconds
        self._entries: dict[_Key, Entry[_Value]] = {}

    def __getitem__(self, key: _Key) -> Entry[_Value]:
        return self._entries[key]

    def __iter__(self) -> Iterator[_Key]:
        return iter(self._entries)

    def keep(self, keys: Collection[_Key]) -> None:
        """Forget all others, and begin with those that are new."""
        self._entries = {key: self._entries.get(key) or Entry() for key in keys}

    def list_due(self, candidates: Mapping[_Key, Candidate], now: float) -> list[tuple[_Key, int]]:
        """Return those to look at, and what each cost the last time or may cost.

        Users take turns, so that one who has many, or new ones all the time, keeps out nobody. Each
        has first what was looked at least recently.
        """
        due = [key for key in candidates if self._entries[key].not_before <= now]
        due.sort(key=lambda key: self._entries[key].not_before)
        turns = Counter[int]()
        placed = []
        for key in due:
            cost_pages, uid = candidates[key]
            turns[uid] += 1
            placed.append((turns[uid], (key, self._entries[key].cost_pages or cost_pages)))
        placed.sort(key=itemgetter(0))
        return [each for _, each in placed]

    def note(self, key: _Key, value: _Value, cost_pages: int, now: float) -> None:
        """Note what was found."""
        self._entries[key] = Entry(value, now, cost_pages, not_before=now + self._cache_seconds)

    def pause(self, key: _Key, now: float, seconds: float = _LONGEST_PAUSE_SECONDS) -> None:
        """Look at it no more for so long."""
        self._entries[key].not_before = now + seconds

    def note_failure(self, key: _Key, reason: str, now: float) -> None:
        """Note that it could not be looked at; it is left alone for longer each time."""
        entry = self._entries[key]
        seconds = _FIRST_PAUSE_SECONDS * 2.0 ** min(entry.failures, 10)
        entry.failures += 1
        entry.reason = reason
        self.pause(key, now, min(seconds, _LONGEST_PAUSE_SECONDS))
