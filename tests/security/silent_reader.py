# SPDX-License-Identifier: Apache-2.0
"""A client that asks for as much as it can and reads nothing of it: HTTP/2 by hand.

Runs as an unprivileged user, started by a test. With a window of 0 bytes the server may send
headers and no data (RFC 9113, 6.9), so that every answer stays in its memory. Prints {"pid": N},
then answers each line {"connections": N, "calls": M} with {"open": how many connections still are}:
so many more connections are made, with M calls of GetPageFlags on each.

Usage: silent_reader.py SOCKET_PATH
"""

import json
import os
import select
import socket
import struct
import sys

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, SETTINGS = 0, 1, 4
END_STREAM, END_HEADERS = 1, 4
INITIAL_WINDOW_SIZE = 4
PAGES = 65_536
ADDRESS = 1 << 28
PATH = b"/cowd.v1.PageFlagsService/GetPageFlags"


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Return a frame (RFC 9113, 4.1)."""
    return len(payload).to_bytes(3, "big") + struct.pack(">BBI", kind, flags, stream) + payload


def header(name: bytes, value: bytes) -> bytes:
    """Return a header field as a literal that is in no table (RFC 7541, 6.2.2)."""
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


def request(stream: int) -> bytes:
    """Return the frames of one call."""
    fields = {
        b":method": b"POST",
        b":scheme": b"http",
        b":path": PATH,
        b":authority": b"localhost",
        b"content-type": b"application/grpc",
        b"te": b"trailers",
    }
    headers = b"".join(header(*field) for field in fields.items())
    message = b"\x08" + varint(os.getpid()) + b"\x11" + struct.pack("<Q", ADDRESS)
    message += b"\x18" + varint(PAGES)
    body = b"\0" + struct.pack(">I", len(message)) + message
    return frame(HEADERS, END_HEADERS, stream, headers) + frame(DATA, END_STREAM, stream, body)


def varint(number: int) -> bytes:
    """Return a number as protobuf has it."""
    low, number = number & 0x7F, number >> 7
    return bytes([low | 0x80]) + varint(number) if number else bytes([low])


def connect(path: str, calls: int) -> socket.socket:
    """Return a connection on which so many calls have been made."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    no_window = struct.pack(">HI", INITIAL_WINDOW_SIZE, 0)
    frames = [frame(SETTINGS, 0, 0, no_window), *(request(1 + 2 * call) for call in range(calls))]
    try:
        connection.sendall(PREFACE + b"".join(frames))
    except BrokenPipeError:
        pass  # one too many
    return connection


def is_open(connection: socket.socket) -> bool:
    """Tell whether the server has not closed its end."""
    hung_up = select.poll()
    hung_up.register(connection, 0)
    return not hung_up.poll(0)


def main(path: str) -> None:
    """Do as the lines say."""
    print(json.dumps({"pid": os.getpid()}), flush=True)
    connections: list[socket.socket] = []
    for line in sys.stdin:
        wanted = json.loads(line)
        connections += [connect(path, wanted["calls"]) for _ in range(wanted["connections"])]
        print(json.dumps({"open": sum(map(is_open, connections))}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
