# SPDX-License-Identifier: Apache-2.0
"""GetStatistics asks the broker, which the test plays, and tells its words by name."""

import socket
import threading
from collections.abc import Iterator

import pytest
from cowdaemon import __version__, wire
from cowdaemon.counters import (
    BOUNDS_SECONDS,
    PAGES_READ,
    make_words,
    place_of_call,
    place_of_durations,
    place_of_refusal,
)
from cowdaemon.errors import Code, CowdError, Reason
from cowdaemon.limits import STATISTICS_SECONDS
from cowdaemon.worker import statistics_calls
from cowdaemon.worker.call_counts import number_method
from cowdaemon.worker.statistics_calls import StatisticsCalls
from cowproto.v1 import pageflags_pb2 as messages
from unit.worker.served_process import HEALTH, METHODS, SECONDS

pytestmark = pytest.mark.usefixtures("nothing_is_left")
REQUEST = messages.GetStatisticsRequest()
NOTHING = wire.Statistics(1, 0, 0, make_words().tobytes())


class Broker:
    """Answers as often as it is asked, with its next answer."""

    def __init__(self) -> None:
        self.end, self.of_worker = wire.seqpacket_pair()
        self.calls = StatisticsCalls(self.of_worker, is_allowed=True)
        self.answers: list[wire.Statistics] = []
        self.asked_count = 0
        self._thread = threading.Thread(target=self._answer)
        self._thread.start()

    def _answer(self) -> None:
        while message := wire.receive(self.end)[0]:
            assert wire.Control.unpack(message) == (wire.STATISTICS, 0)
            self.asked_count += 1
            if self.answers:
                self.calls.take(self.answers.pop(0))

    def close(self) -> None:
        self.of_worker.shutdown(socket.SHUT_RDWR)
        self._thread.join(SECONDS)
        self.of_worker.close()
        self.end.close()


@pytest.fixture
def broker() -> Iterator[Broker]:
    broker = Broker()
    yield broker
    broker.close()


def ask(calls: StatisticsCalls) -> messages.GetStatisticsResponse:
    return messages.GetStatisticsResponse.FromString(calls.get_statistics(REQUEST))


def test_words_are_told_by_name_and_zeros_left_out(broker: Broker) -> None:
    words = make_words()
    check, page_flags, other = map(number_method, (HEALTH, METHODS[0], "/x/y"))
    words[place_of_call(page_flags, Code.OK)] = 2**64 - 1
    words[place_of_call(check, Code.NOT_FOUND)] = 4
    words[place_of_call(other, Code.UNIMPLEMENTED)] = 5
    words[place_of_durations(page_flags)] = 7
    words[place_of_durations(page_flags) + len(BOUNDS_SECONDS)] = 1
    words[place_of_durations(page_flags) + len(BOUNDS_SECONDS) + 1] = 1_500_000_000
    words[place_of_refusal(Reason.CALLER_GONE)] = 9
    words[PAGES_READ] = 11
    broker.answers = [wire.Statistics(123, 45, 6, words.tobytes())]
    buckets = [7, *[0] * (len(BOUNDS_SECONDS) - 1), 1]
    assert ask(broker.calls) == messages.GetStatisticsResponse(
        version=__version__,
        start_time_nanoseconds=123,
        connection_count=45,
        worker_count=6,
        read_page_count=11,
        calls=[
            messages.CallCount(method="GetPageFlags", code=0, count=2**64 - 1),
            messages.CallCount(method="Check", code=5, count=4),
            messages.CallCount(method="", code=12, count=5),
        ],
        duration_bound_seconds=BOUNDS_SECONDS,
        durations=[
            messages.CallDurations(method="GetPageFlags", bucket_count=buckets, total_seconds=1.5)
        ],
        refusals=[messages.RefusalCount(reason="CALLER_GONE", count=9)],
    )


def test_who_may_not_see_them_is_refused_without_asking() -> None:
    left, right = wire.seqpacket_pair()
    with left, right, pytest.raises(CowdError) as failure:
        StatisticsCalls(left, is_allowed=False).get_statistics(REQUEST)
    assert failure.value.reason is Reason.STATISTICS_DENIED
    assert "cowd.toml" in str(failure.value)


def test_calls_share_an_answer_for_a_while(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also several at once: the broker ends a worker that asks again too soon.

    Seen to fail with each call asking.
    """
    now = 1000.0
    monkeypatch.setattr(statistics_calls.time, "monotonic", lambda: now)
    broker.answers = [NOTHING._replace(worker_count=number) for number in (1, 2)]
    told: list[int] = []
    threads = [
        threading.Thread(target=lambda: told.append(ask(broker.calls).worker_count))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    now += STATISTICS_SECONDS * 0.99
    assert ask(broker.calls).worker_count == 1
    assert told == [1] * len(threads)
    now += STATISTICS_SECONDS
    assert ask(broker.calls).worker_count == 2
    assert broker.asked_count == 2


def test_broker_that_does_not_answer_is_not_waited_for(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statistics_calls, "STATISTICS_ANSWER_SECONDS", 0.05)
    for _ in range(2):  # and not asked again meanwhile
        with pytest.raises(CowdError) as failure:
            broker.calls.get_statistics(REQUEST)
        assert failure.value.reason is Reason.INTERNAL_ERROR
    broker.calls.take(NOTHING._replace(worker_count=3))
    assert ask(broker.calls).worker_count == 3
    assert broker.asked_count == 1


def test_broker_that_has_gone_is_not_waited_for() -> None:
    left, right = wire.seqpacket_pair()
    right.close()
    with left, pytest.raises(CowdError) as failure:
        StatisticsCalls(left, is_allowed=True).get_statistics(REQUEST)
    assert failure.value.reason is Reason.INTERNAL_ERROR
