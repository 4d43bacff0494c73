# SPDX-License-Identifier: Apache-2.0
"""Calls are counted by how they ended and how long they took, in words that others can read."""

import os
import threading
import time
from array import array
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from cowdaemon.counters import (
    BOUNDS_SECONDS,
    COUNTERS_BYTES,
    PAGES_READ,
    make_words,
    place_of_call,
    place_of_durations,
    place_of_refusal,
)
from cowdaemon.errors import Code, CowdError, Reason
from cowdaemon.worker.call_counts import Counters, number_method
from cowdaemon.worker.handlers import Handlers
from cowdaemon.worker.service import RefusingService
from cowdaemon.worker.worker import Service
from cowproto.v1 import twins_pb2
from unit.worker.served_process import HEALTH, METHODS, SECONDS, MakeFile, call

BUCKETS = len(BOUNDS_SECONDS) + 1
CHECK, STREAM = number_method(HEALTH), number_method(METHODS[1])


class Read:
    """A file of counters, and what stands in it."""

    def __init__(self, make_file: MakeFile) -> None:
        self._file = make_file(bytes(COUNTERS_BYTES))
        self.counters = Counters(self._file)

    @property
    def words(self) -> dict[int, int]:
        words = array("Q", os.pread(self._file, COUNTERS_BYTES, 0))
        return {place: word for place, word in enumerate(words) if word}


@pytest.fixture
def read(make_file: MakeFile) -> Read:
    return Read(make_file)


@pytest.mark.parametrize(
    ("seconds", "bucket"),
    [
        (0.0, 0),
        (BOUNDS_SECONDS[0], 0),
        (BOUNDS_SECONDS[0] + 1e-9, 1),
        (BOUNDS_SECONDS[-1], BUCKETS - 2),
        (BOUNDS_SECONDS[-1] + 1, BUCKETS - 1),
    ],
)
def test_duration_is_in_the_bucket_whose_bound_it_does_not_exceed(
    read: Read, seconds: float, bucket: int
) -> None:
    read.counters.count_work(CHECK, Code.OK, seconds)
    first = place_of_durations(CHECK)
    words = read.words
    assert words.pop(first + BUCKETS, 0) == int(seconds * 1e9)
    assert words == {place_of_call(CHECK, 0): 1, first + bucket: 1}


@pytest.mark.parametrize("reason", Reason, ids=lambda reason: reason.name)
def test_refusals_are_those_for_want_of_rights_or_room(read: Read, reason: Reason) -> None:
    read.counters.count_work(CHECK, reason, 0.0)
    is_refusal = reason.code in (Code.PERMISSION_DENIED, Code.RESOURCE_EXHAUSTED)
    assert read.words[place_of_call(CHECK, reason.code)] == 1
    assert (place_of_refusal(reason) in read.words) == is_refusal


class Interrupted(array):  # type: ignore[type-arg]
    """Words between whose reading and writing another thread has its turn."""

    def __getitem__(self, place: Any) -> Any:
        word = super().__getitem__(place)
        time.sleep(0)
        return word


def test_threads_lose_no_count(read: Read) -> None:
    read.counters._words = Interrupted("Q", make_words())  # type: ignore[misc]

    def count() -> None:
        for _ in range(2_000):
            read.counters.count_pages(3)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read.words == {PAGES_READ: 4 * 2_000 * 3}


def answer(request: twins_pb2.HealthCheckRequest) -> bytes:
    if request.service:
        raise CowdError(Reason[request.service], pid=1)
    return b""


def stream(_: object, verify_wanted: Callable[[], None]) -> Iterator[bytes]:
    for _ in range(3):
        yield b""
    while True:
        verify_wanted()


@pytest.fixture
def channel(serve: Callable[..., grpc.Channel], read: Read) -> grpc.Channel:
    handlers = Handlers(
        read.counters,
        {HEALTH: (twins_pb2.HealthCheckRequest, answer)},
        {METHODS[1]: (twins_pb2.Any, stream)},
    )
    return serve(SimpleNamespace(make_handler=lambda: handlers))


def test_calls_are_counted_before_their_clients_know(channel: grpc.Channel, read: Read) -> None:
    for number in range(1, 20):
        call(channel, HEALTH, b"")
        assert read.words[place_of_call(CHECK, Code.OK)] == number
    first = place_of_durations(CHECK)
    assert sum(read.words.get(first + bucket, 0) for bucket in range(BUCKETS)) == number
    assert read.words[first + BUCKETS] > 0


@pytest.mark.parametrize("reason", [Reason.OWN_PROCESS, Reason.INTERNAL_ERROR])
def test_call_that_fails_is_counted_by_its_reason(
    channel: grpc.Channel, read: Read, reason: Reason
) -> None:
    request = twins_pb2.HealthCheckRequest(service=reason.name)
    with pytest.raises(grpc.RpcError):
        call(channel, HEALTH, request.SerializeToString())
    assert read.words[place_of_call(CHECK, reason.code)] == 1


def test_method_that_is_not_here_is_counted_without_its_name(
    channel: grpc.Channel, read: Read
) -> None:
    with pytest.raises(grpc.RpcError):
        call(channel, "/any.Service/Method", b"")
    assert read.words == {place_of_call(number_method(""), Code.UNIMPLEMENTED): 1}


def test_stream_that_is_left_is_counted_as_cancelled(channel: grpc.Channel, read: Read) -> None:
    ended = threading.Event()
    count_work = read.counters.count_work

    def count_and_tell(*arguments: object) -> None:
        count_work(*arguments)  # type: ignore[arg-type]
        ended.set()

    read.counters.count_work = count_and_tell  # type: ignore[method-assign]
    responses = channel.unary_stream(METHODS[1])(b"", timeout=SECONDS)
    next(responses)
    responses.cancel()
    assert ended.wait(SECONDS)
    assert read.words[place_of_call(STREAM, Code.CANCELLED)] == 1


def test_calls_of_refused_callers_are_counted_and_no_refusals(
    serve: Callable[[Service], grpc.Channel], read: Read
) -> None:
    """The broker has counted the connection."""
    channel = serve(RefusingService(Reason.CALLER_GONE, read.counters))
    for path in HEALTH, METHODS[1], METHODS[1], "/any.Service/Method":
        with pytest.raises(grpc.RpcError):
            call(channel, path, b"")
    code = Code.PERMISSION_DENIED
    assert read.words == {
        place_of_call(CHECK, code): 1,
        place_of_call(STREAM, code): 2,
        place_of_call(number_method(""), code): 1,
    }
