# SPDX-License-Identifier: Apache-2.0
"""Bars that show what something consists of, in characters of several sorts. Pure."""

from collections.abc import Sequence

from cowd.cli.symbols import Symbol

__all__ = ["draw_bar", "share_out"]


def draw_bar(parts: Sequence[tuple[Symbol, int]], width: int) -> list[tuple[str, str]]:
    """Draw parts side by side, as long as they are large.

    Args:
        parts: how each is drawn, and how large it is.
        width: of the bar, in columns.

    Returns:
        The texts of the bar, and the style of each in the words of rich.
    """
    lengths = share_out([size for _, size in parts], width)
    return [
        (symbol.char * length, symbol.style)
        for (symbol, _), length in zip(parts, lengths, strict=True)
        if length
    ]


def share_out(sizes: Sequence[int], width: int) -> list[int]:
    """Return what each part gets of a width, in proportion to its size.

    A part that is there gets at least one column, as long as there are any, the largest first.
    """
    total = sum(sizes)
    lengths = [0] * len(sizes)
    by_size = sorted((index for index, size in enumerate(sizes) if size), key=lambda i: -sizes[i])
    shown = by_size[:width]
    for index in shown:
        lengths[index] = max(1, sizes[index] * width // total)
    while shown and sum(lengths) != width:
        # Whoever is furthest from what is due to it, and can give, or takes.
        step = 1 if sum(lengths) < width else -1
        able = [index for index in shown if lengths[index] + step > 0]
        index = max(able, key=lambda i: step * (sizes[i] * width - lengths[i] * total))
        lengths[index] += step
    return lengths
