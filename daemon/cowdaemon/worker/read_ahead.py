# SPDX-License-Identifier: Apache-2.0
"""Lets threads of their own take items from an iterator, or work on them, while others are used.

Worker, unprivileged. What is ahead is bounded, so whoever does not take the items stops the work.
"""

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, Generic, TypeAlias, TypeVar

from cowdaemon.limits import READING_THREADS

__all__ = ["Run", "map_ahead", "map_at_once", "read_ahead"]

_T = TypeVar("_T")

_here = threading.local()
"""`is_working`: the thread is at work for `map_ahead`, and so must not wait for itself."""

Run: TypeAlias = Callable[..., Iterable[Any]]
"""How a function is applied to many things: `map`, or the same in several threads."""


def read_ahead(items: Iterator[_T], depth: int) -> Generator[_T, None, None]:
    """Yield `items`, up to `depth` of which are taken before they are wanted.

    Raises:
        Exception: what the iterator raises, in its place. If the generator is closed, the iterator
            goes no further than the next item, and that is waited for: a thread that was left
            behind would be counted by nobody, and it may be held up for good.
    """
    buffer: _Buffer[_T] = _Buffer(depth)
    thread = threading.Thread(target=buffer.fill, args=(items,), name="read-ahead", daemon=True)
    thread.start()
    try:
        yield from iter(buffer)
    finally:
        buffer.abandon()
        if thread is not threading.current_thread():  # which may be collecting garbage
            thread.join()


def map_ahead(
    threads: ThreadPoolExecutor, function: Callable[..., _T], *iterables: Iterable[Any]
) -> Generator[_T, None, None]:
    """Do what `map` does in several threads, few results ahead of what has been taken.

    If the generator is closed, what has not begun is not done, and what has is waited for, as by
    `read_ahead`.
    """
    under_way: deque[Future[_T]] = deque()

    def work(*arguments: Any) -> _T:  # noqa: ANN401
        _here.is_working = True
        try:
            return function(*arguments)
        finally:
            _here.is_working = False

    try:
        for arguments in zip(*iterables, strict=False):
            under_way.append(threads.submit(work, *arguments))
            if len(under_way) > READING_THREADS:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    finally:
        begun = [future for future in under_way if not future.cancel()]
        if not getattr(_here, "is_working", False):  # one of them may be collecting garbage
            wait(begun)


def map_at_once(function: Callable[..., _T], *iterables: Iterable[Any]) -> Iterator[_T]:
    """Do what `map` does before anything is taken, as threads do."""
    return iter(list(map(function, *iterables)))


class _Buffer(Generic[_T]):
    """What one thread puts in and another takes out."""

    def __init__(self, depth: int) -> None:
        self._depth = depth
        self._items: deque[_T] = deque()
        self._changed = threading.Condition()
        self._is_abandoned = False
        self._is_complete = False
        self._error: BaseException | None = None

    def fill(self, items: Iterator[_T]) -> None:
        """Put in every item, as long as anybody wants them."""
        try:
            for item in items:
                with self._changed:
                    self._changed.wait_for(
                        lambda: self._is_abandoned or len(self._items) < self._depth
                    )
                    if self._is_abandoned:
                        return
                    self._items.append(item)
                    self._changed.notify_all()
        except BaseException as error:  # noqa: BLE001 - raised where the items are taken
            self._error = error
        finally:
            with self._changed:
                self._is_complete = True
                self._changed.notify_all()

    def __iter__(self) -> Iterator[_T]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._items or self._is_complete)
                if not self._items:
                    break
                item = self._items.popleft()
                self._changed.notify_all()
            yield item
        error, self._error = self._error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # its traceback has all that was worked on, and this frame

    def abandon(self) -> None:
        """Want no more of them."""
        with self._changed:
            self._is_abandoned = True
            self._items.clear()
            self._changed.notify_all()
