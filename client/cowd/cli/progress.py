# SPDX-License-Identifier: Apache-2.0
"""Progress on standard error, for a person who has waited for over a second.

A thread of its own paints it, so that it is there while all else waits for an answer. No other
thread is started where standard error is no terminal. What cannot be painted is let go.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread
from typing import Final, Protocol, TypeVar

__all__ = ["show_progress", "track_items", "track_pages"]

_PATIENCE_SECONDS: Final = 1.0
_REFRESH_SECONDS: Final = 0.1


class _HasPages(Protocol):
    """What has been done of some number of pages, such as `cowd.PageChunk`."""

    @property
    def page_count(self) -> int: ...


Item = TypeVar("Item")
Chunk = TypeVar("Chunk", bound=_HasPages)


def track_pages(chunks: Iterable[Chunk], label: str, total: int) -> Iterator[Chunk]:
    """Yield `chunks`; after a second, show a terminal how many of `total` pages have come."""
    return track_items(chunks, label, total, lambda chunk: chunk.page_count)


def track_items(
    items: Iterable[Item],
    label: str,
    total: int | None = None,
    measure: Callable[[Item], int] = lambda _: 1,
) -> Iterator[Item]:
    """Yield `items`; after a second, show a terminal how far that is.

    Args:
        items: are asked for one by one.
        label: what is being done, such as "Reading process 4711".
        total: of what `measure` returns; None if it is not known.
        measure: how much an item is; each counts for one by default.
    """
    with show_progress(label, total) as advance:
        for item in items:
            yield item
            advance(measure(item))


@contextmanager
def show_progress(label: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """After a second in the `with` statement, show a terminal that work goes on.

    Args:
        label: as in `track_items`.
        total: as in `track_items`.

    Yields:
        A function to call with how much more has been done.
    """
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count

    if not sys.stderr.isatty():
        yield advance
        return
    ended = Event()
    painter = Thread(target=_paint, args=(ended, label, total, lambda: done), daemon=True)
    painter.start()
    try:
        yield advance
    finally:
        ended.set()
        painter.join()


def _paint(ended: Event, label: str, total: int | None, read_done: Callable[[], int]) -> None:
    if ended.wait(_PATIENCE_SECONDS):
        return
    from rich.console import Console
    from rich.progress import Progress

    with (
        suppress(OSError),  # The terminal is gone.
        Progress(
            console=Console(stderr=True),
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
        ) as bar,
    ):
        task = bar.add_task(label, total=total)
        has_ended = False
        while not has_ended:
            has_ended = ended.wait(_REFRESH_SECONDS)
            bar.update(task, completed=read_done(), refresh=True)
