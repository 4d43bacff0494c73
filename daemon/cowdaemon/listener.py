# SPDX-License-Identifier: Apache-2.0
"""The socket that everybody connects to: the one systemd hands over, or one of our own.

Root, in the broker. Accepting is all that is done with it here; nothing is ever read from it.
"""

import os
import socket
import stat
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from systemd import daemon as systemd_daemon

from cowdaemon import wire
from cowdaemon.limits import LISTEN_BACKLOG, MOST_WAITING, START_PAUSE_SECONDS

__all__ = ["DEFAULT_PATH", "Listener", "ListenerError"]

DEFAULT_PATH: Final = Path("/run/cowd/cowd.sock")


class ListenerError(Exception):
    """There is no socket to listen on; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Listener:
    """A listening, non-blocking socket.

    `own_file` is the (device, inode) to remove at the end, and `own_directory` whether we made its
    directory, too. `can_be_held_up` tells whether closing a connection may have to wait for what
    its client sent along (wire.refuse_descriptors).
    """

    listening: socket.socket
    path: Path
    can_be_held_up: bool
    own_file: tuple[int, int] | None = None
    own_directory: bool = False

    @property
    def is_inherited(self) -> bool:
        """Whether it is systemd's, which keeps it when we leave, and starts us when it is used."""
        return self.own_file is None

    @classmethod
    def obtain(cls, path: Path | None) -> "Listener":
        """Take systemd's socket if there is one, else make one at `path`.

        Raises:
            ListenerError: neither works.
        """
        inherited = systemd_daemon.listen_fds(True)
        if not inherited:
            return cls._make(path or DEFAULT_PATH)
        if path:
            raise ListenerError(
                f"systemd handed over a socket, and --socket names another, {path}: leave one out"
            )
        if len(inherited) > 1:
            raise ListenerError(
                f"systemd handed over {len(inherited)} sockets: cowd.socket has one"
            )
        if not systemd_daemon.is_socket_unix(inherited[0], socket.SOCK_STREAM, 1):
            raise ListenerError(
                "systemd handed over something else than a listening Unix stream socket: "
                "look at ListenStream= in cowd.socket"
            )
        listening = socket.socket(fileno=inherited[0])
        name = os.fsdecode(listening.getsockname())
        if not name.startswith("/"):
            listening.close()
            raise ListenerError(
                "systemd handed over a socket without a path: give ListenStream= in cowd.socket one"
            )
        listening.setblocking(False)
        can_be_held_up = not wire.refuse_descriptors(listening)
        return cls(listening, Path(name), can_be_held_up)

    @classmethod
    def _make(cls, path: Path) -> "Listener":
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        # 0666: whoever connects, the kernel says who. Made so, not changed to it by name: in a
        # directory that others may write to, the name could be a link by then.
        umask = os.umask(0o022)
        try:
            own_directory = _make_directory(path.parent)
            path = path.parent.resolve() / path.name
            for directory in path.parents:
                _verify_directory(directory)
            _remove_stale(path)
            os.umask(0o111)
            can_be_held_up = not wire.refuse_descriptors(listening)
            listening.bind(os.fspath(path))
            listening.listen(LISTEN_BACKLOG)
            made = path.lstat()
        except OSError as error:
            listening.close()
            raise ListenerError(f"cannot listen on {path}: {error.strerror or error}") from error
        finally:
            os.umask(umask)
        return cls(listening, path, can_be_held_up, (made.st_dev, made.st_ino), own_directory)

    def accept(self) -> socket.socket | None:
        """Return the next connection, or None if there is none now."""
        try:
            return self.listening.accept()[0]
        except (BlockingIOError, ConnectionAbortedError):
            return None

    def turn_away(self) -> None:
        """Close what waits in systemd's socket; if we cannot serve, it would start us again.

        Whoever comes during the pause does so, and a little later. So as long as somebody asks we
        look again whether we can serve, twice a second, and need nobody to start us when we can.
        """
        if self.is_inherited:
            for _ in range(MOST_WAITING):
                client = self.accept()
                if client is None:
                    break
                client.close()
            time.sleep(START_PAUSE_SECONDS)

    def remove_file(self) -> None:
        """Remove the socket's file, if we made it and it is still ours, and our empty directory.

        The socket itself is left to the end of the process, which is not held up by what those who
        wait in it have sent along.
        """
        if self.own_file is None:
            return
        with suppress(FileNotFoundError):
            found = self.path.lstat()
            if (found.st_dev, found.st_ino) == self.own_file:
                self.path.unlink()
        if self.own_directory:
            with suppress(OSError):  # it is gone already, or another cowd is at home there
                self.path.parent.rmdir()


def _make_directory(directory: Path) -> bool:
    """Make it unless it is there; return whether it was made."""
    try:
        directory.mkdir()
    except FileExistsError:
        return False
    return True


def _verify_directory(directory: Path) -> None:
    """Raise unless only root decides what the names in it lead to."""
    found = directory.stat()
    others_may_write = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    is_ours = found.st_uid in (0, os.geteuid())
    if not is_ours or (others_may_write and not found.st_mode & stat.S_ISVTX):
        raise PermissionError(
            0, f"others may change its directory, {directory}: choose one that is root's alone"
        )


def _remove_stale(path: Path) -> None:
    """Remove a socket that nobody listens on any more, as a killed cowd leaves it."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode) or found.st_uid != os.geteuid():
        raise FileExistsError(0, "something that is not a socket of ours is there: remove it")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except BlockingIOError:
            pass  # a full backlog: somebody listens
    raise FileExistsError(0, "another cowd is listening there: stop it, or choose another --socket")
