# SPDX-License-Identifier: Apache-2.0
"""The inner listener's owner connects to it, and nobody else finds a way."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from cowdaemon.worker.inner_listener import InnerListener
from harness.programs import NOBODY

DESCRIPTORS = 64
"""As many numbers as an intruder tries; the owner has its listener far below."""

# Tries every descriptor of a process, and the path in /proc/net/unix; prints how each try went.
INTRUDER = """
import socket, sys
for path in sys.argv[1:]:
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(path)
            print("connected")
        except OSError as error:
            print(type(error).__name__)
"""


def open_room(directory: Path) -> int:
    """Return what the broker hands to a worker."""
    return os.open(directory, os.O_PATH | os.O_DIRECTORY)


class Server:
    """A listening socket in place of the gRPC server's."""

    def __init__(self) -> None:
        self.listening = socket.socket(socket.AF_UNIX)
        self.address = ""

    def bind(self, address: str) -> None:
        self.address = address
        self.listening.bind(address.removeprefix("unix:"))
        self.listening.listen()

    def path(self) -> str:
        """What /proc/net/unix tells everybody of the socket."""
        inode = str(os.fstat(self.listening.fileno()).st_ino)
        for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
            columns = line.split(maxsplit=7)
            if columns[6] == inode:
                return columns[7]
        raise AssertionError("the socket is not listed")


@pytest.fixture
def server(nothing_is_left: None) -> Iterator[Server]:  # noqa: ARG001
    server = Server()
    with server.listening:
        yield server


@pytest.fixture
def inner(server: Server, tmp_path: Path) -> Iterator[InnerListener]:
    """The listener under test. It lives as long as its process, so nothing else closes it."""
    inner = InnerListener(open_room(tmp_path), server.bind)
    yield inner
    os.close(inner._socket_inode)


def test_owner_connects_as_often_as_it_likes(inner: InnerListener, server: Server) -> None:
    for word in b"one", b"two":
        with inner.connect() as connection:
            accepted, _ = server.listening.accept()
            with accepted:
                connection.sendall(word)
                assert accepted.recv(16) == word
                assert connection.getblocking()


@pytest.mark.usefixtures("inner")
def test_no_name_is_left(server: Server, tmp_path: Path) -> None:
    assert list(tmp_path.iterdir()) == []
    # The name was taken from a descriptor that is closed: it means nothing, to us or to others.
    path = server.path()
    assert f"unix:{path}" == server.address
    assert path.startswith("/proc/self/fd/")
    assert str(tmp_path) not in path
    assert not os.path.lexists(path)
    with (
        socket.socket(socket.AF_UNIX) as connection,
        pytest.raises((FileNotFoundError, NotADirectoryError)),
    ):
        connection.connect(path)


def intrude(pid: int, path: str, command: Callable[[list[str]], list[str]] = list) -> list[str]:
    """Have another process try every way to the sockets of `pid`; return how it went."""
    paths = [f"/proc/{pid}/fd/{number}" for number in range(DESCRIPTORS)]
    through_directory = path.replace("self", str(pid))
    tried = command([sys.executable, "-I", "-c", INTRUDER, path, through_directory, *paths])
    ended = subprocess.run(tried, check=True, capture_output=True, text=True, cwd="/")
    return ended.stdout.split()


def test_intruder_would_get_in_where_the_kernel_lets_it(
    inner: InnerListener, server: Server
) -> None:
    """What the other tests try is a real attack: it works on a dumpable process of one's own."""
    assert inner._socket_inode < DESCRIPTORS
    outcomes = intrude(os.getpid(), server.path())
    assert "connected" not in outcomes[:2]
    assert outcomes[2 + inner._socket_inode] == "connected"


@pytest.mark.usefixtures("inner")
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: to be another user")
def test_another_user_cannot_connect(server: Server) -> None:
    path, *others = intrude(os.getpid(), server.path(), NOBODY.command)
    assert path in ("FileNotFoundError", "NotADirectoryError")
    assert set(others) == {"PermissionError"}


# Becomes an owner of a listener as a worker is, in the room it is handed, says so, and waits.
OWNER = """
import ctypes, socket, sys
from cowdaemon.worker.inner_listener import InnerListener
ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)
listening = socket.socket(socket.AF_UNIX)
def bind(address):
    listening.bind(address.removeprefix("unix:"))
    listening.listen()
    print(address, flush=True)
inner = InnerListener(int(sys.argv[1]), bind)
inner.connect().close()
print(inner._socket_inode, flush=True)
sys.stdin.read()
"""


@pytest.mark.usefixtures("nothing_is_left")
def test_another_process_of_the_same_user_cannot_connect(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Workers share one user. Not dumpable, they are closed to each other, not to themselves."""
    command: Callable[[list[str]], list[str]] = list
    if os.geteuid() == 0:
        request.getfixturevalue("reachable")
        command = NOBODY.command  # root would be let in
    environment = {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONDONTWRITEBYTECODE": "1"}
    tmp_path.chmod(0o777)
    room = open_room(tmp_path)
    with subprocess.Popen(
        command([sys.executable, "-c", OWNER, str(room)]),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=[room],
        env=environment,
        text=True,
        cwd="/",
    ) as owner:
        os.close(room)
        assert owner.stdout
        address = owner.stdout.readline().strip()
        number = int(owner.stdout.readline())
        assert number < DESCRIPTORS
        path, *others = intrude(owner.pid, address.removeprefix("unix:"), command)
        owner.communicate()
    assert path in ("FileNotFoundError", "NotADirectoryError")
    assert set(others) == {"PermissionError"}


@pytest.mark.usefixtures("nothing_is_left")
@pytest.mark.parametrize("outcome", ["raises", "binds nothing"])
def test_server_that_does_not_bind_raises_and_leaves_nothing(tmp_path: Path, outcome: str) -> None:
    """gRPC up to 1.54 returns port 0 where newer ones raise."""

    def bind(_: str) -> int:
        if outcome == "raises":
            raise RuntimeError("Failed to bind")
        return 0

    with pytest.raises((RuntimeError, FileNotFoundError)):
        InnerListener(open_room(tmp_path), bind)
    assert list(tmp_path.iterdir()) == []


def test_grpc_server_is_reached_through_it(tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as threads:
        server = grpc.server(threads)
        inner = InnerListener(open_room(tmp_path), server.add_insecure_port)
        server.start()
        try:
            with inner.connect() as connection:
                connection.settimeout(10)
                connection.sendall(
                    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\4" + bytes(5)
                )
                assert connection.recv(9)[3] == 4  # a SETTINGS frame: an HTTP/2 server
            assert list(tmp_path.iterdir()) == []
        finally:
            server.stop(0).wait()
            os.close(inner._socket_inode)
