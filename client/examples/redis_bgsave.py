# SPDX-License-Identifier: Apache-2.0
"""What a background save of Redis costs in memory, while it runs: cowd's figure and Redis's own.

Usage: redis_bgsave.py

Starts a Redis of its own (in a temporary directory, on a Unix socket, with no port), fills it, has
it save in the background, and writes to every fourth key meanwhile. The save is done by a fork of
the server: as long as that lives, each page that the server writes to is there twice. Needs the
daemon, and Debian's package redis-server or redis-tools, of which the second starts no service.
"""

import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import cowd

KEYS: Final = 30_000
VALUE_BYTES: Final = 1000
SAVE_DELAY_MICROSECONDS: Final = 60
"""For each key, to give the save some seconds."""
WRITES: Final = 600
"""Between two looks."""
BUSY_PERCENT: Final = 40
"""Of the save that Redis says is done when the writes end: it says so once a second."""
LOOK_SECONDS: Final = 0.4
START_SECONDS: Final = 20.0
MEBIBYTE: Final = 1 << 20
FILL: Final = "for n = 1, ARGV[1] do redis.call('SET', 'key:' .. n, string.rep('x', ARGV[2])) end"


class Redis:
    """A connection to the server at `path`."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))
        self._replies = self._socket.makefile("rb")

    def call(self, *words: object) -> bytes:
        """Return the reply to one command."""
        return self.call_all([words])[0]

    def call_all(self, commands: list[tuple[object, ...]]) -> list[bytes]:
        """Return the replies to several commands that are sent together."""
        request = b""
        for words in commands:
            parts = [str(word).encode() for word in words]
            request += b"*%d\r\n" % len(parts)
            request += b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)
        self._socket.sendall(request)
        return [self._read_reply() for _ in commands]

    def _read_reply(self) -> bytes:
        line = self._replies.readline().rstrip()
        if line.startswith(b"-"):
            raise RuntimeError(line.decode())
        if not line.startswith(b"$"):
            return line[1:]
        return self._replies.read(int(line[1:]) + 2)[:-2] if line != b"$-1" else b""

    def read_persistence(self) -> dict[str, int]:
        """Return the numbers of INFO persistence."""
        fields = (line.partition(":") for line in self.call("INFO", "persistence").decode().split())
        return {name: int(value) for name, _, value in fields if value.lstrip("-").isdigit()}


def start_server(directory: Path) -> "subprocess.Popen[bytes]":
    """Start a Redis that saves when told to, and ends with this process at the latest."""
    # Debian's redis-tools have the server, too, under a name by which it checks files.
    program = shutil.which("redis-server") or shutil.which("redis-check-rdb")
    if not program:
        sys.exit("redis_bgsave: no Redis here: apt-get install redis-tools")
    options = {
        "port": "0",
        "unixsocket": str(directory / "redis.sock"),
        "dir": str(directory),
        "save": "",
        "rdb-key-save-delay": str(SAVE_DELAY_MICROSECONDS),
    }
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    return subprocess.Popen(["redis-server", *words], executable=program, stdout=subprocess.DEVNULL)


def connect(server: "subprocess.Popen[bytes]", path: Path) -> Redis:
    """Connect to a server that is starting."""
    deadline = time.monotonic() + START_SECONDS
    while server.poll() is None and time.monotonic() < deadline:
        try:
            return Redis(path)
        except (FileNotFoundError, ConnectionRefusedError):
            time.sleep(0.01)
    sys.exit("redis_bgsave: the server did not start")


def sum_copies(shares: cowd.Shares) -> int:
    """Return how many pages there are because of the fork: what Redis calls its COW size.

    Redis has the child add up Private_Dirty of its own smaps: pages that it alone maps, and that
    are no file's. As these two are all who have the memory, these are the pages that the child has
    and the server has not: where the two have different ones, whoever made them, and where the
    server has none any more.
    """
    different = shares.copied_by_child + shares.copied_by_parent + shares.both + shares.different
    return different + shares.own


def watch_save(redis: Redis, pid: int) -> int:
    """Write while the child saves, and print what is copied; return the last sum of copies."""
    started, key, last = time.monotonic(), 0, 0
    print("SECONDS SAVED SHARED BY-PARENT BY-CHILD    OWN   COWD  REDIS (MiB)")
    while (family := cowd.family(pid)).children:
        total = family.children[0].total
        last = sum_copies(total) * family.page_size_bytes
        told = redis.read_persistence()
        if not told["rdb_bgsave_in_progress"]:
            break
        pages = [
            total.shared,
            total.copied_by_parent,
            total.copied_by_child + total.both + total.different,
            total.own,
        ]
        sizes = [count * family.page_size_bytes for count in pages]
        sizes += [last, told["current_cow_size"]]
        percent = 100 * told["current_save_keys_processed"] // told["current_save_keys_total"]
        row = [f"{time.monotonic() - started:7.1f} {percent:4}%"]
        for size, width in zip(sizes, (6, 9, 8, 6, 6, 6), strict=True):
            row.append(f"{size / MEBIBYTE:{width}.1f}")
        print(*row)
        if percent < BUSY_PERCENT:
            keys = [f"key:{1 + (key + 4 * n) % KEYS}" for n in range(WRITES)]
            redis.call_all([("SETRANGE", name, 0, "y") for name in keys])
            key += 4 * WRITES
        time.sleep(LOOK_SECONDS)
    return last


def main() -> None:
    """Start, fill, save, and compare."""
    with tempfile.TemporaryDirectory(prefix="redis-") as name:
        directory = Path(name)
        server = start_server(directory)
        try:
            redis = connect(server, directory / "redis.sock")
            redis.call("EVAL", FILL, 0, KEYS, VALUE_BYTES)
            redis.call("BGSAVE")
            last = watch_save(redis, server.pid)
            while (told := redis.read_persistence())["rdb_bgsave_in_progress"]:
                time.sleep(0.01)
        finally:
            server.terminate()  # which has it end its save, too
            server.wait()
    print(f"cowd, at the last look: {last / MEBIBYTE:.1f} MiB")
    print(f"rdb_last_cow_size: {told['rdb_last_cow_size'] / MEBIBYTE:.1f} MiB")


if __name__ == "__main__":
    main()
