# SPDX-License-Identifier: Apache-2.0
"""Counts what this worker does, into the file that the broker reads.

Worker, unprivileged. Calls end in several threads; each writes all words, which is one system call
and takes about a microsecond. The file is written to and not mapped: shared memory is forbidden to
workers, and the zygote that they come from.
"""

import os
import threading
from bisect import bisect_left
from typing import Final

from cowdaemon.counters import (
    BOUNDS_SECONDS,
    METHODS,
    PAGES_READ,
    make_words,
    place_of_call,
    place_of_durations,
    place_of_refusal,
)
from cowdaemon.errors import Code, Reason

__all__ = ["Counters", "number_method"]

_NUMBERS: Final = {path: number for number, path in enumerate(METHODS)}
_OTHER: Final = len(METHODS) - 1
_BUCKETS: Final = len(BOUNDS_SECONDS) + 1
_REFUSING: Final = (Code.PERMISSION_DENIED, Code.RESOURCE_EXHAUSTED)


def number_method(path: str) -> int:
    """Return the place of a method in METHODS, that of all others if it has none."""
    return _NUMBERS.get(path, _OTHER)


class Counters:
    """The words of this worker. Threads may share them.

    Args:
        file: descriptor of a file that has their size.
    """

    def __init__(self, file: int) -> None:
        self._file: Final = file
        self._words: Final = make_words()
        self._counting: Final = threading.Lock()

    def count_call(self, method: int, code: Code) -> None:
        """Count a call that ended."""
        with self._counting:
            self._words[place_of_call(method, code)] += 1
            self._write()

    def count_work(self, method: int, outcome: Code | Reason, seconds: float) -> None:
        """Count a call that was worked on for so long, and ended with a code or for a reason."""
        code = outcome.code if isinstance(outcome, Reason) else outcome
        bucket = place_of_durations(method) + bisect_left(BOUNDS_SECONDS, seconds)
        total = place_of_durations(method) + _BUCKETS
        with self._counting:
            words = self._words
            words[place_of_call(method, code)] += 1
            words[bucket] += 1
            words[total] += int(seconds * 1e9)
            if isinstance(outcome, Reason) and code in _REFUSING:
                words[place_of_refusal(outcome)] += 1
            self._write()

    def count_pages(self, count: int) -> None:
        """Count pages that are read."""
        with self._counting:
            self._words[PAGES_READ] += count
            self._write()

    def _write(self) -> None:
        os.pwrite(self._file, self._words, 0)
