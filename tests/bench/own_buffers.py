# SPDX-License-Identifier: Apache-2.0
"""How long the two backends take, against what reading pagemap alone costs. `make bench` runs it.

Runs as root, for the private daemon that it starts. Each figure is the median of rounds in which
all ways take their turn, so that a busy machine slows them alike.
"""

import mmap
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

import cowd
import numpy as np

sys.path.append(str(Path(__file__).parents[1]))
from harness.daemon import Daemon

PAGE_BYTES = mmap.PAGESIZE
MANY_PAGES = 1_000_000
FEW_PAGES = 4
PART_PAGES = 65_536
ROUNDS = 7
REPEATS = 200
"""Of a question about few pages, in a round."""


def measure(ways: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Return the median seconds of one call of each of `ways`."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way()
    for _ in range(ROUNDS):
        for name, way in ways.items():
            start = time.perf_counter()
            for _ in range(repeats):
                way()
            seconds[name].append((time.perf_counter() - start) / repeats)
    return {name: statistics.median(each) for name, each in seconds.items()}


def map_half_copied(directory: str, pages: int) -> np.ndarray:
    """Map a file privately and store to every other page of it; the others are read."""
    with tempfile.TemporaryFile(dir=directory) as file:
        file.truncate(pages * PAGE_BYTES)
        words = np.memmap(file, dtype="u1", mode="c")
    words[:: 2 * PAGE_BYTES] = 1
    assert not words[PAGE_BYTES :: 2 * PAGE_BYTES].any()
    return words


def read_entries(pagemap: int, address: int, pages: int) -> None:
    """Read pagemap, and do nothing with it."""
    for first in range(0, pages, PART_PAGES):
        count = min(PART_PAGES, pages - first)
        os.pread(pagemap, count * 8, (address // PAGE_BYTES + first) * 8)


def main() -> None:
    """Print the figures."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory, ExitStack() as stack:
        daemon = Daemon(Path(directory))
        stack.callback(daemon.stop)
        client = stack.enter_context(cowd.Client(os.fspath(daemon.socket_path)))
        many, few = map_half_copied(directory, MANY_PAGES), map_half_copied(directory, FEW_PAGES)
        pagemap = stack.enter_context(open("/proc/self/pagemap", "rb"))
        print(f"{MANY_PAGES} pages, half copied: ns a page")
        address, number = many.ctypes.data, pagemap.fileno()
        ways = {"pread of pagemap, no more": lambda: read_entries(number, address, MANY_PAGES)}
        for name, seconds in measure(ways | ask_about(many, client), 1).items():
            print(f"{seconds / MANY_PAGES * 1e9:9.1f}  {name}")
        print(f"{FEW_PAGES} pages: us a call")
        for name, seconds in measure(ask_about(few, client), REPEATS).items():
            print(f"{seconds * 1e6:9.0f}  {name}")


def ask_about(words: np.ndarray, client: cowd.Client) -> dict[str, Callable[[], object]]:
    """Return the questions about a buffer by what a user would write."""
    return {
        "copied()": lambda: cowd.copied(words),
        'pages(backend="local")': lambda: cowd.pages(words, backend="local"),
        "pages(backend=client)": lambda: cowd.pages(words, backend=client),
    }


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    main()
