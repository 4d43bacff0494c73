# SPDX-License-Identifier: Apache-2.0
"""Rooms that a worker gets to by its descriptor, and nobody by a name."""

import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from cowdaemon.broker.rooms import Rooms, RoomsError
from harness.programs import DAEMON, NOBODY
from unit.children import RunInChild

pytestmark = pytest.mark.usefixtures("nothing_is_left")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: to be another user")


@pytest.fixture
def socket_path(public_path: Path) -> Path:
    return public_path / "cowd.sock"


@pytest.fixture
def directory(socket_path: Path) -> Path:
    """Where the rooms are."""
    return socket_path.with_name("cowd.sock.workers")


@pytest.fixture
def rooms(socket_path: Path) -> Iterator[Rooms]:
    with closing(Rooms(socket_path)) as rooms:
        yield rooms


@pytest.mark.usefixtures("rooms")
def test_directory_of_rooms_is_its_owners_alone(directory: Path) -> None:
    found = directory.stat()
    assert stat.S_IMODE(found.st_mode) == 0o700
    assert found.st_uid == os.geteuid()


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_whoever_has_the_descriptor_may_make_files(rooms: Rooms, umask: int) -> None:
    before = os.umask(umask)
    try:
        room = rooms.make(1)
    finally:
        os.umask(before)
    try:
        assert stat.S_IMODE(os.fstat(room).st_mode) == 0o777
        assert not os.get_inheritable(room)
        with pytest.raises(OSError, match="Bad file descriptor"):  # no way to list what is there
            os.listdir(room)
    finally:
        os.close(room)


@needs_root
def test_worker_gets_to_its_own_room_and_to_no_other(
    rooms: Rooms, directory: Path, run_in_child: RunInChild
) -> None:
    """Both are of one user: the other's name is what it lacks."""
    own, other = rooms.make(1), rooms.make(2)
    numbers = (own, other)

    def be_worker() -> tuple[bool, list[str]]:
        # fork_child() has closed both: the room's descriptor is had again as root, as by handing.
        room = os.open(directory / "1", os.O_PATH)
        os.setgroups([])
        os.setresgid(DAEMON.gid, DAEMON.gid, DAEMON.gid)
        os.setresuid(DAEMON.uid, DAEMON.uid, DAEMON.uid)
        with open("inner", "x", opener=lambda name, flags: os.open(name, flags, dir_fd=room)):
            pass
        errors = []
        for attempt in (
            lambda: os.listdir(directory),
            lambda: os.listdir(directory / "2"),
            lambda: os.stat("../2", dir_fd=room),
            lambda: os.open("..", os.O_RDONLY, dir_fd=room),
        ):
            try:
                attempt()
            except OSError as error:
                errors.append(type(error).__name__)
        return os.path.exists(f"/proc/self/fd/{room}/inner"), errors

    made, errors = run_in_child(be_worker)
    for number in numbers:
        os.close(number)
    assert made
    assert errors[:3] == ["PermissionError"] * 3
    assert errors[3:] == ["PermissionError"]


def test_room_that_was_left_empty_is_removed(rooms: Rooms, directory: Path) -> None:
    os.close(rooms.make(1))
    os.close(rooms.make(2))
    rooms.remove(1)
    assert [room.name for room in directory.iterdir()] == ["2"]
    rooms.remove(1)  # it may have been removed with all others


def test_room_that_something_was_left_in_is_removed_at_the_end(
    socket_path: Path, directory: Path
) -> None:
    rooms = Rooms(socket_path)
    os.close(rooms.make(1))
    (directory / "1" / "left").touch()
    rooms.remove(1)
    assert (directory / "1").exists()
    rooms.close()
    assert not directory.exists()


def test_rooms_of_a_daemon_that_was_killed_are_removed(socket_path: Path, directory: Path) -> None:
    killed = Rooms(socket_path)
    os.close(killed.make(7))
    os.close(killed._descriptor)
    with closing(Rooms(socket_path)):
        assert list(directory.iterdir()) == []


def test_room_that_cannot_be_removed_stops_nobody(socket_path: Path, directory: Path) -> None:
    """A worker that was taken over nests directories deeper than Python can climb down."""
    rooms = Rooms(socket_path)
    try:
        place = rooms.make(1)
        for _ in range(2 * sys.getrecursionlimit()):
            os.mkdir("d", dir_fd=place)
            deeper = os.open("d", os.O_PATH, dir_fd=place)
            os.close(place)
            place = deeper
        os.close(place)
        rooms.close()
        with closing(Rooms(socket_path)) as after:
            assert list(directory.iterdir()) == []
            os.close(after.make(1))
    finally:  # pytest could not remove it either
        subprocess.run(["rm", "-rf", *directory.parent.glob("*.workers*")], check=True)


def test_rooms_are_made_in_the_directory_that_was_made_first(
    socket_path: Path, directory: Path
) -> None:
    """Whoever owns a directory above could put another in its place."""
    rooms = Rooms(socket_path)
    moved = directory.rename(directory.with_name("moved"))
    directory.mkdir()
    (directory / "1").symlink_to(moved)
    room = rooms.make(1)
    assert os.path.samestat(os.fstat(room), (moved / "1").stat())
    os.close(room)
    rooms.remove(1)
    assert list(moved.iterdir()) == []
    rooms.close()


def test_rooms_of_the_next_daemon_are_left_alone(socket_path: Path) -> None:
    """It starts while the one before still drains, whose socket's name is free by then."""
    before = Rooms(socket_path)
    with closing(Rooms(socket_path)) as after:
        before.close()
        os.close(after.make(1))


def make_file(path: Path) -> None:
    path.write_text("precious")


def make_link(path: Path) -> None:
    (path.parent / "elsewhere").mkdir()
    (path.parent / "elsewhere" / "precious").touch()
    path.symlink_to(path.parent / "elsewhere")


@pytest.mark.parametrize("make", [make_file, make_link])
def test_what_is_no_directory_is_left_alone(
    socket_path: Path, directory: Path, make: Callable[[Path], None]
) -> None:
    make(directory)
    found = directory.lstat()
    with pytest.raises(RoomsError, match="not of cowd") as refusal:
        Rooms(socket_path)
    assert str(directory) in str(refusal.value)
    assert directory.lstat() == found


@needs_root
def test_directory_of_another_user_is_left_alone(socket_path: Path, directory: Path) -> None:
    directory.mkdir()
    os.chown(directory, NOBODY.uid, NOBODY.gid)
    with pytest.raises(RoomsError, match="not of cowd"):
        Rooms(socket_path)
    assert directory.exists()


def test_place_that_cannot_be_is_told(tmp_path: Path) -> None:
    with pytest.raises(RoomsError, match="No such file"):
        Rooms(tmp_path / "missing" / "cowd.sock")
