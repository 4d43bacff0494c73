# SPDX-License-Identifier: Apache-2.0
"""Asks the daemon about pages of its own, again and again, until its input ends.

Runs in a machine as an ordinary user, with what is installed there. Prints {"pid": N} when it has
been answered for the first time, and for the line "count" how many answers there have been; at the
end {"answers": N, "failures": [TEXT, ...]}. An answer that is wrong is a failure.

Arguments: "kept" for one connection, "new" for one a call, "both" for a thread each. With "once",
it asks for each line instead, on a new connection and by gRPC alone, which tries nothing twice as
cowd's library does, and prints {"failure": TEXT or null}.
"""

import json
import mmap
import os
import sys
import tempfile
import threading
import time

import cowd
import grpc
from cowproto.v1 import pageflags_pb2, pageflags_pb2_grpc

SOCKET = "/run/cowd/cowd.sock"
CALL_SECONDS = 20.0
COPIED = [True, False, True, False]


def map_file() -> mmap.mmap:
    """Return four pages of a file, of which the first and the third have been written."""
    with tempfile.TemporaryFile(dir="/var/tmp") as file:
        file.write(os.urandom(4 * mmap.PAGESIZE))
        file.flush()
        memory = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE)
    for page, is_copied in enumerate(COPIED):
        if is_copied:
            memory[page * mmap.PAGESIZE] = 7
    return memory


class Asker:
    """One way to ask."""

    def __init__(self, is_kept: bool) -> None:
        self._is_kept = is_kept
        self._client: cowd.Client | None = None
        self._memory = map_file()

    def ask(self) -> str | None:
        """Return what went wrong, if something did."""
        started = time.monotonic()
        client = self._client or cowd.Client()
        try:
            copied = cowd.copied(self._memory, backend=client).tolist()
            return None if copied == COPIED else f"wrong: {copied}"
        except cowd.Error as error:
            kind = "kept" if self._is_kept else "new"
            seconds = time.monotonic() - started
            name = type(error).__name__
            return f"{kind}, after {seconds:.3f} s: {name}: {error} ({error.__cause__!r})"
        finally:
            if self._is_kept:
                self._client = client
            else:
                client.close()


def ask_once() -> str | None:
    """Make one call on one connection; return how it failed, if it did."""
    with grpc.insecure_channel(f"unix:{SOCKET}") as channel:
        stub = pageflags_pb2_grpc.PageFlagsServiceStub(channel)
        try:
            stub.GetServerInfo(pageflags_pb2.GetServerInfoRequest(), timeout=CALL_SECONDS)
        except grpc.RpcError as error:
            return repr(error)
    return None


class Asking:
    """An asker in a thread of its own."""

    def __init__(self, is_kept: bool) -> None:
        self._asker = Asker(is_kept)
        self._ending = threading.Event()
        self.answered = threading.Event()
        self.answers = 0
        self.failures: list[str] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._ending.is_set():
            failure = self._asker.ask()
            if failure:
                self.failures.append(failure)
            else:
                self.answers += 1
                self.answered.set()

    def end(self) -> None:
        """Return when the last call has ended."""
        self._ending.set()
        self._thread.join()


def main() -> None:
    """Ask until there is no more input."""
    if sys.argv[1] == "once":
        print(json.dumps({"pid": os.getpid()}), flush=True)
        for _ in sys.stdin:
            print(json.dumps({"failure": ask_once()}), flush=True)
        return
    kinds = {"kept": [True], "new": [False], "both": [True, False]}[sys.argv[1]]
    asking = [Asking(is_kept) for is_kept in kinds]
    for each in asking:
        each.answered.wait()
    print(json.dumps({"pid": os.getpid()}), flush=True)
    for _ in sys.stdin:
        print(json.dumps({"answers": sum(each.answers for each in asking)}), flush=True)
    for each in asking:
        each.end()
    print(
        json.dumps(
            {
                "answers": sum(each.answers for each in asking),
                "failures": [failure for each in asking for failure in each.failures],
            }
        )
    )


if __name__ == "__main__":
    main()
