# SPDX-License-Identifier: Apache-2.0
"""A directory for each worker, where it makes the socket of its own gRPC server.

Root, in the broker. All workers run as one user, so no mode keeps one from what another owns. Their
rooms stand in a directory that only root may enter, and a worker is given a descriptor of its own
room: it has no name for any other.
"""

import os
import shutil
import stat
from pathlib import Path
from typing import Final

__all__ = ["Rooms", "RoomsError"]


class RoomsError(Exception):
    """The directory for the workers' rooms cannot be had; the text says why."""


class Rooms:
    """The rooms of all workers, in a directory named after the socket that the broker listens on.

    Whoever has that socket has that name: what is found there is of a cowd that was killed.

    Raises:
        RoomsError: it cannot be made, or something of somebody else is there.
    """

    def __init__(self, socket_path: Path) -> None:
        self._directory: Final = socket_path.with_name(f"{socket_path.name}.workers")
        try:
            self._remove_stale()
            self._directory.mkdir(mode=0o700)
            # While it is open, its inode is nobody else's.
            self._descriptor: Final = os.open(self._directory, os.O_PATH | os.O_CLOEXEC)
        except OSError as error:
            raise RoomsError(f"cannot make {self._directory}: {error.strerror or error}") from error

    def _remove_stale(self) -> None:
        try:
            found = self._directory.lstat()
        except FileNotFoundError:
            return
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            raise FileExistsError(0, "something is there that is not of cowd: remove it")
        shutil.rmtree(self._directory)

    def make(self, worker_id: int) -> int:
        """Return an O_PATH descriptor of a new room in which everybody may make files.

        Raises:
            OSError: there is no space or no descriptor.
        """
        room = self._directory / str(worker_id)
        room.mkdir()
        room.chmod(0o777)
        return os.open(room, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def remove(self, worker_id: int) -> None:
        """Remove a room; one that its worker left something in, which may be much, at the end."""
        try:
            (self._directory / str(worker_id)).rmdir()
        except OSError:
            pass

    def close(self) -> None:
        """Remove all rooms, unless another cowd has made its own there meanwhile."""
        try:
            is_ours = os.path.samestat(self._directory.lstat(), os.fstat(self._descriptor))
        except FileNotFoundError:
            is_ours = False
        os.close(self._descriptor)
        if is_ours:
            shutil.rmtree(self._directory, ignore_errors=True)
