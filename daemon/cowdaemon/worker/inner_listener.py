# SPDX-License-Identifier: Apache-2.0
"""An address for the in-process gRPC server that only this process can connect to.

Worker, unprivileged. gRPC for Python can neither adopt a connected socket nor tell who the peer is,
so the worker relays what it was handed to a server of its own. Whoever else reached that server
would be taken for the worker's caller; so it listens on a socket whose name is gone: bound in a
directory of mode 0700 under a name taken from its descriptor (the kernel shows the name used in
/proc/net/unix), then unlinked, directory and all. An O_PATH descriptor keeps the way to it.
"""

import os
import shutil
import socket
import tempfile
from collections.abc import Callable
from typing import Final

__all__ = ["InnerListener"]

_NAME: Final = "inner"


class InnerListener:
    """Where this process, and nobody else, connects to its gRPC server.

    Args:
        bind: makes the server listen at a gRPC address such as unix:/path.

    Raises:
        OSError: no place to bind, or the server did not bind.
    """

    def __init__(self, bind: Callable[[str], object]) -> None:
        directory = tempfile.mkdtemp(prefix="cowd-worker-")
        try:
            directory_descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                bind(f"unix:/proc/self/fd/{directory_descriptor}/{_NAME}")
                self._socket_inode: Final = os.open(
                    _NAME, os.O_PATH | os.O_CLOEXEC, dir_fd=directory_descriptor
                )
            finally:
                os.close(directory_descriptor)
        finally:
            shutil.rmtree(directory)

    def connect(self) -> socket.socket:
        """Return a new connection to the server, blocking."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(f"/proc/self/fd/{self._socket_inode}")
        except OSError:
            connection.close()
            raise
        return connection
