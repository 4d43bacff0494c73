# SPDX-License-Identifier: Apache-2.0
"""Progress on standard error, for a person who has waited for over a second."""

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from typing import Final

from cowd import PageChunk

__all__ = ["track_pages"]

_PATIENCE_SECONDS: Final = 1.0


def track_pages(chunks: Iterable[PageChunk], label: str, total: int) -> Iterator[PageChunk]:
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
