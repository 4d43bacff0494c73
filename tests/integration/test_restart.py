# SPDX-License-Identifier: Apache-2.0
"""A restart: what has been asked is answered, and who asks next is answered by the next cowd."""

import json
import mmap
import os
import re
import signal
import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import cowd
import grpc
import pytest
from cowd._buffers import as_array
from cowdaemon.limits import DRAIN_SECONDS, FLUSH_SECONDS, PAGES_PER_CALL, READING_SECONDS
from cowproto.v1 import pageflags_pb2, pageflags_pb2_grpc
from harness.daemon import ROOT, Daemon, StartDaemon
from harness.programs import NOBODY, StartCaller, StartSubject

RESTARTS = 3
CLIENTS = 3
SECONDS = 20.0
SENT_SECONDS = 0.5
"""For a call to get from a client to the opener: a few milliseconds, and nothing shows it."""
STALL_SECONDS = READING_SECONDS / 2
STREAMED_PAGES, STREAMED_TIMES = 4096, 500
"""20 MB of answers, each of one range: far more than is on its way unread."""

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it starts the daemon")


def start(start_daemon: StartDaemon, listener: socket.socket) -> Daemon:
    """Start a daemon that is handed the socket."""
    return start_daemon(listener=listener, socket_path=Path(listener.getsockname()))


class Clients:
    """Ask all the time, each in a thread, and go on after a failure."""

    def __init__(self, asks: list[Callable[[], object]]) -> None:
        self._is_over = False
        self._answered = threading.Condition()
        self._answers = [0] * len(asks)
        self.failures: list[Exception] = []
        self._threads = [threading.Thread(target=self._run, args=each) for each in enumerate(asks)]
        for thread in self._threads:
            thread.start()

    def _run(self, number: int, ask: Callable[[], object]) -> None:
        while not self._is_over:
            try:
                ask()
            except (cowd.Error, grpc.RpcError) as error:
                self.failures.append(error)
                continue
            with self._answered:
                self._answers[number] += 1
                self._answered.notify_all()

    def await_answers(self) -> None:
        """Return when each has been answered twice from now on: once by who is there now."""
        with self._answered:
            wanted = [answers + 2 for answers in self._answers]
            assert self._answered.wait_for(
                lambda: all(now >= then for now, then in zip(self._answers, wanted, strict=True)),
                SECONDS,
            ), f"{self._answers}, not {wanted}: {self.failures}"

    def finish(self) -> None:
        self._is_over = True
        for thread in self._threads:
            thread.join(2 * SECONDS)


def ask_through_restarts(
    start_daemon: StartDaemon, listener: socket.socket, asks: list[Callable[[], object]]
) -> list[Exception]:
    """Return how those who ask all the time have failed while the daemon is restarted."""
    daemon = start(start_daemon, listener)
    clients = Clients(asks)
    try:
        clients.await_answers()
        for _ in range(RESTARTS):
            daemon.stop()
            assert "Traceback" not in daemon.log()
            daemon = start(start_daemon, listener)
            clients.await_answers()
    finally:
        clients.finish()
    return clients.failures


def test_the_library_notices_nothing(start_daemon: StartDaemon, handed_over: socket.socket) -> None:
    """On connections that are kept, and on new ones."""
    path = handed_over.getsockname()

    def ask_anew() -> None:
        with cowd.Client(path, timeout_seconds=SECONDS) as client:
            client.get_server_info()

    with ExitStack() as stack:
        kept = [
            stack.enter_context(cowd.Client(path, timeout_seconds=SECONDS)).get_server_info
            for _ in range(CLIENTS)
        ]
        asks = [*kept, *[ask_anew] * CLIENTS]
        assert ask_through_restarts(start_daemon, handed_over, asks) == []


def test_a_stream_goes_on_with_the_next_daemon(
    start_daemon: StartDaemon, handed_over: socket.socket
) -> None:
    """Of what is asked here, most is not read before the restart."""
    with mmap.mmap(-1, STREAMED_PAGES * mmap.PAGESIZE, mmap.MAP_PRIVATE) as memory:
        memory.madvise(mmap.MADV_NOHUGEPAGE)
        memory[:: mmap.PAGESIZE] = b"x" * STREAMED_PAGES
        whole = as_array(memory).ctypes.data, STREAMED_PAGES
        daemon = start(start_daemon, handed_over)
        with cowd.Client(handed_over.getsockname(), timeout_seconds=SECONDS) as client:
            stream = client.stream_page_flags(os.getpid(), [whole] * STREAMED_TIMES)
            chunks = [next(stream)]
            daemon.stop()
            start(start_daemon, handed_over)
            chunks += stream
    parts = [(part.address, part.states) for chunk in chunks for part in chunk.iter_parts()]
    anonymous = bytes([cowd.PageState.ANON]) * STREAMED_PAGES
    assert parts == [(whole[0], anonymous)] * STREAMED_TIMES


def ask_bare(
    start_daemon: StartDaemon, listener: socket.socket, *options: tuple[str, str]
) -> list[Exception]:
    """Return how a client without cowd's library has failed through restarts."""
    options = (("grpc.default_authority", "localhost"), *options)
    with grpc.insecure_channel(f"unix:{listener.getsockname()}", options) as channel:
        stub = pageflags_pb2_grpc.PageFlagsServiceStub(channel)
        request = pageflags_pb2.GetServerInfoRequest()
        return ask_through_restarts(
            start_daemon, listener, [lambda: stub.GetServerInfo(request, timeout=SECONDS)]
        )


def test_a_bare_client_is_told_to_ask_again(
    start_daemon: StartDaemon, handed_over: socket.socket
) -> None:
    """UNAVAILABLE, and not CANCELLED, which gRPC's own way to stop says."""
    failures = ask_bare(start_daemon, handed_over)
    assert {failure.code() for failure in failures} <= {grpc.StatusCode.UNAVAILABLE}


def test_a_channel_that_asks_again_notices_nothing(
    start_daemon: StartDaemon, handed_over: socket.socket
) -> None:
    """With the service config of cowd(7)."""
    page = (ROOT / "packaging/man/cowd.7.rst").read_text()
    [config] = re.findall(r'^ +{"methodConfig".*?\n\n', page, re.DOTALL | re.MULTILINE)
    json.loads(config)
    assert ask_bare(start_daemon, handed_over, ("grpc.service_config", config)) == []


@pytest.mark.pypi
def test_a_client_that_is_slow_to_read_has_all_of_its_answer(
    start_daemon: StartDaemon, start_caller: StartCaller, handed_over: socket.socket
) -> None:
    """It stands still before it reads, and must write to go on reading: HTTP/2's WINDOW_UPDATE.

    Seen to fail with calls that count as over when their answers have been made. Debian's gRPC says
    that an answer is out while it still holds some of it: a client has FLUSH_SECONDS there.
    """
    daemon = start(start_daemon, handed_over)
    caller = start_caller(NOBODY, daemon.socket_path)
    address = caller.create("anonymous")["pages"][0]["address"]
    caller.get_server_info()
    [opener] = daemon.tree().openers
    os.kill(opener, signal.SIGSTOP)
    request = pageflags_pb2.GetPageFlagsRequest(
        pid=caller.pid, address=address, count=PAGES_PER_CALL
    )
    caller.begin("GetPageFlags", request)
    assert daemon.stays(SENT_SECONDS)
    os.kill(caller.pid, signal.SIGSTOP)
    try:
        os.kill(daemon.pid, signal.SIGTERM)
        os.kill(opener, signal.SIGCONT)
        assert daemon.stays(STALL_SECONDS)
    finally:
        os.kill(caller.pid, signal.SIGCONT)
    response = pageflags_pb2.GetPageFlagsResponse.FromString(caller.finish())
    assert len(response.state) == PAGES_PER_CALL
    daemon.stop()


def test_who_comes_while_it_stops_waits_for_the_next(
    start_daemon: StartDaemon,
    start_caller: StartCaller,
    start_subject: StartSubject,
    handed_over: socket.socket,
) -> None:
    """For as long as it takes to answer others: here all that it has, for a call that takes longer.

    Seen to fail with a client that waits less than that for its connection.
    """
    daemon = start(start_daemon, handed_over)
    caller, subject = start_caller(NOBODY, daemon.socket_path), start_subject("anonymous")
    caller.get_server_info()
    [opener] = daemon.tree().openers
    os.kill(opener, signal.SIGSTOP)
    address = subject.description["pages"][0]["address"]
    request = pageflags_pb2.GetPageFlagsRequest(pid=subject.pid, address=address, count=1)
    caller.begin("GetPageFlags", request)
    assert daemon.stays(SENT_SECONDS)
    os.kill(daemon.pid, signal.SIGTERM)
    assert daemon.stays(FLUSH_SECONDS)
    with cowd.Client(handed_over.getsockname(), timeout_seconds=SECONDS) as client:
        clients = Clients([client.get_server_info])
        try:
            assert daemon.stays(DRAIN_SECONDS)
            os.kill(opener, signal.SIGCONT)
            daemon.await_end(SECONDS)
            start(start_daemon, handed_over)
            clients.await_answers()
        finally:
            clients.finish()
    assert clients.failures == []
