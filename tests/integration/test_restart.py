# SPDX-License-Identifier: Apache-2.0
"""A restart loses no call: what is under way is answered, and what comes next is asked again."""

import json
import os
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import cowd
import grpc
import pytest
from cowproto.v1 import pageflags_pb2, pageflags_pb2_grpc
from harness.daemon import ROOT, StartDaemon

RESTARTS = 3
CLIENTS = 3
SECONDS = 20.0

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it starts the daemon")


@pytest.fixture
def path(public_directory: Path) -> Path:
    return public_directory / "handed-over.sock"


@pytest.fixture
def listener(path: Path) -> Iterator[socket.socket]:
    """The socket that systemd would hold."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        path.chmod(0o666)
        listening.listen()
        yield listening


class Asking:
    """Asks all the time, in a thread, and goes on after a failure."""

    def __init__(self, ask: Callable[[], object]) -> None:
        self._ask = ask
        self._is_over = threading.Event()
        self.answers = 0
        self.failures: list[Exception] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._is_over.is_set():
            try:
                self._ask()
                self.answers += 1
            except (cowd.Error, grpc.RpcError) as error:
                self.failures.append(error)

    def finish(self) -> None:
        self._is_over.set()
        self._thread.join(2 * SECONDS)


def ask_through_restarts(
    start_daemon: StartDaemon, listener: socket.socket, path: Path, asks: list[Callable[[], object]]
) -> list[Asking]:
    """Return what became of those who ask all the time while the daemon is restarted."""
    daemon = start_daemon(listener=listener, socket_path=path)
    asking = [Asking(ask) for ask in asks]
    try:
        for _ in range(RESTARTS):
            with cowd.Client(str(path), timeout_seconds=SECONDS) as client:
                client.get_server_info()
            answered = [each.answers for each in asking]
            daemon.stop()
            assert "Traceback" not in daemon.log()
            daemon = start_daemon(listener=listener, socket_path=path)
    finally:
        for each in asking:
            each.finish()
    assert all(each.answers > count for each, count in zip(asking, answered, strict=True))
    return asking


def test_the_library_notices_nothing(
    start_daemon: StartDaemon, listener: socket.socket, path: Path
) -> None:
    def ask_anew() -> None:
        with cowd.Client(str(path), timeout_seconds=SECONDS) as client:
            client.get_server_info()

    with ExitStack() as stack:
        kept = [
            stack.enter_context(cowd.Client(str(path), timeout_seconds=SECONDS)).get_server_info
            for _ in range(CLIENTS)
        ]
        asked = ask_through_restarts(start_daemon, listener, path, [*kept, *[ask_anew] * CLIENTS])
    assert [each.failures for each in asked] == [[]] * len(asked)


def ask_bare(
    start_daemon: StartDaemon, listener: socket.socket, path: Path, *options: tuple[str, str]
) -> list[Exception]:
    """Return how a client without cowd's library has failed through restarts."""
    options = (("grpc.default_authority", "localhost"), *options)
    with grpc.insecure_channel(f"unix:{path}", options) as channel:
        stub = pageflags_pb2_grpc.PageFlagsServiceStub(channel)
        request = pageflags_pb2.GetServerInfoRequest()

        def ask() -> None:
            stub.GetServerInfo(request, timeout=SECONDS)

        (asked,) = ask_through_restarts(start_daemon, listener, path, [ask])
    return asked.failures


def test_a_bare_client_is_told_to_ask_again(
    start_daemon: StartDaemon, listener: socket.socket, path: Path
) -> None:
    """UNAVAILABLE, and not CANCELLED, which gRPC's own way to stop says."""
    failures = ask_bare(start_daemon, listener, path)
    assert {failure.code() for failure in failures} <= {grpc.StatusCode.UNAVAILABLE}


def test_a_channel_that_asks_again_notices_nothing(
    start_daemon: StartDaemon, listener: socket.socket, path: Path
) -> None:
    """With the service config of cowd(7)."""
    page = (ROOT / "packaging/man/cowd.7.rst").read_text()
    [config] = re.findall(r'^ +{"methodConfig".*?\n\n', page, re.DOTALL | re.MULTILINE)
    json.loads(config)
    assert ask_bare(start_daemon, listener, path, ("grpc.service_config", config)) == []
