# SPDX-License-Identifier: Apache-2.0
"""Processes whose pages, or whose nature, are known by construction.

Standard library only; runs as an unprivileged user, or inside the program that wants the pages for
itself (`create`). As a program, prints one line of JSON and lives until its standard input ends:

    {"pid": N, "pages": [PAGE, ...]}      and for some kinds more
    {"unavailable": TEXT}                 this machine cannot have such pages, and why

and answers lines of JSON:

    {"execute": true}           with nothing: it executes cat, which repeats what follows
    {"undumpable": true}        with {}: others may not inspect it any more
    {"scan": [ADDRESS, COUNT]}  with {"scan": [CATEGORIES, ...]}, one a page; see page_scan.py

A PAGE is {"address", "state", "copied", "mapping"} and, where known, "flags_set", "flags_clear"
(names as in the kernel's page-types), "attributes_set", "attributes_clear", and "pid" if not the
first. `state` is a name of PageState without its prefix, or several with "|" where the kernel is
free to choose; `mapping` is a name of MappingKind. `copied` is null where it has no meaning:
outside private mappings of files. "marker" is true where something stands in the page table that
is neither a page nor a swapped one.

Usage: subjects.py KIND [ARGUMENT...]
"""

import ctypes
import json
import mmap
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence

from kinds import (
    anonymous,
    families,
    files,
    forked,
    huge,
    hugetlb,
    reserved,
    restless,
    special,
    swapped,
    userfault,
)
from kinds.anonymous import make_anonymous
from kinds.memory import (
    ABSENT,
    PAGE_BYTES,
    PRIVATE_ANONYMOUS,
    PROT_NONE,
    PROTECTION,
    Described,
    UnavailableError,
    advise,
    describe,
    fork_waiting,
    libc,
    map_pages,
    protect,
    read_page,
    unmap_pages,
    write_page,
)
from page_scan import scan_pages

LARGE_PAGES = 65_536
"""limits.PAGES_PER_CALL."""
RESERVED_PAGES = (1 << 46) // PAGE_BYTES
WRITTEN_PAGES = 8
"""Of those that are reserved."""
PR_SET_DUMPABLE = 4
MAP_NORESERVE = 0x4000  # asm-generic/mman-common.h
MAP_FIXED = 0x10


def make_large() -> Described:
    """Fill as many pages as one call may ask for; only the first is described."""
    address = map_pages(LARGE_PAGES)
    ctypes.memset(address, 1, LARGE_PAGES * PAGE_BYTES)
    return {"pages": describe(address, {"state": "ANON"}), "count": LARGE_PAGES}


def make_large_forked() -> Described:
    """Fill as many pages, and share them with a child that touches none of them."""
    large = make_large()
    return {**large, "child": fork_waiting(lambda: None)}


def make_reservation() -> Described:
    """Reserve most of the address space, and write a page here and there."""
    flags = PRIVATE_ANONYMOUS | MAP_NORESERVE
    try:
        address = map_pages(RESERVED_PAGES, flags, protection=PROT_NONE)
    except OSError as error:
        raise UnavailableError(f"no room for {RESERVED_PAGES} pages: {error}") from error
    pages = []
    for page in range(0, RESERVED_PAGES, RESERVED_PAGES // WRITTEN_PAGES):
        protect(address + page * PAGE_BYTES, 1, PROTECTION)
        write_page(address, page)
        pages += describe(address + page * PAGE_BYTES, {"state": "ANON"})
    return {"pages": pages, "count": RESERVED_PAGES}


def make_many_mappings(count: str) -> Described:
    """Split memory into `count` mappings, by forbidding access to every other page."""
    pages = int(count)
    address = map_pages(pages)
    for page in range(0, pages, 2):
        protect(address + page * PAGE_BYTES, 1, PROT_NONE)
    return {"pages": describe(address, ABSENT)}


def make_restless_mappings(count: str) -> Described:
    """Have `count` mappings, and a thread that never stops splitting and joining half of them."""
    made = make_many_mappings(count)
    address, pages = made["pages"][0]["address"], int(count)

    def churn() -> None:
        while True:
            for protection in (PROT_NONE, mmap.PROT_READ):
                libc.mprotect(address, pages // 2 * PAGE_BYTES, protection)
                for page in range(0, pages // 2, 2):
                    libc.mprotect(address + page * PAGE_BYTES, PAGE_BYTES, mmap.PROT_WRITE)

    threading.Thread(target=churn, daemon=True).start()
    return made


def make_restless_pages(count: str) -> Described:
    """Have a thread that never stops writing pages and giving them up, one after the other."""
    pages = int(count)
    address = map_pages(pages)

    def churn() -> None:
        while True:
            for page in range(pages):
                write_page(address, page)
            for page in range(pages):
                advise(address + page * PAGE_BYTES, 1, mmap.MADV_DONTNEED)

    threading.Thread(target=churn, daemon=True).start()
    return {"pages": describe(address, *[{"state": "ANON|ABSENT"}] * pages)}


def make_odd_path(directory: str) -> Described:
    """Map a file whose name has a newline, a space, a backslash and a byte that is no UTF-8."""
    path = os.fsencode(directory) + b"/odd \n\\\xff-%d" % os.getpid()
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    os.ftruncate(descriptor, PAGE_BYTES)
    address = map_pages(1, mmap.MAP_PRIVATE, descriptor)
    os.unlink(path)
    return {"pages": describe(address, {"state": "ABSENT"}, copied=False)}


def make_neighbours(directory: str) -> Described:
    """Map side by side: a file privately, memory, nothing, and the file again."""
    descriptor = files.open_scratch(directory, 6)
    address = map_pages(12)
    map_pages(4, mmap.MAP_PRIVATE | MAP_FIXED, descriptor, at=address)
    map_pages(2, mmap.MAP_PRIVATE | MAP_FIXED, descriptor, at=address + 10 * PAGE_BYTES)
    unmap_pages(address + 8 * PAGE_BYTES, 2)
    for page in (0, 1, 4, 5, 10):
        write_page(address, page)
    for page in (2, 3, 11):
        read_page(address, page)
    copy, read = {"state": "ANON", "copied": True}, {"state": "FILE", "copied": False}
    pages = [
        copy,
        copy,
        read,
        read,
        {"state": "ANON"},
        {"state": "ANON"},
        *[ABSENT] * 4,
        copy,
        read,
    ]
    return {"pages": describe(address, *pages)}


def make_undumpable() -> Described:
    """Be a process that forbids others to inspect it."""
    if libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
    return make_anonymous()


def make_threaded() -> Described:
    """Have a second thread, and tell its number."""
    started = threading.Event()
    thread = threading.Thread(target=lambda: (started.set(), signal.pause()), daemon=True)
    thread.start()
    started.wait()
    return {**make_anonymous(), "thread": thread.native_id}


def make_zombie() -> Described:
    """Have a child that has ended and was not waited for, and tell its number."""
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    return {**make_anonymous(), "zombie": child}


def make_hanging_exec(path: str) -> Described:
    """Open `path` close-on-exec, say so, and execute another program, now or never."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    print(json.dumps({"pid": os.getpid(), "pages": [], "descriptor": descriptor}), flush=True)
    os.execv("/bin/cat", ["cat"])


_PLACES = (
    *(anonymous, families, files, forked, huge, hugetlb),
    *(reserved, restless, special, swapped, userfault),
)
KINDS: dict[str, Callable[..., Described]] = {
    name.removeprefix("make_").replace("_", "-"): make
    for names in (*map(vars, _PLACES), globals())
    for name, make in names.items()
    if name.startswith("make_")
}


def create(kind: str, arguments: Sequence[str]) -> Described:
    """Make the pages of `kind` in this process and return their description."""
    try:
        return {"pid": os.getpid(), **KINDS[kind](*arguments)}
    except UnavailableError as reason:
        return {"unavailable": str(reason)}


def main() -> None:
    """Print the description, and stay until standard input ends, answering lines."""
    print(json.dumps(create(sys.argv[1], sys.argv[2:])), flush=True)
    # Not a byte more than the line: what follows "execute" is for the next program.
    for line in open(0, "rb", buffering=0):  # noqa: SIM115
        match json.loads(line):
            case {"execute": True}:
                os.execv("/bin/cat", ["cat"])
            case {"undumpable": True}:
                make_undumpable()
                print(json.dumps({}), flush=True)
            case {"scan": [int(address), int(count)]}:
                print(json.dumps(scan_pages(address, count)), flush=True)


if __name__ == "__main__":
    main()
