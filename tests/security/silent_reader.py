# SPDX-License-Identifier: Apache-2.0
"""A client that asks for as much as it can and reads nothing of it: HTTP/2 by hand.

Runs as an unprivileged user, started by a test. With a window of 0 bytes the server may send
headers and no data (RFC 9113, 6.9), so that every answer stays in its memory. Prints {"pid": N},
then answers each line {"connections": N, "calls": M} with {"open": how many connections still are}:
so many more connections are made, with M calls of GetPageFlags on each.

The calls are StreamPageFlags if a line has "streams": true; of as many pages each time as one
response has, RANGES times. With "comparisons": true they are ComparePages, with a child that has
written to all of them after it was forked, in another order.

Usage: silent_reader.py SOCKET_PATH
"""

import ctypes
import functools
import json
import mmap
import os
import select
import signal
import socket
import struct
import sys

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, SETTINGS = 0, 1, 4
END_STREAM, END_HEADERS = 1, 4
INITIAL_WINDOW_SIZE = 4
PAGES = 65_536
ADDRESS = 1 << 28
RANGES = 200
STEP_PAGES = 7_919
PR_SET_PDEATHSIG = 1
kept: list[mmap.mmap] = []
SERVICE = b"/cowd.v1.PageFlagsService/"


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Return a frame (RFC 9113, 4.1)."""
    return len(payload).to_bytes(3, "big") + struct.pack(">BBI", kind, flags, stream) + payload


def header(name: bytes, value: bytes) -> bytes:
    """Return a header field as a literal that is in no table (RFC 7541, 6.2.2)."""
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


def ask_once() -> tuple[bytes, bytes]:
    """Return the name and the request of GetPageFlags."""
    message = b"\x08" + varint(os.getpid()) + b"\x11" + struct.pack("<Q", ADDRESS)
    return b"GetPageFlags", message + b"\x18" + varint(PAGES)


def ask_for_stream() -> tuple[bytes, bytes]:
    """Return the name and the request of StreamPageFlags, about the memory that was written."""
    wanted = b"\x09" + struct.pack("<Q", write_memory()) + b"\x10" + varint(PAGES)
    ranges = (b"\x12" + varint(len(wanted)) + wanted) * RANGES
    return b"StreamPageFlags", b"\x08" + varint(os.getpid()) + ranges


def ask_for_comparison() -> tuple[bytes, bytes]:
    """Return the name and the request of ComparePages, about that memory and the child's."""
    address = write_memory()
    wanted = b"\x09" + struct.pack("<Q", address) + b"\x10" + varint(PAGES)
    ranges = (b"\x1a" + varint(len(wanted)) + wanted) * RANGES
    return b"ComparePages", b"\x08" + varint(os.getpid()) + b"\x10" + varint(fork()) + ranges


@functools.cache
def fork() -> int:
    """Fork a child that has pages of its own, and ends with this process; return its pid."""
    done, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        for page in range(PAGES):
            kept[0][page * STEP_PAGES % PAGES * mmap.PAGESIZE] = 2
        os.write(told, b"1")
        signal.pause()
    os.read(done, 1)
    return pid


@functools.cache
def write_memory() -> int:
    """Write as many pages as are asked for; return where they are."""
    memory = mmap.mmap(-1, PAGES * mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    ctypes.memset(address, 1, len(memory))
    kept.append(memory)
    return address


def request(stream: int, name: bytes, message: bytes) -> bytes:
    """Return the frames of one call."""
    fields = {
        b":method": b"POST",
        b":scheme": b"http",
        b":path": SERVICE + name,
        b":authority": b"localhost",
        b"content-type": b"application/grpc",
        b"te": b"trailers",
    }
    headers = b"".join(header(*field) for field in fields.items())
    body = b"\0" + struct.pack(">I", len(message)) + message
    return frame(HEADERS, END_HEADERS, stream, headers) + frame(DATA, END_STREAM, stream, body)


def varint(number: int) -> bytes:
    """Return a number as protobuf has it."""
    low, number = number & 0x7F, number >> 7
    return bytes([low | 0x80]) + varint(number) if number else bytes([low])


def connect(path: str, calls: int, name: bytes, message: bytes) -> socket.socket:
    """Return a connection on which so many calls of one kind have been made."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    no_window = struct.pack(">HI", INITIAL_WINDOW_SIZE, 0)
    frames = [
        frame(SETTINGS, 0, 0, no_window),
        *(request(1 + 2 * call, name, message) for call in range(calls)),
    ]
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
        asked = ask_once()
        if wanted.get("streams"):
            asked = ask_for_stream()
        elif wanted.get("comparisons"):
            asked = ask_for_comparison()
        connections += [
            connect(path, wanted["calls"], *asked) for _ in range(wanted["connections"])
        ]
        print(json.dumps({"open": sum(map(is_open, connections))}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
