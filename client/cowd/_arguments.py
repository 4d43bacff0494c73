# SPDX-License-Identifier: Apache-2.0
"""Arguments of the calls as plain integers, with errors that name what was wrong. Pure."""

import operator
from collections.abc import Iterable
from typing import SupportsIndex

from cowd._errors import InvalidRequest

__all__ = ["as_integer", "as_pids", "as_ranges"]


def as_integer(value: SupportsIndex, what: str) -> int:
    """Return a number as an int.

    Raises:
        InvalidRequest: it is none.
    """
    try:
        return operator.index(value)
    except TypeError as error:
        raise InvalidRequest(f"{value!r} is no {what}: give an int") from error


def as_pids(pids: Iterable[SupportsIndex]) -> list[int]:
    """Return several pids as ints.

    Raises:
        InvalidRequest: one is none, or it is one and not several.
    """
    try:
        wanted = list(pids)
    except TypeError as error:
        raise InvalidRequest(
            f"{pids!r} is no list of pids: give one, of a single pid, too"
        ) from error
    return [as_integer(pid, "pid") for pid in wanted]


def as_ranges(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return ranges as address, in bytes, and number of pages.

    Raises:
        InvalidRequest: one is not that.
    """
    try:
        return [(operator.index(address), operator.index(count)) for address, count in ranges]
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"a range is an address and a count: {error}") from error
