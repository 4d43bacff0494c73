# SPDX-License-Identifier: Apache-2.0
"""A program that asks the library about buffers of its own, and times itself.

Runs as an ordinary user, started by `stage.py` with the daemon's socket. Prints {}, and answers
each line of JSON, {"way": NAME, "buffer": "many" or "few"}, with {"seconds": N} of one call.
"""

import json
import mmap
import os
import sys
import tempfile
import time

import cowd
import numpy as np

PAGE_BYTES = mmap.PAGESIZE
PAGES = {"many": 1_000_000, "few": 4}
CALLS = {"many": 1, "few": 200}
"""Timed together."""
PART_PAGES = 65_536
DIRECTORY = "/var/tmp"


def map_half_copied(pages: int) -> np.ndarray:
    """Map a file privately and store to every other page of it; the others are read."""
    with tempfile.TemporaryFile(dir=DIRECTORY) as file:
        file.truncate(pages * PAGE_BYTES)
        words = np.memmap(file, dtype="u1", mode="c")
    words[:: 2 * PAGE_BYTES] = 1
    assert not words[PAGE_BYTES :: 2 * PAGE_BYTES].any()
    return words


def read_entries(pagemap: int, words: np.ndarray) -> None:
    """Read pagemap, and do nothing with it."""
    first_page, pages = words.ctypes.data // PAGE_BYTES, len(words) // PAGE_BYTES
    for first in range(0, pages, PART_PAGES):
        count = min(PART_PAGES, pages - first)
        os.pread(pagemap, count * 8, (first_page + first) * 8)


def main() -> None:
    """Answer lines until there are no more."""
    client = cowd.Client(sys.argv[1])
    pagemap = os.open("/proc/self/pagemap", os.O_RDONLY)
    buffers = {name: map_half_copied(pages) for name, pages in PAGES.items()}
    ways = {
        "pagemap": lambda words: read_entries(pagemap, words),
        "copied": cowd.copied,
        "local": lambda words: cowd.pages(words, backend="local"),
        "daemon": lambda words: cowd.pages(words, backend=client),
    }
    print(json.dumps({}), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        way, words, calls = ways[order["way"]], buffers[order["buffer"]], CALLS[order["buffer"]]
        start = time.perf_counter()
        for _ in range(calls):
            way(words)
        print(json.dumps({"seconds": (time.perf_counter() - start) / calls}), flush=True)


if __name__ == "__main__":
    main()
