# SPDX-License-Identifier: Apache-2.0
"""What workers count, as words of 64 bits: which word stands for what, and how words add up.

Pure values. A worker counts, unprivileged, into a file of these words; the broker, which is root,
adds up those of all workers, and knows no more of them than how many there are and which are
refusals. Whoever breaks into a worker can lie about its own.
"""

from array import array
from collections.abc import Sequence
from typing import Final

from cowdaemon.errors import Reason

__all__ = [
    "BOUNDS_SECONDS",
    "CODES",
    "COUNTERS_BYTES",
    "METHODS",
    "PAGES_READ",
    "WORDS",
    "Words",
    "add_words",
    "make_words",
    "place_of_call",
    "place_of_durations",
    "place_of_refusal",
]

Words = array  # of typecode "Q": in a file in host order, as all who read it run on one machine

METHODS: Final = (
    "/cowd.v1.PageFlagsService/GetPageFlags",
    "/cowd.v1.PageFlagsService/StreamPageFlags",
    "/cowd.v1.PageFlagsService/ListMappings",
    "/cowd.v1.PageFlagsService/SummarizeProcesses",
    "/cowd.v1.PageFlagsService/ComparePages",
    "/cowd.v1.PageFlagsService/GetServerInfo",
    "/cowd.v1.PageFlagsService/GetStatistics",
    "/grpc.health.v1.Health/Check",
    "",
)
"""The methods by their paths; the last stands for every other one."""
CODES: Final = 17
"""gRPC has so many, from 0."""
BOUNDS_SECONDS: Final = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)
"""Of durations: of a call about few pages half a millisecond, about all processes seconds."""

_REASONS: Final = 64
"""More than there are: a reason's number is its place."""
_DURATION_WORDS: Final = len(BOUNDS_SECONDS) + 2
"""A bucket for each bound, one for what is above all, and the sum in nanoseconds."""
_DURATIONS: Final = len(METHODS) * CODES
_REFUSALS: Final = _DURATIONS + len(METHODS) * _DURATION_WORDS
PAGES_READ: Final = _REFUSALS + _REASONS
"""Place of the number of pages that were read."""
WORDS: Final = PAGES_READ + 1
COUNTERS_BYTES: Final = 8 * WORDS
_WORD_MASK: Final = (1 << 64) - 1


def make_words() -> "Words[int]":
    """Return words in which nothing has been counted."""
    return array("Q", bytes(COUNTERS_BYTES))


def place_of_call(method: int, code: int) -> int:
    """Return the place of how many calls of a method, by its place in METHODS, had this code."""
    return method * CODES + code


def place_of_durations(method: int) -> int:
    """Return the place of the first bucket of a method; the sum comes after the last one."""
    return _DURATIONS + method * _DURATION_WORDS


def place_of_refusal(reason: Reason) -> int:
    """Return the place of how much was refused for a reason."""
    return _REFUSALS + reason.number


def add_words(several: Sequence["Words[int]"]) -> "Words[int]":
    """Return their sums, modulo 2^64: whatever a worker says it has counted, they are words."""
    return array("Q", [sum(column) & _WORD_MASK for column in zip(*several, strict=True)])
