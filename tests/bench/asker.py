# SPDX-License-Identifier: Apache-2.0
"""A client of the daemon that times itself: what an unprivileged program waits for.

Runs as an ordinary user, started by `site.py` with the daemon's socket and that of
`noop_server.py`. Answers each line of JSON on standard input, {"do": NAME, ...}, with a line.
"""

import json
import statistics
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cowd
import grpc
import numpy as np
from cowproto.v1 import pageflags_pb2, pageflags_pb2_grpc

TIMEOUT_SECONDS = 60.0
LEAST_ROOM_PAGES = 1 << 16
OPTIONS = [("grpc.default_authority", "localhost")]
"""What every client of a Unix socket needs: the path is no authority."""
FILE, ANON, ZERO = cowd.PageState.FILE, cowd.PageState.ANON, cowd.PageState.ZERO


@dataclass
class PageArrays:
    """Room for the pages that an answer lists, one element a page, used again by every reading."""

    flags: np.ndarray
    states: np.ndarray
    attributes: np.ndarray

    @classmethod
    def make(cls, pages: int) -> "PageArrays":
        """Return room for so many pages, touched."""
        return cls(np.ones(pages, np.uint64), np.ones(pages, np.uint8), np.ones(pages, np.uint8))

    def grow(self, pages: int) -> "PageArrays":
        """Return room for twice as many, or for so many, with what is in this one."""
        larger = self.make(max(pages, 2 * len(self.flags)))
        for old, new in zip(self, larger, strict=True):
            new[: len(old)] = old
        return larger

    def __iter__(self):
        return iter((self.flags, self.states, self.attributes))


def read_flags(
    client: cowd.Client, pid: int, address: int, count: int, room: PageArrays
) -> tuple[PageArrays, int]:
    """Read a range; return the arrays, which may be larger ones than `room`, and the pages listed.

    Pages that are folded as absent are not listed.
    """
    listed = 0
    for part in client.iter_page_flags(pid, [(address, count)]):
        end = listed + len(part.states)
        if end > len(room.flags):
            room = room.grow(end)
        room.flags[listed:end] = part.kpageflags
        room.states[listed:end] = np.frombuffer(part.states, np.uint8)
        room.attributes[listed:end] = np.frombuffer(part.attributes, np.uint8)
        listed = end
    return room, listed


class Asker:
    """The client, with its connections and its arrays."""

    def __init__(self, socket_path: str, noop_path: str) -> None:
        self._client = cowd.Client(socket_path, timeout_seconds=TIMEOUT_SECONDS)
        self._channel = grpc.insecure_channel(f"unix:{socket_path}", OPTIONS)
        self._stub = pageflags_pb2_grpc.PageFlagsServiceStub(self._channel)
        self._noop_channel = grpc.insecure_channel(f"unix:{noop_path}", OPTIONS)
        self._noop = self._noop_channel.unary_unary("/noop/Noop")
        self._room = PageArrays.make(LEAST_ROOM_PAGES)
        self._ended = threading.Event()
        self._streaming = threading.Thread()
        self._streamed_pages = 0

    def read(self, pid: int, address: int, count: int) -> dict[str, Any]:
        """Read a range once; return between which seconds of CLOCK_MONOTONIC, and what was there.

        What came is counted outside of that time.
        """
        start = time.monotonic()
        self._room, listed = read_flags(self._client, pid, address, count, self._room)
        end = time.monotonic()
        states = np.bincount(self._room.states[:listed], minlength=max(cowd.PageState) + 1)
        return {
            "start": start,
            "end": end,
            "listed": listed,
            "present": int(states[[FILE, ANON, ZERO]].sum()),
            "anonymous": int(states[ANON]),
        }

    def call(self, way: str, calls: int, pid: int, address: int, count: int) -> dict[str, Any]:
        """Make calls one after the other; return the median of their seconds."""
        make = self._ways(pid, address, count)[way]
        seconds = []
        for _ in range(calls):
            start = time.perf_counter()
            make()
            seconds.append(time.perf_counter() - start)
        return {"seconds": statistics.median(seconds)}

    def _ways(self, pid: int, address: int, count: int) -> dict[str, Callable[[], object]]:
        request = pageflags_pb2.GetPageFlagsRequest(pid=pid, address=address, count=count)
        return {
            "noop": lambda: self._noop(b""),
            "stub": lambda: self._stub.GetPageFlags(request),
            "library": lambda: self._client.get_page_flags(pid, address, count),
        }

    def begin_streaming(self, pid: int, address: int, count: int) -> dict[str, Any]:
        """Read a range again and again in a thread."""
        self._ended.clear()
        self._streamed_pages = 0

        def stream() -> None:
            while not self._ended.is_set():
                room, listed = read_flags(self._client, pid, address, count, self._room)
                self._room, self._streamed_pages = room, self._streamed_pages + listed

        self._streaming = threading.Thread(target=stream)
        self._streaming.start()
        return {}

    def end_streaming(self) -> dict[str, Any]:
        """Return once a reading has come to its end; none is cut off."""
        self._ended.set()
        self._streaming.join()
        return {"listed": self._streamed_pages}


def main() -> None:
    """Answer lines until there are no more."""
    asker = Asker(*sys.argv[1:])
    deeds = {
        deed.__name__: deed
        for deed in (asker.read, asker.call, asker.begin_streaming, asker.end_streaming)
    }
    for line in sys.stdin:
        order = json.loads(line)
        print(json.dumps(deeds[order.pop("do")](**order)), flush=True)


if __name__ == "__main__":
    main()
