# SPDX-License-Identifier: Apache-2.0
"""What a worker knows of its calls: which are worked on, how long one stands still, which are over.

A stream's progress is noted from the test's thread, as by one that reads ahead.
"""

import queue
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from cowdaemon.errors import Reason
from cowdaemon.worker import handlers
from cowdaemon.worker.handlers import Handlers
from cowproto.v1 import twins_pb2
from unit.worker.served_process import COUNTERS, SECONDS, refuse

METHOD = "/test.Service/Stream"
PASSING_SECONDS = 50.0
WAITING_SECONDS = 0.2
"""Who has not returned by then is taken to wait."""
RESPONSE = bytes(3 << 20)
"""More than gRPC sends to a client that reads nothing; the largest that it takes is 4 MiB."""


class Work:
    """A stream's: it goes on to its next response when the test says so, and fails on None."""

    def __init__(self) -> None:
        self.steps: queue.SimpleQueue[bool | None] = queue.SimpleQueue()
        self.is_begun = threading.Event()
        self.is_step_taken = threading.Event()
        self.verify_wanted: Callable[[], None] = lambda: None

    def answer(self, _: object, verify_wanted: Callable[[], None]) -> Iterator[bytes]:
        self.verify_wanted = verify_wanted
        self.is_begun.set()
        while goes_on := self.steps.get(timeout=SECONDS):
            self.is_step_taken.set()
            yield twins_pb2.Any(value=RESPONSE).SerializeToString()
        if goes_on is None:
            raise RuntimeError


@pytest.fixture
def work() -> Work:
    return Work()


@pytest.fixture
def served(work: Work) -> Handlers:
    return Handlers(COUNTERS, {}, {METHOD: (twins_pb2.Any, work.answer)})


@pytest.fixture
def stream(serve: Callable[..., grpc.Channel], served: Handlers, work: Work) -> Iterator[grpc.Call]:
    # Without probes a client that reads nothing is sent 64 kB and no more.
    channel = serve(SimpleNamespace(make_handler=lambda: served), ("grpc.http2.bdp_probe", 0))
    stream = channel.unary_stream(METHOD)(b"", timeout=SECONDS)
    assert work.is_begun.wait(SECONDS)
    yield stream
    stream.cancel()
    work.steps.put(False)


@pytest.fixture
def pass_seconds(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Stop the clock that handlers look at, and return what puts it forward."""
    now = 1000.0

    def pass_seconds(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(handlers, "time", SimpleNamespace(monotonic=lambda: now))
    return pass_seconds


def test_call_stands_still_until_any_thread_notes_progress(
    pass_seconds: Callable[[float], None], served: Handlers, stream: Any, work: Work
) -> None:
    """Seen to fail with nothing noted by verify_wanted()."""
    pass_seconds(PASSING_SECONDS)
    assert served.longest_work_seconds() == PASSING_SECONDS
    work.verify_wanted()
    assert served.longest_work_seconds() == 0
    pass_seconds(PASSING_SECONDS)
    work.steps.put(True)
    next(stream)
    work.steps.put(True)  # has been taken once the next response is there
    next(stream)
    assert served.longest_work_seconds() == 0


def test_call_whose_client_reads_nothing_does_not_stand_still(
    pass_seconds: Callable[[float], None], served: Handlers, stream: Any, work: Work
) -> None:
    """Whatever is read ahead meanwhile. Seen to fail with `is_worked_on` set by verify_wanted()."""
    work.steps.put(True)
    assert work.is_step_taken.wait(SECONDS)
    served.await_idle(SECONDS, 0)
    work.verify_wanted()
    pass_seconds(PASSING_SECONDS)
    assert served.longest_work_seconds() == 0
    stream.cancel()
    served.await_idle(SECONDS, SECONDS)


def test_idle_is_awaited_until_the_last_response_is_out(
    served: Handlers, stream: Any, work: Work
) -> None:
    is_idle = threading.Event()

    def await_idle() -> None:
        served.await_idle(SECONDS, SECONDS)
        is_idle.set()

    waiting = threading.Thread(target=await_idle)
    waiting.start()
    assert not is_idle.wait(WAITING_SECONDS)
    work.steps.put(False)
    assert list(stream) == []
    assert is_idle.wait(SECONDS)
    waiting.join()


@pytest.mark.parametrize("way", ["cancelled", "failed"])
def test_nothing_is_wanted_of_a_call_that_is_over(
    served: Handlers, stream: Any, work: Work, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Not even by who reads ahead and hears of it late."""
    if way == "cancelled":
        work.steps.put(True)
        next(stream)
        stream.cancel()
        work.steps.put(False)
    else:
        work.steps.put(None)
        assert refuse(lambda: next(stream)).info.reason == "INTERNAL_ERROR"
        assert [record.name for record in caplog.records] == ["cowdaemon.worker.handlers"]
    served.await_idle(SECONDS, SECONDS)
    with pytest.raises(handlers._CallEndedError):
        work.verify_wanted()
    assert served.longest_work_seconds() == 0


def test_streams_count_as_answers_that_may_be_unread(
    serve: Callable[[Any], grpc.Channel],
    served: Handlers,
    work: Work,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(handlers, "ANSWERS_UNREAD", 0)
    channel = serve(SimpleNamespace(make_handler=lambda: served))
    refusal = refuse(lambda: next(channel.unary_stream(METHOD)(b"", timeout=SECONDS)))
    assert refusal.info.reason == Reason.TOO_MANY_UNREAD_ANSWERS.name
    assert not work.is_begun.is_set()
