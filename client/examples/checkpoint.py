# SPDX-License-Identifier: Apache-2.0
"""Keeps what a program changed in a privately mapped file, without writing to the file.

Usage: checkpoint.py FILE CHECKPOINT

Maps FILE with MAP_PRIVATE, changes some of it, and saves to CHECKPOINT the pages that were copied
since the last look: all that it takes to have the memory again, as long as no page is changed after
it was saved. Then maps FILE anew, as the program would when it is next started, and puts the saved
pages back. Needs no daemon.
"""

import mmap
import struct
import sys

import cowd
import numpy as np

PLACE = struct.Struct("=QQ")
"""Goes before each piece of a checkpoint: where it belongs, and its length, in bytes."""


def save(tracker: cowd.Tracker, data: memoryview, path: str) -> int:
    """Add the pages copied since the last look to the checkpoint `path`; return their number."""
    pages = tracker.look().copied
    with open(path, "ab") as checkpoint:
        for page in pages:
            piece = tracker.span.slice_of(page)
            checkpoint.write(PLACE.pack(piece.start, piece.stop - piece.start))
            checkpoint.write(data[piece])
    return len(pages)


def restore(data: memoryview, path: str) -> int:
    """Put the pages of the checkpoint `path` back; return their number."""
    count = 0
    with open(path, "rb") as checkpoint:
        while place := checkpoint.read(PLACE.size):
            start, length = PLACE.unpack(place)
            data[start : start + length] = checkpoint.read(length)
            count += 1
    return count


def main() -> None:
    """Change the memory in two steps, and save after each; then restore it."""
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

    anew = np.memmap(path, dtype="u1", mode="c")
    print("restored:", restore(memoryview(anew), checkpoint), "pages,", end=" ")
    print("as they were" if np.array_equal(anew, words) else "but not as they were")


if __name__ == "__main__":
    main()
