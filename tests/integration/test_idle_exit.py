# SPDX-License-Identifier: Apache-2.0
"""cowd leaves when nobody asks, if somebody else holds its socket, and no call is lost by it."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from cowproto.v1 import pageflags_pb2
from harness.daemon import STOP_SECONDS, StartDaemon
from harness.programs import NOBODY, Caller, StartCaller

IDLE_SECONDS = 1
BRIEF = f"[limits]\nworker_idle_seconds = 1\nidle_exit_seconds = {IDLE_SECONDS}\n"
NEVER = "[limits]\nworker_idle_seconds = 1\nidle_exit_seconds = 0\n"
LONGER_SECONDS = 2 * IDLE_SECONDS + 1.0
"""Than a daemon stays that leaves after BRIEF, from the end of its last worker."""
SECONDS = LONGER_SECONDS + STOP_SECONDS


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


def own_page(caller: Caller) -> int:
    """Return the state of a page that the caller has written."""
    page = caller.create("anonymous")["pages"][0]
    return caller.get_page_flags(caller.pid, page["address"]).state[0]


def test_it_leaves_and_the_next_one_answers_who_waited(
    start_daemon: StartDaemon, start_caller: StartCaller, listener: socket.socket, path: Path
) -> None:
    daemon = start_daemon(listener=listener, socket_path=path, config=BRIEF)
    caller = Caller(NOBODY, path)
    assert own_page(caller) == pageflags_pb2.PAGE_STATE_ANON
    caller.close()
    daemon.await_end(SECONDS)  # verifies that it left nothing
    assert daemon.exit_status == 0
    assert "nobody has asked for 1 s" in daemon.log()
    assert path.exists()
    waiting = start_caller(NOBODY, path)
    page = waiting.create("anonymous")["pages"][0]
    request = pageflags_pb2.GetPageFlagsRequest(pid=waiting.pid, address=page["address"], count=1)
    waiting.begin("GetPageFlags", request)
    start_daemon(listener=listener, socket_path=path, config=BRIEF)
    response = pageflags_pb2.GetPageFlagsResponse.FromString(waiting.finish())
    assert list(response.state) == [pageflags_pb2.PAGE_STATE_ANON]


def test_a_daemon_that_nobody_ever_asked_leaves_too(
    start_daemon: StartDaemon, listener: socket.socket, path: Path
) -> None:
    start_daemon(listener=listener, socket_path=path, config=BRIEF).await_end(SECONDS)


def test_a_connection_keeps_it(
    start_daemon: StartDaemon, start_caller: StartCaller, listener: socket.socket, path: Path
) -> None:
    daemon = start_daemon(listener=listener, socket_path=path, config=BRIEF)
    caller = start_caller(NOBODY, path)
    assert own_page(caller)
    assert daemon.stays(LONGER_SECONDS)
    assert own_page(caller)


def test_zero_keeps_it(start_daemon: StartDaemon, listener: socket.socket, path: Path) -> None:
    daemon = start_daemon(listener=listener, socket_path=path, config=NEVER)
    assert daemon.stays(LONGER_SECONDS)


def test_one_that_made_its_own_socket_stays(start_daemon: StartDaemon) -> None:
    """Nobody would start it again."""
    assert start_daemon(config=BRIEF).stays(LONGER_SECONDS)
