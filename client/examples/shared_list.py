# SPDX-License-Identifier: Apache-2.0
"""What the workers of a data loader copy of samples that they only read.

Usage: shared_list.py

The same numbers, once as a list of Python objects and once as an array of numpy, are loaded before
the workers are forked, as a DataLoader of PyTorch does it. Each worker runs the same loop, over the
one or the other. Whoever looks at a Python object counts itself as one of its users for as long,
and that count stands in the object: reading is writing. Needs the daemon.
"""

import multiprocessing
import os
import signal
from collections.abc import Sequence
from multiprocessing.connection import Connection

import cowd
import numpy as np

SAMPLES = 1_000_000
MEBIBYTE = 1 << 20


def work(samples: Sequence[int], connection: Connection) -> None:
    """Read all samples, say so, and stay until the parent ends."""
    total = 0
    for number in range(len(samples)):
        total += int(samples[number])
    connection.send(total)
    signal.pause()


def main() -> None:
    """Load, fork, wait until everything has been read, and tell what that has copied."""
    listed = list(range(SAMPLES, 2 * SAMPLES))
    array = np.arange(SAMPLES, 2 * SAMPLES)
    context = multiprocessing.get_context("fork")
    names = {}
    for name, samples in [("nothing", []), ("the list", listed), ("the array", array)]:
        here, there = context.Pipe()
        process = context.Process(target=work, args=(samples, there), daemon=True)
        process.start()
        here.recv()
        names[process.pid] = name

    family = cowd.family(os.getpid())
    print("WORKER READS SHARED COPIED    OWN (MiB)")
    for worker in family.children:
        total = worker.total
        # What can be told of parts of huge pages is not by whom: the parent does not write.
        copied = total.copied_by_child + total.both + total.different
        sizes = [total.shared, copied, total.own]
        factor = family.page_size_bytes / MEBIBYTE
        print(f"{names[worker.pid]:12}", *(f"{size * factor:6.1f}" for size in sizes))


if __name__ == "__main__":
    main()
