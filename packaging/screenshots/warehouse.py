# SPDX-License-Identifier: Apache-2.0
"""A server whose pictures are taken: loads a catalogue, forks workers, and all of them write.

What it does to its pages is the same each time. Standard library only; runs as an unprivileged
user until the end of its input.

Usage: warehouse.py DIRECTORY
"""

import mmap
import os
import sys
from pathlib import Path

WORKERS = 4
PAGE_BYTES = mmap.PAGESIZE
CATALOGUE_PAGES = 6144
STOCK_PAGES = 4096


def main() -> None:
    """Be the server: say so when all is as it is to be seen."""
    Path("/proc/self/comm").write_text("warehouse")
    catalogue = map_file(Path(sys.argv[1]) / "catalogue.db", CATALOGUE_PAGES)
    stock = mmap.mmap(-1, STOCK_PAGES * PAGE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    touch(stock, range(3500))
    touch(catalogue, range(400))  # an index that is built in place
    touch(catalogue, range(1000, 2200, 24))
    _ = sum(catalogue[page * PAGE_BYTES] for page in range(2600, 4400))
    ends = [start_worker(number, catalogue, stock) for number in range(WORKERS)]
    touch(stock, range(3000, 3200))  # what the server writes while they run
    print("ready", flush=True)
    sys.stdin.read()
    for end in ends:
        os.close(end)


def map_file(path: Path, pages: int) -> mmap.mmap:
    """Return a private mapping of a fresh file."""
    path.write_bytes(os.urandom(pages * PAGE_BYTES))
    with path.open("r+b") as file:
        return mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE)


def touch(memory: mmap.mmap, pages: range) -> None:
    """Write to pages."""
    for page in pages:
        memory[page * PAGE_BYTES] = 1


def start_worker(number: int, catalogue: mmap.mmap, stock: mmap.mmap) -> int:
    """Fork a worker that writes, the more the higher its number; return what ends it if closed."""
    ready, is_ready = os.pipe()
    stopped, end = os.pipe()
    if os.fork() == 0:
        os.close(end)
        touch(stock, range(number * 700, number * 700 + 250 * (number + 1)))
        touch(catalogue, range(4800, 4800 + 90 * number))
        if number == WORKERS - 1:
            touch(stock, range(3000, 3100))
        os.write(is_ready, b".")
        os.read(stopped, 1)
        os._exit(0)
    os.read(ready, 1)
    for descriptor in (ready, is_ready, stopped):
        os.close(descriptor)
    return end


if __name__ == "__main__":
    main()
