# SPDX-License-Identifier: Apache-2.0
"""A directory for each worker, where it makes the socket of its own gRPC server.

Root, in the broker. All workers run as one user, so no mode keeps one from what another owns. Their
rooms stand in a directory that only root may enter, and a worker is given a descriptor of its own
room: it has no name for any other.
"""

import os
import shutil
import stat
from contextlib import suppress
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
            if os.path.lexists(self._directory):
                self._remove_stale()
            self._directory.mkdir(mode=0o700)
            # All that follows goes by this descriptor: by name it could be another directory.
            flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            self._descriptor: Final = os.open(self._directory, flags)
        except OSError as error:
            raise RoomsError(f"cannot make {self._directory}: {error.strerror or error}") from error

    def _remove_stale(self) -> None:
        found = self._directory.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            raise FileExistsError(0, "something is there that is not of cowd: remove it")
        # Out of the way first: a hostile worker may have left what cannot be removed.
        aside = self._directory.with_name(f"{self._directory.name}.{os.getpid()}")
        self._directory.rename(aside)
        _remove_tree(aside)

    def make(self, worker_id: int) -> int:
        """Return an O_PATH descriptor of a new room in which everybody may make files.

        Raises:
            OSError: there is no space or no descriptor.
        """
        name = str(worker_id)
        os.mkdir(name, dir_fd=self._descriptor)
        os.chmod(name, 0o777, dir_fd=self._descriptor)  # noqa: S103 - only root gets to it by name
        flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(name, flags, dir_fd=self._descriptor)

    def remove(self, worker_id: int) -> None:
        """Remove a room; one that its worker left something in, which may be much, at the end."""
        with suppress(OSError):
            os.rmdir(str(worker_id), dir_fd=self._descriptor)

    def close(self) -> None:
        """Remove all rooms, unless another cowd has made its own there meanwhile."""
        with suppress(FileNotFoundError):
            if os.path.samestat(self._directory.lstat(), os.fstat(self._descriptor)):
                _remove_tree(self._directory)
        os.close(self._descriptor)


def _remove_tree(directory: Path) -> None:
    """Remove what can be removed: a worker may have nested directories too deep, or closed one."""
    with suppress(RecursionError):
        shutil.rmtree(directory, ignore_errors=True)
