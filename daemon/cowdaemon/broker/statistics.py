# SPDX-License-Identifier: Apache-2.0
"""What cowd has done since it started: added up from what each worker has counted.

Root, in the broker. A worker counts into a file of its own, which is read here and never mapped:
nothing that a worker does to it can hold up or end whoever reads. What a worker that ends has
counted is kept, so that sums never fall.
"""

import os
import time
from array import array

from cowdaemon import wire
from cowdaemon.counters import COUNTERS_BYTES, Words, add_words, make_words, place_of_refusal
from cowdaemon.errors import Reason
from cowdaemon.limits import STATISTICS_SECONDS
from cowdaemon.system.sealed_files import make_file_of_fixed_size

__all__ = ["Statistics"]


class Statistics:
    """The files of all workers that live, and what was counted besides."""

    def __init__(self) -> None:
        self._start_time_nanoseconds = time.time_ns()
        self._files: dict[int, int] = {}
        self._kept = make_words()  # of workers that have ended, who may have written anything
        self._own = make_words()  # of the broker, apart: to count on from 2^64 - 1 raises
        self._told = b""
        self._told_until = 0.0

    def make_counters(self, worker_id: int) -> int:
        """Return a descriptor, the caller's to close, of a file for a worker to count into.

        Raises:
            OSError: there is no memory or no descriptor; remove() clears what is left.
        """
        file = make_file_of_fixed_size("counters", COUNTERS_BYTES)
        self._files[worker_id] = file
        return os.dup(file)

    def remove(self, worker_id: int) -> None:
        """Keep what a worker has counted that ends; nothing happens if it never had a file."""
        file = self._files.pop(worker_id, None)
        if file is not None:
            self._kept = add_words([self._kept, _read_words(file)])
            os.close(file)

    def count_refusal(self, reason: Reason) -> None:
        """Count a connection that is refused or dropped."""
        self._own[place_of_refusal(reason)] += 1

    def tell(self, connection_count: int) -> bytes:
        """Return the message with all sums, which are up to STATISTICS_SECONDS old."""
        now = time.monotonic()
        if now >= self._told_until:
            words = add_words([self._kept, self._own, *map(_read_words, self._files.values())])
            about = self._start_time_nanoseconds, connection_count, len(self._files)
            self._told = wire.Statistics(*about, words.tobytes()).pack()
            self._told_until = now + STATISTICS_SECONDS
        return self._told


def _read_words(file: int) -> "Words[int]":
    return array("Q", os.pread(file, COUNTERS_BYTES, 0))
