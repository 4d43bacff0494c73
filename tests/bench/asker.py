# SPDX-License-Identifier: Apache-2.0
"""A client of the daemon that times itself: what an unprivileged program waits for.

Runs as an ordinary user, started by `stage.py` with the daemon's socket and that of
`noop_server.py`. Answers each line of JSON on standard input, {"do": NAME, ...}, with a line.
"""

import json
import statistics
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import cowd
import grpc
import numpy as np
from cowproto.v1 import pageflags_pb2, pageflags_pb2_grpc, twins_pb2

TIMEOUT_SECONDS = 60.0
LEAST_ROOM_PAGES = 1 << 16
OPTIONS = [("grpc.default_authority", "localhost")]
"""What every client of a Unix socket needs: the path is no authority."""
FILE, ANON, ZERO, UNKNOWN = (cowd.PageState[name] for name in ("FILE", "ANON", "ZERO", "UNKNOWN"))


class PageArrays:
    """Room for what an answer lists, used again by every reading; it grows and never shrinks.

    `flags` (uint64), `states` and `attributes` (uint8) have one element a page that is listed,
    `addresses` (uint64) and `counts` (uint32) one a stretch of them: there are no more stretches
    than pages.
    """

    def __init__(self) -> None:
        self._make(LEAST_ROOM_PAGES)
        self.listed = self.stretches = 0

    def _make(self, room: int) -> None:
        """Make larger arrays and touch them: a reading after the first pays for no page faults."""
        self.flags = np.ones(room, np.uint64)
        self.states, self.attributes = np.ones(room, np.uint8), np.ones(room, np.uint8)
        self.addresses, self.counts = np.ones(room, np.uint64), np.ones(room, np.uint32)

    def _grow(self, room: int) -> None:
        filled = self.flags, self.states, self.attributes, self.addresses, self.counts
        self._make(max(room, 2 * len(self.flags)))
        larger = self.flags, self.states, self.attributes, self.addresses, self.counts
        for old, new in zip(filled, larger, strict=True):
            new[: len(old)] = old

    def clear(self) -> None:
        """Forget what is listed, and keep the room."""
        self.listed = self.stretches = 0

    def append(self, chunk: cowd.PageChunk) -> None:
        """Add the pages that a chunk lists."""
        end, last = self.listed + len(chunk.states), self.stretches + len(chunk.stretch_addresses)
        if end > len(self.flags):
            self._grow(end)
        pages, stretches = slice(self.listed, end), slice(self.stretches, last)
        self.flags[pages] = np.frombuffer(chunk.kpageflags, np.uint64)
        self.states[pages] = np.frombuffer(chunk.states, np.uint8)
        self.attributes[pages] = np.frombuffer(chunk.attributes, np.uint8)
        self.addresses[stretches] = np.frombuffer(chunk.stretch_addresses, np.uint64)
        self.counts[stretches] = np.frombuffer(chunk.stretch_page_counts, np.uint32)
        self.listed, self.stretches = end, last


def read_flags(client: cowd.Client, pid: int, address: int, count: int, into: PageArrays) -> None:
    """Read a range into arrays. What is absent and in no stretch is not listed."""
    into.clear()
    for chunk in client.stream_page_flags(pid, [(address, count)]):
        into.append(chunk)


class Asker:
    """The client, with its connections and its arrays."""

    def __init__(self, socket_path: str, noop_path: str) -> None:
        self._client = cowd.Client(socket_path, timeout_seconds=TIMEOUT_SECONDS)
        self._channel = grpc.insecure_channel(f"unix:{socket_path}", OPTIONS)
        self._stub = pageflags_pb2_grpc.PageFlagsServiceStub(self._channel)
        self._compare = self._channel.unary_stream("/cowd.v1.PageFlagsService/ComparePages")
        self._noop_channel = grpc.insecure_channel(f"unix:{noop_path}", OPTIONS)
        self._noop = self._noop_channel.unary_unary("/noop/Noop")
        self._arrays = PageArrays()
        self._ended = threading.Event()
        self._streaming = threading.Thread()
        self._streamed_pages = 0

    def read(self, pid: int, address: int, count: int) -> dict[str, Any]:
        """Read a range once; return between which seconds of CLOCK_MONOTONIC, and what was there.

        What came is counted outside of that time.
        """
        start = time.monotonic()
        read_flags(self._client, pid, address, count, self._arrays)
        end = time.monotonic()
        states = np.bincount(self._arrays.states[: self._arrays.listed], minlength=UNKNOWN + 1)
        return {
            "start": start,
            "end": end,
            "listed": self._arrays.listed,
            "stretches": self._arrays.stretches,
            "present": int(states[[FILE, ANON, ZERO]].sum()),
            "anonymous": int(states[ANON]),
        }

    def compare(
        self, pid: int, other_pid: int, address: int, count: int, totals_only: bool
    ) -> dict[str, Any]:
        """Compare a range of two processes once; return the seconds, and what was found the same.

        What came is decoded as the library does, and counted outside of that time.
        """
        wanted = pageflags_pb2.PageRange(address=address, count=count)
        request = pageflags_pb2.ComparePagesRequest(
            pid=pid, other_pid=other_pid, ranges=[wanted], totals_only=totals_only
        )
        start = time.monotonic()
        answers = [
            twins_pb2.ComparePagesResponse.FromString(answer)
            for answer in self._compare(request.SerializeToString(), timeout=TIMEOUT_SECONDS)
        ]
        seconds = time.monotonic() - start
        same = pageflags_pb2.PAGE_COMPARISON_SAME
        totals = [each for answer in answers for each in answer.totals]
        counted = sum(each.page_count for each in totals if each.comparison == same)
        listed = sum(answer.comparison.count(same) for answer in answers)
        return {"seconds": seconds, "same": counted if totals_only else listed}

    def summarize(self, pids: list[int]) -> dict[str, Any]:
        """Have processes summarized, or all that the user may see; as `read` does otherwise."""
        request = pageflags_pb2.SummarizeProcessesRequest(pids=pids)
        start = time.monotonic()
        summaries = list(self._stub.SummarizeProcesses(request, timeout=TIMEOUT_SECONDS))
        end = time.monotonic()
        totals = [total for summary in summaries for total in summary.totals]
        anonymous = sum(total.anon_page_count + total.zero_page_count for total in totals)
        return {
            "start": start,
            "end": end,
            "pids": [summary.pid for summary in summaries],
            "present": anonymous + sum(total.file_page_count for total in totals),
            "anonymous": anonymous,
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
                read_flags(self._client, pid, address, count, self._arrays)
                self._streamed_pages += self._arrays.listed

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
        for deed in (
            *(asker.read, asker.compare, asker.summarize, asker.call),
            *(asker.begin_streaming, asker.end_streaming),
        )
    }
    for line in sys.stdin:
        order = json.loads(line)
        print(json.dumps(deeds[order.pop("do")](**order)), flush=True)


if __name__ == "__main__":
    main()
