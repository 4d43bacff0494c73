# SPDX-License-Identifier: Apache-2.0
"""The public socket: of our own, with what may stand in its place, or systemd's."""

import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest
from cowdaemon.listener import Listener, ListenerError
from harness.programs import NOBODY

SECONDS = 10.0

pytestmark = pytest.mark.usefixtures("nothing_is_left")
needs_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="needs root: to make a file of another user"
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cowd.sock"


def connect(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(os.fspath(path))
    return connection


Obtain = Callable[[Path], Listener]


@pytest.fixture
def obtain() -> Iterator[Obtain]:
    """Return a function that makes a listener, and close those that the test leaves open."""
    with ExitStack() as stack:

        def obtain(path: Path) -> Listener:
            listener = Listener.obtain(path)
            stack.enter_context(listener.listening)
            return listener

        yield obtain


@pytest.fixture
def somebody_listening(path: Path) -> Iterator[socket.socket]:
    """Another daemon, as far as can be seen from outside."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.fspath(path))
        listening.listen(0)
        yield listening


def test_connections_are_accepted_until_there_are_none(path: Path, obtain: Obtain) -> None:
    listener = obtain(path)
    assert listener.accept() is None
    with ExitStack() as stack:
        for word in b"one", b"two":
            stack.enter_context(closing(connect(path))).sendall(word)
        for word in b"one", b"two":
            accepted = listener.accept()
            assert accepted
            assert stack.enter_context(accepted).recv(16) == word
    assert listener.accept() is None


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_everybody_gets_to_own_socket_whatever_the_umask(
    tmp_path: Path, obtain: Obtain, umask: int
) -> None:
    path = tmp_path / "cowd" / "cowd.sock"
    before = os.umask(umask)
    try:
        obtain(path)
    finally:
        assert os.umask(before) == umask  # as it was
    assert stat.S_ISSOCK(path.lstat().st_mode)
    assert stat.S_IMODE(path.lstat().st_mode) == 0o666
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o755


def assert_leads_to(path: Path, listener: Listener) -> None:
    with closing(connect(path)):
        accepted = listener.accept()
        assert accepted
        accepted.close()


def test_socket_that_nobody_listens_on_is_replaced(
    path: Path, obtain: Obtain, somebody_listening: socket.socket
) -> None:
    """As a killed daemon leaves it."""
    somebody_listening.close()
    assert path.exists()
    assert_leads_to(path, obtain(path))


def test_descriptors_are_not_taken_where_the_kernel_can_see_to_that(
    path: Path, obtain: Obtain
) -> None:
    """What may keep whoever closes it waiting is not let in with a connection."""
    listener = obtain(path)
    with closing(connect(path)) as connection:
        accepted = listener.accept()
        assert accepted
        try:
            socket.send_fds(connection, [b"x"], [0])
            taken = True
        except PermissionError:
            taken = False
        accepted.close()
    assert taken == listener.can_be_held_up


@pytest.mark.parametrize(
    ("mode", "safe"), [(0o755, True), (0o1777, True), (0o777, False), (0o775, False)]
)
def test_directory_that_others_may_change_is_refused(
    tmp_path: Path, obtain: Obtain, mode: int, safe: bool
) -> None:
    """They could put something of theirs in the socket's place; not where the sticky bit is set."""
    tmp_path.chmod(mode)
    path = tmp_path / "cowd.sock"
    if safe:
        obtain(path)
    else:
        with pytest.raises(ListenerError, match="others may change its directory"):
            Listener.obtain(path)
    assert path.exists() == safe


@needs_root
@pytest.mark.parametrize("below", ["", "own"], ids=["itself", "above"])
def test_directory_of_another_user_is_refused(tmp_path: Path, below: str) -> None:
    directory = tmp_path / below
    directory.mkdir(exist_ok=True)
    os.chown(tmp_path, NOBODY.uid, NOBODY.gid)
    with pytest.raises(ListenerError, match="others may change its directory"):
        Listener.obtain(directory / "cowd.sock")
    assert not (directory / "cowd.sock").exists()


@pytest.mark.parametrize("waiting", [0, 1], ids=["idle", "full backlog"])
def test_socket_that_somebody_listens_on_is_left_alone(
    path: Path, somebody_listening: socket.socket, waiting: int
) -> None:
    with ExitStack() as stack:
        for _ in range(waiting):
            stack.enter_context(closing(connect(path)))
        with pytest.raises(ListenerError, match="another cowd is listening there") as refusal:
            Listener.obtain(path)
        assert str(path) in str(refusal.value)
    somebody_listening.setblocking(False)
    with suppress(BlockingIOError):
        while True:
            somebody_listening.accept()[0].close()
    with closing(connect(path)):
        somebody_listening.accept()[0].close()  # the name still leads there


def make_file(path: Path) -> None:
    path.write_text("precious")


def make_directory(path: Path) -> None:
    path.mkdir()


def make_link(path: Path) -> None:
    (path.parent / "elsewhere").write_text("precious")
    path.symlink_to(path.parent / "elsewhere")


@pytest.mark.parametrize("make", [make_file, make_directory, make_link])
def test_what_is_no_socket_is_left_alone(path: Path, make) -> None:
    make(path)
    found = path.lstat()
    with pytest.raises(ListenerError, match="not a socket of ours") as refusal:
        Listener.obtain(path)
    assert str(path) in str(refusal.value)
    assert path.lstat() == found


@needs_root
def test_stale_socket_of_another_user_is_left_alone(
    path: Path, somebody_listening: socket.socket
) -> None:
    somebody_listening.close()
    os.chown(path, NOBODY.uid, NOBODY.gid)
    with pytest.raises(ListenerError, match="not a socket of ours"):
        Listener.obtain(path)
    assert path.exists()


def test_place_that_cannot_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path, why in (
        (tmp_path / "file" / "cowd.sock", "Not a directory"),
        (tmp_path / "no" / "such" / "cowd.sock", "No such file"),
        (tmp_path / ("long" * 30), "too long"),
    ):
        with pytest.raises(ListenerError, match=why) as refusal:
            Listener.obtain(path)
        assert str(refusal.value).startswith(f"cannot listen on {path}: ")
        assert "None" not in str(refusal.value)


def test_own_socket_is_removed_at_the_end(path: Path, obtain: Obtain) -> None:
    listener = obtain(path)
    listener.remove_file()
    assert not path.exists()
    listener.remove_file()  # as the broker does once more


def test_own_directory_is_removed_at_the_end_once_it_is_empty(
    tmp_path: Path, obtain: Obtain
) -> None:
    directory = tmp_path / "made"
    listener = obtain(directory / "cowd.sock")
    (directory / "rooms").mkdir()
    listener.remove_file()
    assert list(directory.iterdir()) == [directory / "rooms"]
    (directory / "rooms").rmdir()
    listener.remove_file()
    assert not directory.exists()


def test_directory_that_was_there_before_is_kept(path: Path, obtain: Obtain) -> None:
    obtain(path).remove_file()
    assert path.parent.exists()


def test_socket_of_the_next_daemon_is_left_alone(path: Path, obtain: Obtain) -> None:
    """It listens while the one before still drains, which then removes its own."""
    before = obtain(path)
    before.remove_file()
    after = obtain(path)
    before.remove_file()
    assert_leads_to(path, after)


def test_socket_that_took_our_place_is_left_alone(
    path: Path, tmp_path: Path, obtain: Obtain
) -> None:
    other, listener = obtain(tmp_path / "other"), obtain(path)
    (tmp_path / "other").rename(path)
    listener.remove_file()
    assert_leads_to(path, other)


# What systemd does: LISTEN_PID is who may take the descriptors from 3 on.
ACTIVATE = 'export LISTEN_FDS=$1 LISTEN_PID=$$; shift; exec "$@" 3<&0 4<&0'
TAKE = """
import json, os, sys
from pathlib import Path
from cowdaemon.listener import Listener, ListenerError
try:
    listener = Listener.obtain(Path(sys.argv[1]) if sys.argv[1:] else None)
except ListenerError as error:
    print(json.dumps(str(error)))
    sys.exit()
client = listener.accept()
inheritable = os.get_inheritable(listener.listening.fileno())
listener.remove_file()
received = client and client.recv(16).decode()
print(json.dumps([str(listener.path), received, inheritable]))
"""


def take_from_systemd(handed: socket.socket, count: int, *path: Path) -> str | list[object]:
    """Hand a child a socket `count` times; return its path and what came through, or why not."""
    command = ["/bin/sh", "-c", ACTIVATE, "sh", str(count), sys.executable, "-c", TAKE, *path]
    environment = {"PATH": os.defpath, "PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run(
        command,
        stdin=handed,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert ended.stderr == ""
    taken: str | list[object] = json.loads(ended.stdout)
    return taken


def test_socket_that_systemd_hands_over_is_taken_and_left(
    path: Path, somebody_listening: socket.socket
) -> None:
    with closing(connect(path)) as connection:
        connection.sendall(b"hello")
        taken = take_from_systemd(somebody_listening, 1)
    assert taken == [str(path), "hello", False]
    assert path.exists()


def test_socket_that_systemd_hands_over_does_not_wait(
    path: Path, somebody_listening: socket.socket
) -> None:
    """Whoever made it: with nobody there, accepting returns."""
    somebody_listening.setblocking(True)
    taken = take_from_systemd(somebody_listening, 1)
    assert taken == [str(path), None, False]
    assert path.exists()


def test_more_than_one_socket_is_refused(somebody_listening: socket.socket) -> None:
    taken = take_from_systemd(somebody_listening, 2)
    assert "2 sockets" in taken


def test_socket_beside_the_one_that_systemd_hands_over_is_refused(
    tmp_path: Path, somebody_listening: socket.socket
) -> None:
    other = tmp_path / "other.sock"
    assert str(other) in take_from_systemd(somebody_listening, 1, other)
    assert not other.exists()


@pytest.mark.parametrize("kind", ["datagram", "not listening", "TCP"])
def test_other_socket_than_ours_is_refused(kind: str) -> None:
    family = socket.AF_INET if kind == "TCP" else socket.AF_UNIX
    with socket.socket(
        family, socket.SOCK_DGRAM if kind == "datagram" else socket.SOCK_STREAM
    ) as handed:
        if kind == "TCP":
            handed.listen()
        taken = take_from_systemd(handed, 1)
    assert "ListenStream=" in taken
