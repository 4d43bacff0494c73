# SPDX-License-Identifier: Apache-2.0
"""Has an opener open at the worst moments, and tell its log which image each open got hold of.

Runs in the daemon under test, as root: imported by what a test has it do before it starts. Each
request begins while the target's name is IMAGES[0]. Its second open is tried, mostly, until one
falls into the middle of the target's exec; the others come after a pause, or at once.

A line of the log is "window" at a request's start, and "window NAME BEFORE AFTER OUTCOME" for each
of its opens, with the target's name before and after; the outcome is "refused", "opened", or
"exposed" if it shows the page that only the privileged image has.
"""

import os
import random
import time

from cowdaemon.system import procfs

IMAGES = (b"plain", b"privileged")
PRIVILEGED_PAGE = 0x10000000000
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
LONGEST_PAUSE_SECONDS = 0.002
LOOK_SECONDS = 0.001
"""From the end of exec until the image has its page."""
HELD_UP_SECONDS = 0.00015
"""An open that takes longer has waited for exec (exec_update_lock)."""

open_in = procfs.open_in
opens = 0
"""Of the request under way."""


def open_slowly(directory: int, name: str) -> int:
    """Open at a bad moment, in place of procfs.open_in()."""
    global opens  # noqa: PLW0603 - the opener is one process with one thread
    if name == "stat":
        opens = 0
        os.write(2, b"window\n")
        return open_in(directory, name)
    opens += 1
    while opens == 1 and read_name(directory) != IMAGES[0]:
        pass
    if opens > 2 and random.random() < 0.5:
        time.sleep(random.uniform(0, LONGEST_PAUSE_SECONDS))
    waits_for_exec = opens == 2 and random.random() < 0.8
    before, outcome = read_name(directory), b"refused"
    try:
        descriptor = (open_in_exec if waits_for_exec else open_in)(directory, name)
        outcome = b"opened"
        if name == "pagemap" and is_privileged(descriptor):
            outcome = b"exposed"
        return descriptor
    finally:
        words = (b"window", name.encode(), before, read_name(directory), outcome)
        os.write(2, b" ".join(words) + b"\n")


def open_in_exec(directory: int, name: str) -> int:
    """Open when the target executes another program: the one that had to wait, of many tries."""
    while True:
        started = time.monotonic()
        descriptor = open_in(directory, name)
        if time.monotonic() - started > HELD_UP_SECONDS:
            return descriptor
        os.close(descriptor)


def read_name(directory: int) -> bytes:
    """Return the name of the process, which is that of the program it executed."""
    stat = open_in(directory, "stat")
    try:
        return os.read(stat, 4096).split(b"(")[1].split(b")")[0]
    finally:
        os.close(stat)


def is_privileged(pagemap: int) -> bool:
    """Tell whether the descriptor shows the privileged image's page, now or very soon."""
    until = time.monotonic() + LOOK_SECONDS
    while time.monotonic() < until:
        entry = os.pread(pagemap, 8, PRIVILEGED_PAGE // PAGE_BYTES * 8)
        if not entry:
            return False
        if entry[7] & 0x80:  # present
            return True
    return False


procfs.open_in = open_slowly
