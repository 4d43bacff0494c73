# SPDX-License-Identifier: Apache-2.0
"""Carries bytes between a client's connection and the in-process gRPC server, unread.

Worker, unprivileged. Two blocking threads a connection: whoever does not read stops the thread that
writes to it, and so in the end the other side, with no more than a buffer between them.
"""

import socket
import threading
from collections.abc import Callable
from typing import Final

from cowdaemon.limits import RELAY_BUFFER_BYTES

__all__ = ["Relay"]


class Relay:
    """Carries bytes both ways until both ends have closed; then closes both and calls `on_end`."""

    def __init__(
        self, client: socket.socket, server: socket.socket, on_end: Callable[["Relay"], None]
    ) -> None:
        self._client: Final = client
        self._server: Final = server
        self._on_end: Final = on_end
        self._is_closed_to_client = False
        threading.Thread(target=self._run, name="relay", daemon=True).start()

    def close_to_client(self) -> None:
        """Carry what the client has sent already, and no more; the server is not told."""
        # What is in a receive buffer can still be read after this, and then its end.
        self._is_closed_to_client = True
        _shut_down(self._client, socket.SHUT_RD)

    def finish(self) -> None:
        """Carry what both have sent already, and no more."""
        _shut_down(self._server, socket.SHUT_RD)
        _shut_down(self._client, socket.SHUT_RD)

    def _run(self) -> None:
        try:
            with self._client, self._server:
                back = threading.Thread(target=self._carry_back, name="relay-back", daemon=True)
                back.start()
                _carry(self._client, self._server)
                if not self._is_closed_to_client:
                    _shut_down(self._server, socket.SHUT_WR)
                back.join()
        finally:
            self._on_end(self)

    def _carry_back(self) -> None:
        _carry(self._server, self._client)
        _shut_down(self._client, socket.SHUT_WR)


def _carry(source: socket.socket, sink: socket.socket) -> None:
    """Carry until the source says that there is no more."""
    buffer = memoryview(bytearray(RELAY_BUFFER_BYTES))
    try:
        while length_bytes := source.recv_into(buffer):
            sink.sendall(buffer[:length_bytes])
    except OSError:
        # Reset by one side, or closed for writing: neither direction can go on.
        _shut_down(source, socket.SHUT_RDWR)
        _shut_down(sink, socket.SHUT_RDWR)


def _shut_down(end: socket.socket, how: int) -> None:
    try:
        end.shutdown(how)
    except OSError:
        pass  # it is already
