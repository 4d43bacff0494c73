# SPDX-License-Identifier: Apache-2.0
"""One look at the states of a process's pages, and what changed from one to the next. Pure."""

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, NamedTuple

from cowd import Mapping, PageChunk, PageState, is_copied

__all__ = ["Change", "Look", "Stretch", "count_copied", "iter_changes", "iter_stretches"]

_ALIKE: Final = re.compile(rb"(.)\1*", re.DOTALL)


class Stretch(NamedTuple):
    """Neighbouring pages in one state, from `start` to before `end`; never ABSENT ones."""

    start: int
    end: int
    state: PageState


@dataclass(frozen=True, slots=True)
class Look:
    """What the pages of a process were at one time.

    Attributes:
        mappings: those that were looked at, in address order.
        stretches: of pages in them, in address order.
    """

    mappings: Sequence[Mapping]
    stretches: Sequence[Stretch]


class Change(NamedTuple):
    """Neighbouring pages of one mapping that were alike, and are alike again.

    Attributes:
        address: of the first page, in bytes.
        before, after: their state; None outside of what was looked at.
        copied: whether they have become private copies since.
        mapping: that they are in; the one that they were in if they are in none any more.
    """

    address: int
    page_count: int
    page_size_bytes: int
    before: PageState | None
    after: PageState | None
    copied: bool
    mapping: Mapping

    @property
    def size_bytes(self) -> int:
        """Size of all the pages."""
        return self.page_count * self.page_size_bytes


def iter_stretches(chunks: Iterable[PageChunk]) -> Iterator[Stretch]:
    """Yield what is not absent, as few stretches as that takes.

    Args:
        chunks: in address order.
    """
    last: Stretch | None = None
    for chunk in chunks:
        for pages in chunk.iter_stretches():
            for alike in _ALIKE.finditer(pages.states):
                state = PageState(alike[1][0])
                if state is PageState.ABSENT:
                    continue
                start = pages.address + alike.start() * chunk.page_size_bytes
                end = pages.address + alike.end() * chunk.page_size_bytes
                if last and last.state is state and last.end == start:
                    start = last.start
                elif last:
                    yield last
                last = Stretch(start, end, state)
    if last:
        yield last


def iter_changes(before: Look, after: Look, page_size_bytes: int) -> Iterator[Change]:
    """Yield what changed, in address order.

    That something is mapped, or unmapped, where no page is, changes nothing.
    """
    borders = sorted(_collect_borders(before) | _collect_borders(after))
    old, new = _Position(before), _Position(after)
    last: Change | None = None
    for start, end in pairwise(borders):
        was, was_in = old.find(start)
        now, now_in = new.find(start)
        mapping = now_in or was_in
        if mapping is None or (was or PageState.ABSENT) is (now or PageState.ABSENT):
            continue
        was_copied = was is not None and was_in is not None and is_copied(was_in.kind, was)
        now_copied = now is not None and now_in is not None and is_copied(now_in.kind, now)
        change = Change(
            start,
            (end - start) // page_size_bytes,
            page_size_bytes,
            was,
            now,
            bool(now_copied and not was_copied),
            mapping,
        )
        if last and last.address + last.size_bytes == start and last[3:] == change[3:]:
            change = change._replace(
                address=last.address, page_count=last.page_count + change.page_count
            )
        elif last:
            yield last
        last = change
    if last:
        yield last


def count_copied(look: Look, page_size_bytes: int) -> int:
    """Return how many pages of a look are private copies."""
    counts: Counter[bool | None] = Counter()
    position = _Position(Look(look.mappings, ()))
    for stretch in look.stretches:
        start = stretch.start
        while start < stretch.end:  # A stretch may go on in the mapping next to it.
            _, mapping = position.find(start)
            end = stretch.end if mapping is None else min(stretch.end, mapping.end_address)
            copied = is_copied(mapping.kind if mapping else None, stretch.state)
            counts[copied] += (end - start) // page_size_bytes
            start = end
    return counts[True]


class _Position:
    """A place in a look that only moves on."""

    def __init__(self, look: Look) -> None:
        self._mappings = look.mappings
        self._starts = [each.start_address for each in look.mappings]
        self._stretches = look.stretches
        self._index = 0

    def find(self, address: int) -> tuple[PageState | None, Mapping | None]:
        """Return state and mapping of the page at `address`; None outside any mapping."""
        index = bisect_right(self._starts, address) - 1
        if index < 0 or self._mappings[index].end_address <= address:
            return None, None
        while self._index < len(self._stretches) and self._stretches[self._index].end <= address:
            self._index += 1
        state = PageState.ABSENT
        if self._index < len(self._stretches) and self._stretches[self._index].start <= address:
            state = self._stretches[self._index].state
        return state, self._mappings[index]


def _collect_borders(look: Look) -> set[int]:
    borders = {border for each in look.stretches for border in (each.start, each.end)}
    for mapping in look.mappings:
        borders |= {mapping.start_address, mapping.end_address}
    return borders
