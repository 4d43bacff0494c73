# SPDX-License-Identifier: Apache-2.0
"""Carries bytes between a client's connection and the in-process gRPC server, unread.

Worker, unprivileged. Two blocking threads a connection: whoever does not read stops the thread that
writes to it, and so in the end the other side, with no more than a buffer between them.
"""

import socket
import threading
from collections.abc import Callable

from cowdaemon.limits import RELAY_BUFFER_BYTES

__all__ = ["start_relay"]


def start_relay(client: socket.socket, server: socket.socket, on_end: Callable[[], None]) -> None:
    """Relay both ways in threads until both ends have closed; then close both and call `on_end`."""
    threading.Thread(target=_relay, args=(client, server, on_end), daemon=True).start()


def _relay(client: socket.socket, server: socket.socket, on_end: Callable[[], None]) -> None:
    with client, server:
        back = threading.Thread(target=_carry, args=(server, client), daemon=True)
        back.start()
        _carry(client, server)
        back.join()
    on_end()


def _carry(source: socket.socket, sink: socket.socket) -> None:
    buffer = memoryview(bytearray(RELAY_BUFFER_BYTES))
    try:
        while length_bytes := source.recv_into(buffer):
            sink.sendall(buffer[:length_bytes])
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        # Reset by one side, or closed for writing: neither direction can go on.
        for end in (source, sink):
            _shut_down(end)


def _shut_down(end: socket.socket) -> None:
    try:
        end.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # it is already
