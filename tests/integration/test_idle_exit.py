# SPDX-License-Identifier: Apache-2.0
"""cowd leaves when nobody asks, if somebody else holds its socket, and no call is lost by it."""

import socket
from pathlib import Path

from cowproto.v1 import pageflags_pb2
from harness.daemon import STOP_SECONDS, Daemon, StartDaemon
from harness.programs import NOBODY, Caller, StartCaller

IDLE_SECONDS = 2
LONGER_SECONDS = IDLE_SECONDS + 2.0
"""Than a daemon stays that nobody asks; one that was asked has a worker for a second before."""
SECONDS = LONGER_SECONDS + STOP_SECONDS


def start(start_daemon: StartDaemon, listener: socket.socket, idle: int = IDLE_SECONDS) -> Daemon:
    """Start a daemon that is handed the socket, and has workers for a second."""
    config = f"[limits]\nworker_idle_seconds = 1\nidle_exit_seconds = {idle}\n"
    path = Path(listener.getsockname())
    return start_daemon(listener=listener, socket_path=path, config=config)


def own_page(caller: Caller) -> int:
    """Return the state of a page that the caller has written."""
    page = caller.create("anonymous")["pages"][0]
    return caller.get_page_flags(caller.pid, page["address"]).state[0]


def test_it_leaves_and_the_next_one_answers_who_waited(
    start_daemon: StartDaemon, start_caller: StartCaller, handed_over: socket.socket
) -> None:
    daemon = start(start_daemon, handed_over)
    caller = Caller(NOBODY, daemon.socket_path)
    assert own_page(caller) == pageflags_pb2.PAGE_STATE_ANON
    caller.close()
    daemon.await_end(SECONDS)  # verifies that it left nothing
    assert f"nobody has asked for {IDLE_SECONDS} s" in daemon.log()
    assert daemon.socket_path.exists()
    waiting = start_caller(NOBODY, daemon.socket_path)
    page = waiting.create("anonymous")["pages"][0]
    request = pageflags_pb2.GetPageFlagsRequest(pid=waiting.pid, address=page["address"], count=1)
    waiting.begin("GetPageFlags", request)
    start(start_daemon, handed_over)
    response = pageflags_pb2.GetPageFlagsResponse.FromString(waiting.finish())
    assert list(response.state) == [pageflags_pb2.PAGE_STATE_ANON]


def test_a_daemon_that_nobody_ever_asked_leaves_too(
    start_daemon: StartDaemon, handed_over: socket.socket
) -> None:
    start(start_daemon, handed_over).await_end(SECONDS)


def test_a_connection_keeps_it_and_so_does_its_memory(
    start_daemon: StartDaemon, handed_over: socket.socket
) -> None:
    """It is idle from the end of its last worker on, not from its start."""
    daemon = start(start_daemon, handed_over)
    caller = Caller(NOBODY, daemon.socket_path)
    assert own_page(caller)
    assert daemon.stays(LONGER_SECONDS)
    assert own_page(caller)
    caller.close()
    assert daemon.stays(IDLE_SECONDS)
    daemon.await_end(SECONDS)


def test_zero_keeps_it(start_daemon: StartDaemon, handed_over: socket.socket) -> None:
    assert start(start_daemon, handed_over, idle=0).stays(LONGER_SECONDS)


def test_one_that_made_its_own_socket_stays(start_daemon: StartDaemon) -> None:
    """Nobody would start it again."""
    daemon = start_daemon(config=f"[limits]\nidle_exit_seconds = {IDLE_SECONDS}\n")
    assert daemon.stays(LONGER_SECONDS)
