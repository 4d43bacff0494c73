# SPDX-License-Identifier: Apache-2.0
"""What a client makes of a daemon that comes and goes, is overrun, or is another process's."""

import os
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cowd
import grpc
import pytest
from cowd import _channel

ROOT = Path(__file__).resolve().parents[3]
START = 0x7F0000000000


def test_a_client_made_before_the_daemon_finds_it(start_fake, socket_path):
    with cowd.Client(socket_path) as client:
        with pytest.raises(cowd.Unavailable, match="No such file or directory"):
            client.get_server_info()
        start_fake(socket_path)
        assert client.get_server_info().version == "9.8.7"


def test_a_daemon_that_restarts_between_two_calls_is_found_again(
    start_fake, stop_fakes, socket_path
):
    start_fake(socket_path)
    with cowd.Client(socket_path) as client:
        for _ in range(3):
            assert client.get_server_info().version == "9.8.7"
            stop_fakes()
            start_fake(socket_path)
        assert client.get_server_info().version == "9.8.7"


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED])
def test_a_call_that_the_server_lost_is_made_again(fake, code):
    """As a daemon that stops may lose it: gRPC says either."""
    fake.lost_codes = [code, code]
    with cowd.Client(fake.path) as client:
        assert client.get_server_info().version == "9.8.7"
    assert fake.lost_codes == []


def test_a_call_that_is_lost_again_and_again_is_given_up(fake):
    fake.lost_codes = [grpc.StatusCode.CANCELLED] * 20
    with cowd.Client(fake.path) as client, pytest.raises(cowd.Unavailable, match="not the call"):
        client.get_server_info()
    assert len(fake.lost_codes) == 20 - 1 - len(_channel._PAUSES_SECONDS)


def test_a_daemon_that_is_gone_is_said_at_once(start_fake, stop_fakes, socket_path):
    start_fake(socket_path)
    with cowd.Client(socket_path) as client:
        client.get_server_info()
        stop_fakes()
        with pytest.raises(cowd.Unavailable, match="cannot connect to cowd at") as caught:
            client.get_server_info()
    assert "No such file" in str(caught.value) or "refused" in str(caught.value)


def test_a_full_queue_is_waited_for(start_fake, tmp_path, monkeypatch):
    start_fake(os.fspath(tmp_path / "behind"))
    front = socket.socket(socket.AF_UNIX)
    path = os.fspath(tmp_path / "front")
    front.bind(path)
    front.listen(0)
    waiting = [connect_at_once(path)]
    with pytest.raises(BlockingIOError):
        connect_at_once(path)

    tried = threading.Event()
    try_to_connect = _channel.try_to_connect

    def note(path):
        outcome = try_to_connect(path)
        tried.set()
        return outcome

    monkeypatch.setattr(_channel, "try_to_connect", note)
    with ThreadPoolExecutor(1) as executor, cowd.Client(path) as client:
        info = executor.submit(client.get_server_info)
        assert tried.wait(20), "the call did not fail on the full queue"
        front.listen(16)
        relay = threading.Thread(target=relay_connections, args=(front, tmp_path / "behind"))
        relay.start()
        try:
            assert info.result().version == "9.8.7"
        finally:
            front.shutdown(socket.SHUT_RDWR)
            relay.join()
            front.close()
            waiting.pop().close()


def connect_at_once(path):
    connection = socket.socket(socket.AF_UNIX)
    connection.setblocking(False)
    try:
        connection.connect(path)
    except BlockingIOError:
        connection.close()
        raise
    return connection


def relay_connections(front, behind):
    """Join each connection that is accepted to one of the socket `behind`, until `front` ends."""
    pairs = []
    while True:
        try:
            connection, _ = front.accept()
        except OSError:
            break
        server = socket.socket(socket.AF_UNIX)
        server.connect(os.fspath(behind))
        for source, sink in ((connection, server), (server, connection)):
            thread = threading.Thread(target=copy_bytes, args=(source, sink))
            thread.start()
            pairs.append((thread, source))
    for thread, source in pairs:
        try:
            source.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        thread.join()
    for _, source in pairs:
        source.close()


def copy_bytes(source, sink):
    try:
        while part := source.recv(65_536):
            sink.sendall(part)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass


def test_a_listener_that_hangs_up_is_unavailable_when_the_time_is_up(tmp_path):
    path = os.fspath(tmp_path / "front")
    front = socket.socket(socket.AF_UNIX)
    front.bind(path)
    front.listen()

    def hang_up():
        while True:
            try:
                front.accept()[0].close()
            except OSError:
                return

    thread = threading.Thread(target=hang_up)
    thread.start()
    try:
        with (
            cowd.Client(path, timeout_seconds=1) as client,
            pytest.raises(cowd.Unavailable, match="took the connection but not the call"),
        ):
            client.get_server_info()
    finally:
        front.shutdown(socket.SHUT_RDWR)
        thread.join()
        front.close()


def test_threads_share_a_client(fake):
    fake.maximum_page_count = 4
    with cowd.Client() as client, ThreadPoolExecutor(8) as executor:
        asked = [executor.submit(client.get_page_flags, 7, START, 1 + n % 4) for n in range(200)]
        assert [len(each.result().states) for each in asked] == [1 + n % 4 for n in range(200)]


FORK = """
import os, signal, sys
import cowd
client = cowd.Client(sys.argv[1], timeout_seconds=10)
assert client.get_server_info().version == "9.8.7"
child = os.fork()
if child == 0:
    signal.alarm(30)  # whatever becomes of it
    outcomes = []
    for make in (lambda: client, lambda: cowd.Client(sys.argv[1], timeout_seconds=10)):
        try:
            outcomes.append(make().get_server_info().version)
        except cowd.Unavailable as error:
            outcomes.append(str(error))
    print(*outcomes, sep="\\n", flush=True)
    os._exit(0)
os.waitpid(child, 0)
assert client.get_server_info().version == "9.8.7"
"""


@pytest.mark.parametrize("support", ["0", "1"])
def test_a_child_of_a_fork_does_not_speak_in_the_name_of_its_parent(fake, support):
    folders = [os.fspath(ROOT / folder) for folder in ("proto", "client")]
    variables = {
        "PYTHONPATH": os.pathsep.join(folders),
        "GRPC_ENABLE_FORK_SUPPORT": support,
        "GRPC_VERBOSITY": "NONE",
    }
    done = subprocess.run(
        [sys.executable, "-c", FORK, fake.path],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    old, new = done.stdout.splitlines()
    assert old == "this client was made before a fork and is the parent's: make another one"
    assert new == "9.8.7" if support == "1" else "GRPC_ENABLE_FORK_SUPPORT=1" in new
