# SPDX-License-Identifier: Apache-2.0
"""Pieces of a stream told in their order, of which some wait for others to be read along with.

Worker, unprivileged. A piece whose frames follow each other is told as soon as it has been looked
at. Scattered frames cost the less, the more of them are read together, so pieces that need the
flags of such wait for each other, up to a window. Fails as the looks do.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Generic, NamedTuple, TypeVar

from cowdaemon.limits import PAGES_PER_CALL, WINDOW_PAGES, WINDOW_PIECES
from cowdaemon.worker.chunks import Chunk
from cowdaemon.worker.page_states import Words
from cowdaemon.worker.read_ahead import Run, map_ahead, map_at_once
from cowdaemon.worker.reader import Reader

__all__ = ["Look", "Waiting", "Windows"]

_T = TypeVar("_T")
_R = TypeVar("_R")


class Waiting(NamedTuple, Generic[_R]):
    """What a piece waits for: the flags of pages with these entries, to be told with them."""

    entries: Words
    tell: Callable[[Words], list[_R]]


class Look(NamedTuple, Generic[_R]):
    """What one look at a piece came to.

    Attributes:
        page_count: how many pages it counts for in a window.
        result: what is told of its chunks, or what that takes.
    """

    page_count: int
    result: list[_R] | Waiting[_R]


class Windows:
    """How one call's pieces are worked on.

    Args:
        reader: reads the flags of scattered frames.
        threads: those that read; a call of few pages is read in its own.
        ranges: of the call: first page and page after the last of each.
        verify_wanted: called before each part of the work, in any thread; what it raises ends it.
    """

    def __init__(
        self,
        reader: Reader,
        threads: ThreadPoolExecutor,
        ranges: Sequence[tuple[int, int]],
        verify_wanted: Callable[[], None],
    ) -> None:
        is_small = sum(end - first for first, end in ranges) <= PAGES_PER_CALL
        self._reader = reader
        self._verify_wanted = verify_wanted
        self._run: Run = map if is_small else partial(map_ahead, threads)
        self._run_at_once: Run = map_at_once if is_small else threads.map

    def iter_told(
        self, pieces: Iterable[list[Chunk]], look: Callable[[list[Chunk]], Look[_R]]
    ) -> Iterator[_R]:
        """Yield what is told of pieces, in their order.

        Args:
            pieces: what one thread looks at each.
            look: looks at a piece; called, as what it returns, in any thread.
        """

        def look_if_wanted(piece: list[Chunk]) -> Look[_R]:
            self._verify_wanted()
            return look(piece)

        window: list[list[_R] | Waiting[_R]] = []
        page_count = 0
        for part_count, result in self._run(look_if_wanted, pieces):
            window.append(result)
            page_count += part_count
            is_full = page_count >= WINDOW_PAGES or len(window) == WINDOW_PIECES
            if is_full or not isinstance(window[0], Waiting):
                del result
                yield from self._finish(window)
                page_count = 0
        yield from self._finish(window)

    def _finish(self, window: list[list[_R] | Waiting[_R]]) -> Iterator[_R]:
        """Yield what is told of all pieces of a window; nothing is held for longer than needed."""
        tolds = deque(None if isinstance(each, Waiting) else each for each in window)
        waiting = deque(each for each in window if isinstance(each, Waiting))
        window.clear()
        settled: Iterator[list[_R]] = iter(())
        if waiting:
            self._verify_wanted()
            entries = [each.entries for each in waiting]
            flags = deque(self._reader.read_scattered(entries, self._run, self._verify_wanted))
            del entries
            # At once: whoever takes no answers does not put the second look off.
            settled = iter(self._run_at_once(self._tell, _take(waiting), _take(flags)))
        for told in _take(tolds):
            yield from next(settled) if told is None else told

    def _tell(self, waiting: Waiting[_R], flags: Words) -> list[_R]:
        self._verify_wanted()
        return waiting.tell(flags)


def _take(items: deque[_T]) -> Iterator[_T]:
    """Yield the items, and hold none that has been taken."""
    while items:
        yield items.popleft()
