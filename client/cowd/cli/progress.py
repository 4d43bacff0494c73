# SPDX-License-Identifier: Apache-2.0
"""Progress on standard error, for a person who has waited for over a second."""

import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Final, Protocol, TypeVar

__all__ = ["announce", "track_pages"]

_PATIENCE_SECONDS: Final = 1.0


class _Pages(Protocol):
    """An answer about some pages."""

    @property
    def page_count(self) -> int:
        """Return how many they are."""


_Chunk = TypeVar("_Chunk", bound=_Pages)


def track_pages(chunks: Iterable[_Chunk], label: str, total: int) -> Iterator[_Chunk]:
    """Yield `chunks`; after a second, show a terminal how many of `total` pages have come."""
    due = time.monotonic() + _PATIENCE_SECONDS if sys.stderr.isatty() else float("inf")
    done = 0
    bar = None
    with ExitStack() as stack:
        for chunk in chunks:
            yield chunk
            done += chunk.page_count
            if bar is None and time.monotonic() >= due:
                from rich.console import Console
                from rich.progress import Progress

                bar = stack.enter_context(Progress(console=Console(stderr=True), transient=True))
                bar.add_task(label, total=total)
            if bar is not None:
                bar.update(bar.task_ids[0], completed=done)


@contextmanager
def announce(label: str) -> Iterator[None]:
    """Show a terminal, after a second, that the work inside goes on; nobody knows how far it is."""
    if not sys.stderr.isatty():
        yield
        return
    is_done = threading.Event()

    def show() -> None:
        if is_done.wait(_PATIENCE_SECONDS):
            return
        from rich.console import Console

        with Console(stderr=True).status(label):
            is_done.wait()

    thread = threading.Thread(target=show)
    thread.start()
    try:
        yield
    finally:
        is_done.set()
        thread.join()
