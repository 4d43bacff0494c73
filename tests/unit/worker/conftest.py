# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the worker's tests: nothing may stay open, files for /proc's, a player, a server."""

import gc
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from cowdaemon.worker import targets
from cowdaemon.worker.reader import Reader
from cowdaemon.worker.worker import Service
from cowproto.v1 import pageflags_pb2_grpc
from unit.worker.opener_player import Answer, Opener, PlayOpener
from unit.worker.served_process import FEATURES, FRAMES, MakeFile, Process, make_service

# As the zygote has it: other tests fork this process after gRPC has run in it.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

JOIN_SECONDS = 10.0


def count_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture
def nothing_is_left() -> Iterator[None]:
    """Fail if the test leaves a descriptor or a thread behind."""
    before, threads = count_descriptors(), set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - threads:
        thread.join(JOIN_SECONDS)
        assert not thread.is_alive()
    if count_descriptors() != before:
        gc.collect()  # what pytest.raises() caught holds frames, and is held by one of them
    assert count_descriptors() <= before  # less where an earlier test had failed


@pytest.fixture
def make_file() -> Iterator[MakeFile]:
    """Return a function that makes a file in memory of these bytes, and returns its descriptor."""
    made = []

    def make(content: bytes) -> int:
        descriptor = os.memfd_create("made")
        made.append(descriptor)
        os.pwrite(descriptor, content, 0)
        return descriptor

    yield make
    for descriptor in made:
        os.close(descriptor)


@pytest.fixture
def play_opener() -> Iterator[PlayOpener]:
    """Return a function that plays an opener which answers as it is told."""
    with ExitStack() as stack:

        def play(answer: Answer) -> Opener:
            opener = Opener(answer)
            stack.callback(opener.close)
            return opener

        yield play


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Stop the clock that Targets looks at, and return what puts it forward."""
    now = 1000.0

    def pass_seconds(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(targets.time, "monotonic", lambda: now)
    return pass_seconds


@pytest.fixture
def process(make_file: MakeFile) -> Process:
    return Process(make_file)


@pytest.fixture
def serve() -> Iterator[Callable[..., grpc.Channel]]:
    """Return a function that serves a service and returns a channel to it, with these options."""
    with ExitStack() as stack:

        def serve(service: Service, *options: tuple[str, int]) -> grpc.Channel:
            threads = stack.enter_context(ThreadPoolExecutor(2))
            server = grpc.server(threads, [service.make_handler()])
            port = server.add_insecure_port("127.0.0.1:0")
            server.start()
            stack.callback(lambda: server.stop(0).wait())
            return stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{port}", options))

        yield serve


@pytest.fixture
def channel(
    serve: Callable[[Service], grpc.Channel], process: Process, make_file: MakeFile
) -> grpc.Channel:
    kpageflags = make_file(np.array(FRAMES, "<u8").tobytes())
    reader = Reader(kpageflags, FEATURES)
    return serve(make_service(process, reader))


@pytest.fixture
def stub(channel: grpc.Channel) -> Any:
    return pageflags_pb2_grpc.PageFlagsServiceStub(channel)
