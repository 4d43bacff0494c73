# SPDX-License-Identifier: Apache-2.0
"""When to look again, and the time of a look."""

import time
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, Final, TypeVar

import click

__all__ = [
    "count_option",
    "interval_option",
    "iter_ticks",
    "read_seconds",
    "read_time",
    "wait_until",
]

_Function = TypeVar("_Function", bound=Callable[..., Any])

_LEAST_SECONDS: Final = 0.01
_MOST_SECONDS: Final = 1e6
"""Far below what overflows in the kernel's timers."""

interval_option = click.option(
    "--interval",
    "interval_seconds",
    metavar="SECONDS",
    type=click.FloatRange(_LEAST_SECONDS, _MOST_SECONDS),
    default=2.0,
    help="From the start of one look to the start of the next; 2 by default.",
)


def count_option(default: str) -> Callable[[_Function], _Function]:
    """Return the option for the number of looks.

    Args:
        default: in words.
    """
    return click.option(
        "--count",
        metavar="NUMBER",
        type=click.IntRange(1),
        help=f"End after so many looks; {default} by default.",
    )


def iter_ticks(interval_seconds: float, count: int | None) -> Iterator[float | None]:
    """Yield when the next look is due after this one, by time.monotonic; None for the last.

    What takes longer than the interval is not made up for.

    Args:
        interval_seconds: from the start of one look to the start of the next.
        count: number of looks; None for ever.
    """
    due = time.monotonic()
    number = 0
    while count is None or number < count:
        number += 1
        due = max(due + interval_seconds, time.monotonic())
        yield None if number == count else due


def wait_until(due: float) -> None:
    """Wait until that time of time.monotonic, or not at all if it is past."""
    time.sleep(max(0.0, due - time.monotonic()))


def read_seconds() -> float:
    """Return time.monotonic()."""
    return time.monotonic()


def read_time() -> datetime:
    """Return the time, in the zone of the caller."""
    return datetime.now().astimezone()
