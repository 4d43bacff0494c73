# SPDX-License-Identifier: Apache-2.0
"""A client that sends along what takes long to close: lingerer.py SOCKET SECONDS.

Opens as many connections as it is allowed, and then more, which the broker drops; with these it
sends the last descriptor of a TCP connection with unread data and SO_LINGER, whose close waits
SECONDS. Prints how often the kernel let it send, and waits for the end of its input.
"""

import array
import socket
import struct
import sys

ALLOWED = 80
"""Connections of one uid, refusals included."""
DROPPED = 100


def make_lingering(seconds: int) -> tuple[socket.socket, socket.socket]:
    """Return a connection whose last close waits, and what keeps its other end from reading."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    listener.bind(("127.0.0.1", 0))
    listener.listen(1)
    lingering = socket.create_connection(listener.getsockname())
    lingering.setblocking(False)
    try:
        while True:
            lingering.send(bytes(1 << 16))
    except BlockingIOError:
        pass
    lingering.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, seconds))
    return lingering, listener


def main() -> None:
    """Send it on every connection, close it here, and let go of the connections."""
    path, seconds = sys.argv[1], int(sys.argv[2])
    lingering, listener = make_lingering(seconds)
    attached = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [lingering.fileno()]))]
    connections = []
    for _ in range(ALLOWED):
        connections.append(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        connections[-1].connect(path)
    sent = 0
    for _ in range(DROPPED):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.connect(path)
            try:
                connection.sendmsg([b"P"], attached)
                sent += 1
            except (PermissionError, BrokenPipeError, ConnectionResetError):
                pass  # refused by the kernel, or dropped already
    if sent:
        lingering.close()  # else it would be the last, and wait here
    print(sent, flush=True)
    sys.stdin.read()
    listener.close()


if __name__ == "__main__":
    main()
