# SPDX-License-Identifier: Apache-2.0
"""A process that has pages of some kind and waits: what the benchmark asks about.

Runs as an ordinary user, started by `stage.py`. Prints {"pid": N, "ranges": {NAME: [ADDRESS,
COUNT]}, "forks": {NAME: PID}} when its pages are there, and ends with its standard input. A range
with the name of a fork is that fork's.
"""

import ctypes
import json
import mmap
import os
import random
import signal
import sys
from collections.abc import Callable
from contextlib import suppress

import numpy as np

PAGE_BYTES = mmap.PAGESIZE
READ_BYTES = 1 << 20
BLOCK_PAGES = 4096
"""Of what is copied, and of what is not, where frames shall lie in runs."""
RESERVED_BYTES = 1 << 40
CLUSTERS = 100
CLUSTER_PAGES = 256
LARGE_PAGES = 16_000_000
FORKED_PAGES = 1_000_000
LARGE_PIECES = 4_000
SPARSE_SHARE = 2
"""Of so many pages one is there."""
CROWD = 300
CROWD_PAGES = 3_500
"""Of each process, besides what the interpreter and its libraries have: 4 GiB in all."""
FAMILY = 4
FAMILY_PAGES = 1 << 19
"""Of the parent and of each child: 10 GiB present in all."""
FEW_PAGES = 4
SEED = 20261123

Ranges = dict[str, tuple[int, int]]
Forks = dict[str, int]
"""Pids by the names of the ranges that are theirs."""

_KEPT: list[object] = []
"""The mappings: they stay as long as the process."""
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_FIXED, _NORESERVE = 0x10, 0x4000  # linux/mman.h; no names in Python before 3.13


def map_copied(path: str) -> tuple[mmap.mmap, np.ndarray]:
    """Map a file privately; return the mapping and its bytes."""
    with open(path, "rb") as file:
        access = mmap.PROT_READ | mmap.PROT_WRITE
        mapping = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=access)
    _KEPT.append(mapping)
    return mapping, np.frombuffer(mapping, np.uint8)


def reserve(size_bytes: int) -> tuple[int, np.ndarray]:
    """Reserve anonymous memory without huge pages; return its address and its bytes."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NORESERVE
    mapping = mmap.mmap(-1, size_bytes, flags=flags)
    mapping.madvise(mmap.MADV_NOHUGEPAGE)
    _KEPT.append(mapping)
    words = np.frombuffer(mapping, np.uint8)
    return words.ctypes.data, words


def make_scattered(path: str) -> Ranges:
    """Read every page of a file and then copy every other one, each in random order.

    A page of the cache gets its frame when it is first looked at, a copy when it is made: so
    neighbours in the file have frames that are far apart. The file is a hole, and nothing is
    written to it: no disk is measured, and none is busy meanwhile.
    """
    mapping, words = map_copied(path)
    mapping.madvise(mmap.MADV_RANDOM)  # no neighbours are read ahead
    order = np.random.default_rng(SEED).permutation(len(words) // PAGE_BYTES)
    words[order * PAGE_BYTES].sum()
    words[order[order % 2 == 0] * PAGE_BYTES] = 1
    return {"all": (words.ctypes.data, len(order))}


def make_runs(path: str) -> Ranges:
    """Read a file in order by large reads, and copy every other block of it in order."""
    with open(path, "rb", buffering=0) as file:
        while file.read(READ_BYTES):
            pass
    _, words = map_copied(path)
    first_bytes = words[::PAGE_BYTES]
    first_bytes.sum()
    pages = np.arange(len(first_bytes))
    first_bytes[pages // BLOCK_PAGES % 2 == 0] = 1
    return {"all": (words.ctypes.data, len(pages))}


def make_reserved() -> Ranges:
    """Have the same number of pages in clusters, side by side, and one by one far apart."""
    pages, total = CLUSTERS * CLUSTER_PAGES, RESERVED_BYTES // PAGE_BYTES
    clusters_at, clusters = reserve(RESERVED_BYTES)
    starts = np.linspace(0, total - CLUSTER_PAGES, CLUSTERS).astype(np.int64)
    clusters[(starts[:, None] + np.arange(CLUSTER_PAGES)) * PAGE_BYTES] = 1
    together_at, together = reserve(pages * PAGE_BYTES)
    together[::PAGE_BYTES] = 1
    singles_at, singles = reserve(RESERVED_BYTES)
    singles[np.array(random.Random(SEED).sample(range(total), pages)) * PAGE_BYTES] = 1
    return {
        "clusters": (clusters_at, total),
        "together": (together_at, pages),
        "singles": (singles_at, total),
    }


def make_large(path: str) -> Ranges:
    """Reserve many pages and map a file into a part of each stretch of them, again and again.

    Every page in sight of one response has a frame of its own, as in memory that large.
    """
    address, _ = reserve(LARGE_PAGES * PAGE_BYTES)
    stretch_bytes = LARGE_PAGES // LARGE_PIECES * PAGE_BYTES
    piece_bytes = stretch_bytes // 4
    flags = mmap.MAP_PRIVATE | mmap.MAP_POPULATE | _FIXED
    with open(path, "rb") as file:
        file_bytes = os.fstat(file.fileno()).st_size
        for number in range(LARGE_PIECES):
            place = address + number * stretch_bytes
            offset = number * piece_bytes % file_bytes  # which is a multiple
            at = _libc.mmap(place, piece_bytes, mmap.PROT_READ, flags, file.fileno(), offset)
            if at != place:
                raise OSError(ctypes.get_errno(), "mmap")
    return {"all": (address, LARGE_PAGES)}


def make_forked() -> tuple[Ranges, Forks]:
    """Write a million pages in random order, and have two forks, one of which copies half of them.

    Every other page, in random order as well: the frames of neighbours are far apart.
    """
    address, words = reserve(FORKED_PAGES * PAGE_BYTES)
    order = np.random.default_rng(SEED).permutation(FORKED_PAGES)
    words[order * PAGE_BYTES] = 1
    forks = {"same": fork_waiting(lambda: None)}

    def copy_half() -> None:
        words[order[order % 2 == 0] * PAGE_BYTES] = 2

    forks["half"] = fork_waiting(copy_half)
    return dict.fromkeys(("all", *forks), (address, FORKED_PAGES)), forks


def fork_waiting(act: Callable[[], None]) -> int:
    """Return the pid of a child that has acted, and ends with this process."""
    hear_done, tell_done = os.pipe()
    hear_end, tell_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(tell_end)
        act()
        os.write(tell_done, b".")
        os.read(hear_end, 1)
        os._exit(0)
    os.close(hear_end)
    os.read(hear_done, 1)
    _KEPT.append(tell_end)
    return pid


def make_sparse(count: str) -> Ranges:
    """Have so many pages in random places, and as many holes between them."""
    pages = int(count)
    address, words = reserve(SPARSE_SHARE * pages * PAGE_BYTES)
    words[np.random.default_rng(SEED).permutation(SPARSE_SHARE * pages)[:pages] * PAGE_BYTES] = 1
    return {"all": (address, SPARSE_SHARE * pages)}


def make_crowd() -> Ranges:
    """Have children, as a server has that forks after it has loaded: half of their pages is shared.

    They end with this process.
    """
    _, shared = reserve(CROWD_PAGES // 2 * PAGE_BYTES)
    shared[::PAGE_BYTES] = 1
    for _ in range(CROWD):
        reader, writer = os.pipe()
        if os.fork() == 0:
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            _, own = reserve(CROWD_PAGES // 2 * PAGE_BYTES)
            own[np.random.permutation(CROWD_PAGES // 2) * PAGE_BYTES] = 1
            os.write(writer, b"x")
            signal.pause()
        os.close(writer)
        os.read(reader, 1)
        os.close(reader)
    return {"shared": (shared.ctypes.data, CROWD_PAGES // 2)}


def make_family() -> tuple[Ranges, Forks]:
    """Write pages in random order, and have forks that each copy another part of them."""
    address, words = reserve(FAMILY_PAGES * PAGE_BYTES)
    order = np.random.default_rng(SEED).permutation(FAMILY_PAGES)
    words[::PAGE_BYTES] = 1
    forks = {}
    for number, part in enumerate(np.array_split(order, FAMILY)):

        def copy(part: np.ndarray = part) -> None:
            words[part * PAGE_BYTES] = 2

        forks[f"fork-{number}"] = fork_waiting(copy)
    return dict.fromkeys(("all", *forks), (address, FAMILY_PAGES)), forks


def make_few() -> Ranges:
    """Have four pages."""
    address, words = reserve(FEW_PAGES * PAGE_BYTES)
    words[::PAGE_BYTES] = 1
    return {"all": (address, FEW_PAGES)}


KINDS = {
    "scattered": make_scattered,
    "runs": make_runs,
    "reserved": make_reserved,
    "large": make_large,
    "forked": make_forked,
    "sparse": make_sparse,
    "crowd": make_crowd,
    "family": make_family,
    "few": make_few,
}


def main() -> None:
    """Make the pages of the kind that the arguments say, and wait."""
    kind, *arguments = sys.argv[1:]
    made = KINDS[kind](*arguments)
    ranges, forks = made if isinstance(made, tuple) else (made, {})
    print(json.dumps({"pid": os.getpid(), "ranges": ranges, "forks": forks}), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):  # of who runs the benchmark
        main()
