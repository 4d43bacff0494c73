# SPDX-License-Identifier: Apache-2.0
"""Keeps what a program changed in a privately mapped file, without writing to the file.

Usage: checkpoint.py FILE CHECKPOINT

Maps FILE with MAP_PRIVATE, changes some of it, and saves to CHECKPOINT, a sparse file, the pages
that were copied since the last look: all that it takes to have the memory again, as long as no page
is changed after it was saved. Needs no daemon.
"""

import mmap
import sys

import cowd
import numpy as np


def save(tracker: cowd.Tracker, data: memoryview, path: str) -> int:
    """Write the pages copied since the last look to `path`; return their number."""
    pages = tracker.look().copied
    with open(path, "r+b") as checkpoint:
        for page in pages:
            piece = tracker.span.slice_of(page)
            checkpoint.seek(piece.start)
            checkpoint.write(data[piece])
    return len(pages)


def main() -> None:
    """Change the memory in two steps, and save after each."""
    if len(sys.argv) != 3:
        sys.exit("usage: checkpoint.py FILE CHECKPOINT")
    path, checkpoint = sys.argv[1:]
    words = np.memmap(path, dtype="u1", mode="c")
    open(checkpoint, "wb").close()
    tracker = cowd.Tracker(words)

    words[0] = 1
    print("first look:", save(tracker, memoryview(words), checkpoint), "page copied")
    # From a page on that is no copy yet: what is stored to one again is not told of again.
    half = max(1, tracker.span.page_count // 2) * mmap.PAGESIZE
    words[half:] += 1
    print("second look:", save(tracker, memoryview(words), checkpoint), "pages copied")
    summary = cowd.pages(words, backend="local").summary()
    print("in all:", summary.copied_page_count, "of", summary.page_count, "pages copied")


if __name__ == "__main__":
    main()
