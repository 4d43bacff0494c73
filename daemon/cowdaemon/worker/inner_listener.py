# SPDX-License-Identifier: Apache-2.0
"""An address for the in-process gRPC server that only this process can connect to.

Worker, unprivileged. gRPC for Python can neither adopt a connected socket nor tell who the peer is,
so the worker relays what it was handed to a server of its own. Whoever else reached that server
would be taken for the worker's caller. So it listens in the worker's own room, a directory that the
worker has a descriptor of and nobody else can get to (broker/rooms.py); the socket is unlinked at
once, and an O_PATH descriptor keeps the way to it. The server is told a name that starts from the
descriptor: that is what /proc/net/unix shows, and it leads nobody else anywhere.
"""

import os
import socket
from collections.abc import Callable
from typing import Final

__all__ = ["InnerListener"]

_NAME: Final = "inner"


class InnerListener:
    """Where this process, and nobody else, connects to its gRPC server.

    Args:
        room: descriptor of the worker's room, closed here.
        bind: makes the server listen at a gRPC address such as unix:/path.

    Raises:
        OSError: the server did not bind.
    """

    def __init__(self, room: int, bind: Callable[[str], object]) -> None:
        try:
            bind(f"unix:/proc/self/fd/{room}/{_NAME}")
            self._socket_inode: Final = os.open(_NAME, os.O_PATH | os.O_CLOEXEC, dir_fd=room)
            os.unlink(_NAME, dir_fd=room)
        finally:
            os.close(room)

    def connect(self) -> socket.socket:
        """Return a new connection to the server, blocking."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(f"/proc/self/fd/{self._socket_inode}")
        except OSError:
            connection.close()
            raise
        return connection
