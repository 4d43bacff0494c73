# SPDX-License-Identifier: Apache-2.0
"""Measuring ways side by side: each has its turn in every round, so a busy machine slows all alike.

Pure but for the ways themselves and what is said of the progress.
"""

import sys
from collections.abc import Callable, Mapping

Figures = dict[str, list[float]]
"""By way: what it told in each round, the first round first."""


def measure(ways: Mapping[str, Callable[[], float]], rounds: int, title: str) -> Figures:
    """Return what each way tells in so many rounds, after one more to warm up.

    Every other round goes the other way round: who comes second may find caches warm.
    """
    figures: Figures = {name: [] for name in ways}
    names = list(ways)
    for number in range(rounds + 1):
        for name in names if number % 2 else reversed(names):
            show_progress(f"{title}: round {number} of {rounds}, {name}")
            figure = ways[name]()
            if number:
                figures[name].append(figure)
    show_progress("")
    return figures


def show_progress(text: str) -> None:
    """Write over the line of progress, if standard error is a terminal."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text[:79]}", end="", file=sys.stderr, flush=True)
