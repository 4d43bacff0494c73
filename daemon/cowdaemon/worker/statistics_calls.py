# SPDX-License-Identifier: Apache-2.0
"""The call GetStatistics: asks the broker, and tells its words by name.

Worker, unprivileged. The broker alone knows what other workers have counted, and decides who may
see it: for anybody else the answer is no, here, without asking. To ask would end this worker, and
so would asking again too soon: calls share an answer.
"""

import socket
import threading
import time
from array import array
from collections.abc import Iterator
from typing import Final

from cowproto.v1 import pageflags_pb2 as messages

from cowdaemon import __version__, wire
from cowdaemon.counters import (
    BOUNDS_SECONDS,
    CODES,
    METHODS,
    PAGES_READ,
    Words,
    place_of_call,
    place_of_durations,
    place_of_refusal,
)
from cowdaemon.errors import CowdError, Reason
from cowdaemon.limits import STATISTICS_ANSWER_SECONDS, STATISTICS_SECONDS

__all__ = ["StatisticsCalls"]

_BUCKETS: Final = len(BOUNDS_SECONDS) + 1


class StatisticsCalls:
    """Answers for one credential.

    Args:
        broker: the control socket; what comes from there is received elsewhere, see take().
        is_allowed: whether the broker answers this worker.
    """

    def __init__(self, broker: socket.socket, is_allowed: bool) -> None:
        self._broker: Final = broker
        self._is_allowed: Final = is_allowed
        self._has_answered: Final = threading.Condition()
        self._is_asked = False
        self._answer: wire.Statistics | None = None
        self._kept_until = 0.0

    def take(self, answer: wire.Statistics) -> None:
        """Pass on what the broker has answered, to the calls that wait for it."""
        with self._has_answered:
            self._answer, self._is_asked = answer, False
            self._kept_until = time.monotonic() + STATISTICS_SECONDS
            self._has_answered.notify_all()

    def get_statistics(self, _: messages.GetStatisticsRequest) -> bytes:
        """Answer a call.

        Raises:
            CowdError: the caller may not see this, or the broker does not answer.
        """
        if not self._is_allowed:
            raise CowdError(Reason.STATISTICS_DENIED)
        told = self._ask()
        words = array("Q", told.words)
        return messages.GetStatisticsResponse(
            version=__version__,
            start_time_nanoseconds=told.start_time_nanoseconds,
            connection_count=told.connection_count,
            worker_count=told.worker_count,
            read_page_count=words[PAGES_READ],
            calls=_iter_calls(words),
            duration_bound_seconds=BOUNDS_SECONDS,
            durations=_iter_durations(words),
            refusals=_iter_refusals(words),
        ).SerializeToString()

    def _ask(self) -> wire.Statistics:
        """Return what the broker has just told, or tells now; it is asked once until it does."""
        with self._has_answered:
            if self._answer is not None and time.monotonic() < self._kept_until:
                return self._answer
            if not self._is_asked:
                try:
                    wire.send(self._broker, wire.Control(wire.STATISTICS).pack())
                except OSError as error:
                    raise CowdError(Reason.INTERNAL_ERROR) from error
                self._is_asked = True
            self._has_answered.wait_for(lambda: not self._is_asked, STATISTICS_ANSWER_SECONDS)
            if self._is_asked or self._answer is None:
                raise CowdError(Reason.INTERNAL_ERROR)
            return self._answer


def _name_method(path: str) -> str:
    return path.rpartition("/")[2]


def _iter_calls(words: "Words[int]") -> Iterator[messages.CallCount]:
    for method, path in enumerate(METHODS):
        for code in range(CODES):
            count = words[place_of_call(method, code)]
            if count:
                yield messages.CallCount(method=_name_method(path), code=code, count=count)


def _iter_durations(words: "Words[int]") -> Iterator[messages.CallDurations]:
    for method, path in enumerate(METHODS):
        first = place_of_durations(method)
        counts, nanoseconds = words[first : first + _BUCKETS], words[first + _BUCKETS]
        if any(counts):
            yield messages.CallDurations(
                method=_name_method(path), bucket_count=counts, total_seconds=nanoseconds / 1e9
            )


def _iter_refusals(words: "Words[int]") -> Iterator[messages.RefusalCount]:
    for reason in Reason:
        count = words[place_of_refusal(reason)]
        if count:
            yield messages.RefusalCount(reason=reason.name, count=count)
