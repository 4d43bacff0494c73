# SPDX-License-Identifier: Apache-2.0
"""How much the workers of a server that forks after loading copy of what it loaded.

Usage: preload_server.py [--freeze]

Loads records, forks workers, as gunicorn does with preload_app, has them serve requests, and asks
cowd after each kind of request what they have copied. With --freeze it does what the documentation
of gc advises: no collections while it loads, gc.freeze() before the fork, collections again in the
workers. Needs the daemon: whether two processes map the same page, only frames can tell.
"""

import gc
import os
import socket
import sys
from dataclasses import dataclass

import cowd

RECORDS = 200_000
WORKERS = 2
REQUESTS = {b"r": "reading a tenth", b"c": "gc.collect()", b"R": "reading all"}
MEBIBYTE = 1 << 20


@dataclass(slots=True)
class Record:
    """One of those that the server shares with its workers."""

    name: str
    price: float
    tags: list[str]


def load() -> list[Record]:
    """Make the records."""
    return [Record(f"item {n}", n * 1.25, [f"tag {n}"]) for n in range(RECORDS)]


def fork_worker(number: int, records: list[Record], freeze: bool) -> socket.socket:
    """Fork a worker that serves requests; return the socket where it takes them."""
    here, there = socket.socketpair()
    if os.fork() == 0:
        here.close()
        try:
            if freeze:
                gc.enable()
            serve(number, records, there)
        finally:
            os._exit(0)
    there.close()
    return here


def serve(number: int, records: list[Record], requests: socket.socket) -> None:
    """Answer requests until there are no more. None of them changes a record."""
    tenth = RECORDS // 10
    while kind := requests.recv(1):
        if kind == b"c":
            gc.collect()  # sooner or later the collector comes by itself
        else:
            first, count = (number * tenth, tenth) if kind == b"r" else (0, RECORDS)
            for place in range(first, first + count):
                len(records[place].name)
        requests.send(kind)


def sum_copies(shares: cowd.Shares) -> int:
    """Return how many pages a worker has copied.

    Of parts of huge pages it cannot be told by whom; the server hardly writes, so by the worker.
    """
    return shares.copied_by_child + shares.both + shares.different


def show(request: str, family: cowd.Family) -> None:
    """Print what each worker shares with the server, what either has copied, and what is new."""
    factor = family.page_size_bytes / MEBIBYTE
    for number, worker in enumerate(family.children, 1):
        total = worker.total
        copied = sum_copies(total)
        shared, copied, by_parent, own = (
            pages * factor for pages in (total.shared, copied, total.copied_by_parent, total.own)
        )
        print(f"{request:16}{number:6} {shared:6.1f} {copied:6.1f} {by_parent:9.1f} {own:6.1f}")


def show_groups(worker: cowd.Child, page_size_bytes: int) -> None:
    """Print where the copies of a worker are."""
    places = {
        group.value: sum_copies(shares) * page_size_bytes / MEBIBYTE
        for group, shares in worker.groups.items()
    }
    named = [f"{group} {size:.1f}" for group, size in places.items() if size >= 0.1]
    print("copied by worker 1:", ", ".join(named))


def main() -> None:
    """Load, fork, have requests served, and tell what that has copied."""
    freeze = sys.argv[1:] == ["--freeze"]
    if sys.argv[1:] and not freeze:
        sys.exit("usage: preload_server.py [--freeze]")
    if freeze:
        gc.disable()  # a collection frees objects, and leaves holes that workers would write to
    records = load()
    if freeze:
        gc.freeze()  # the workers' collector leaves alone whatever is there now
    workers = [fork_worker(number, records, freeze) for number in range(WORKERS)]

    # The server's own collector would write to its pages while it asks, which is another question.
    gc.disable()
    print("With gc.freeze() before the fork:" if freeze else "Without gc.freeze():")
    print("AFTER           WORKER SHARED COPIED BY-PARENT    OWN (MiB)")
    show("the fork", cowd.family(os.getpid()))
    for request, name in REQUESTS.items():
        for worker in workers:
            worker.send(request)
            worker.recv(1)
        family = cowd.family(os.getpid())
        show(name, family)
        if request == b"c":
            show_groups(family.children[0], family.page_size_bytes)
    for worker in workers:
        worker.close()
    for _ in workers:
        os.wait()


if __name__ == "__main__":
    main()
