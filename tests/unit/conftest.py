# SPDX-License-Identifier: Apache-2.0
"""For all unit tests: no stop-watch where examples are drawn, children, a broken libc, a journal.

And that a test leaves no descriptor behind.
"""

import ctypes
import gc
import os
import pickle
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from conftest import MakeDirectory
from cowdaemon.system import confinement, journal, privileges
from cowdaemon.system.journal import Journal
from cowdaemon.system.processes import fork_child
from hypothesis import settings
from unit.children import CONNECT, Connector, Placed, RunInChild, StartConnector, StartPlaced
from unit.journald import JoinJournal, Journald

# The same examples wherever CI runs.
settings.register_profile("cowd", deadline=None, derandomize="COWD_REQUIRE_ALL" in os.environ)
settings.load_profile("cowd")

ACCEPT_SECONDS = 10.0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have what forks come first.

    With grpcio 1.51 a child may die in gRPC's fork handler (a mutex of a thread that it has not),
    now and then, if the process has been a client, as in the client's tests.
    """

    def forks(item: pytest.Item) -> bool:
        fixtures = getattr(item, "fixturenames", ())
        return "run_in_child" in fixtures or item.path.name == "test_inner_listener.py"

    items.sort(key=lambda item: not forks(item))


def count_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture
def nothing_is_left() -> Iterator[None]:
    """Fail if the test leaves a descriptor behind."""
    before = count_descriptors()
    yield
    if count_descriptors() != before:
        gc.collect()  # what pytest.raises() caught holds frames, and is held by one of them
    assert count_descriptors() <= before  # less where an earlier test had failed


@pytest.fixture
def run_in_child() -> RunInChild:
    """Return a function that calls another in a forked child, and returns or raises as that did."""

    def run(function: Callable[[], Any]) -> Any:
        reader, writer = os.pipe()

        def call() -> int:
            try:
                outcome = (function(), None)
            except Exception as error:  # noqa: BLE001 - it is raised again by the parent
                outcome = (None, error)
            os.write(writer, pickle.dumps(outcome))
            return 0

        child = fork_child("cowd-test", call, keep=[writer])
        os.close(writer)
        with open(reader, "rb") as file:
            written = file.read()
        assert child.reap() == 0
        result, error = pickle.loads(written)
        if error:
            raise error
        return result

    return run


class BrokenLibc:
    """libc with one function that, after some calls, does nothing and returns what it is told."""

    def __init__(self, name: str, result: int, error: int, after_calls: int) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._name = name
        self._outcome = (result, error)
        self._calls_left = after_calls

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._libc, name)
        if name != self._name:
            return function
        self._calls_left -= 1
        return function if self._calls_left >= 0 else self._do_nothing

    def _do_nothing(self, *_: object) -> int:
        result, error = self._outcome
        ctypes.set_errno(error)
        return result


@pytest.fixture
def break_libc(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that breaks one function of libc, for cowdaemon alone."""

    def break_function(name: str, result: int, error: int = 0, after_calls: int = 0) -> None:
        broken = BrokenLibc(name, result, error, after_calls)
        for module in (confinement, privileges):
            monkeypatch.setattr(module, "_libc", broken)

    return break_function


@pytest.fixture
def start_placed() -> Iterator[StartPlaced]:
    """Return a function that starts a process which waits, by a command that runs it."""
    with ExitStack() as stack:

        def start(*command: str) -> Placed:
            placed = Placed(*command)
            stack.callback(placed.close)
            if not placed.is_there:
                pytest.skip(f"no such namespace can be had here: {command}")
            return placed

        yield start


@pytest.fixture
def public_path(make_directory: MakeDirectory) -> Path:
    """Return a fresh directory like `tmp_path`, but one that every user may enter."""
    return make_directory()


@pytest.fixture
def start_connector(public_path: Path) -> Iterator[StartConnector]:
    """Return a function that starts a process which connects, by a command that runs it.

    Once it has connected it executes the statements `then`.
    """
    path = public_path / "sock"
    with ExitStack() as stack:
        listening = stack.enter_context(socket.socket(socket.AF_UNIX))
        listening.bind(os.fspath(path))
        path.chmod(0o666)
        listening.listen()
        listening.settimeout(ACCEPT_SECONDS)

        def start(*command: str, then: str = "") -> Connector:
            program = [sys.executable, "-I", "-c", CONNECT, os.fspath(path), then]
            process = subprocess.Popen(
                [*command, *program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/"
            )
            stack.enter_context(process)
            assert process.stdout
            assert process.stdout.readline() == b"connected\n"
            connector = Connector(process, stack.enter_context(listening.accept()[0]))
            stack.callback(process.kill)
            return connector

        yield start


@pytest.fixture
def join_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[JoinJournal]:
    """Return a function that returns a journal that we play, and who writes to it.

    As for a service of systemd: its standard error leads to the journal.
    """
    with ExitStack() as stack:

        def join() -> tuple[Journald, Journal]:
            path = tmp_path / "journal"
            path.unlink(missing_ok=True)
            journald = Journald(path)
            stack.callback(journald.close)
            monkeypatch.setattr(journal, "JOURNAL_SOCKET", path)
            log_file = os.fstat(2)
            monkeypatch.setenv("JOURNAL_STREAM", f"{log_file.st_dev}:{log_file.st_ino}")
            written_to = Journal()
            assert written_to._socket
            stack.enter_context(written_to._socket)
            return journald, written_to

        yield join
