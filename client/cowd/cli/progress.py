# SPDX-License-Identifier: Apache-2.0
"""Progress on standard error, for a person who has waited for over a second."""

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    import rich.progress

__all__ = ["Progress"]

_PATIENCE_SECONDS: Final = 1.0


class Progress:
    """A bar that appears after a second, on a terminal only, and leaves no trace.

    Args:
        label: what is going on.
        total: of what `advance` counts.
    """

    def __init__(self, label: str, total: int) -> None:
        self._label = label
        self._total = total
        self._done = 0
        self._due = time.monotonic() + _PATIENCE_SECONDS if sys.stderr.isatty() else float("inf")
        self._bar: rich.progress.Progress | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, count: int) -> None:
        """Count `count` more as done."""
        self._done += count
        if self._bar is None and time.monotonic() >= self._due:
            self._bar = self._start_bar()
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self._done)

    def _start_bar(self) -> "rich.progress.Progress":
        import rich.console
        import rich.progress

        bar = rich.progress.Progress(
            rich.progress.TextColumn("{task.description}"),
            rich.progress.BarColumn(),
            rich.progress.TaskProgressColumn(),
            rich.progress.TimeRemainingColumn(),
            console=rich.console.Console(stderr=True),
            transient=True,
        )
        bar.add_task(self._label, total=self._total)
        bar.start()
        return bar
