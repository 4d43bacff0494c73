# SPDX-License-Identifier: Apache-2.0
"""Attack 6: execute a privileged program between the opens that decide about access.

The target is the caller's at the first open, root's at the one that shows frame numbers, and the
caller's again soon after. A daemon whose every open is slow asks about it over and over. Whatever
it hands over must never be the privileged image: by the last open that one is refused, or dead.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import pytest
from cowproto.v1 import pageflags_pb2
from harness.daemon import Daemon, StartDaemon
from harness.outcomes import DENIED, ENDED
from harness.programs import NOBODY, PAGE_BYTES, Caller, CallError, Program, StartCaller
from security.capable_programs import grant_net_raw

SOURCE = Path(__file__).with_name("exec_loop.c")
PRIVILEGED_PAGE = 0x10000000000
PLAIN_PAGE = PRIVILEGED_PAGE + PAGE_BYTES
ROUNDS = 1000
"""Requests in whose midst the privileged program was seen to be executed."""
EXPOSED_ROUNDS = 100
"""Of these, at least: the open that shows frames got hold of the privileged image."""
SECONDS = 120.0
CALLS = 100
SLOW_OPENS = f"""
import sys
sys.path.append({str(Path(__file__).parent)!r})
import slow_opens
"""


class Opening(NamedTuple):
    """One open of a request: which image was there before and after, and what came of it."""

    name: str
    before: str
    after: str
    outcome: str


def iter_requests(log: str) -> Iterator[list[Opening]]:
    """Yield the opens of each request; see slow_opens.py."""
    lines = [line.split() for line in log.splitlines() if line.startswith("window")]
    for is_opening, group in groupby(lines, lambda words: len(words) > 1):
        if is_opening:
            yield [Opening(*words[1:]) for words in group]


def count_rounds(daemon: Daemon) -> tuple[int, int]:
    """Return in how many requests the image changed, and was got hold of while privileged."""
    rounds = exposed = 0
    for first, *later in iter_requests(daemon.log()):
        images = {image for opening in later for image in (opening.before, opening.after)}
        rounds += (first.before, first.after) == ("plain", "plain") and "privileged" in images
        exposed += any(opening.outcome == "exposed" for opening in later)
        of_caller = [opening for number, opening in enumerate((first, *later)) if number != 1]
        assert not any(opening.outcome == "exposed" for opening in of_caller)
    return rounds, exposed


StartLoop = Callable[[str], Program]


@pytest.fixture
def start_loop(public_directory: Path) -> Iterator[StartLoop]:
    """Return a function that starts a process which executes a privileged program, and so on."""
    if not shutil.which("gcc"):
        pytest.skip("no gcc: it compiles the program")
    if os.statvfs(public_directory).f_flag & os.ST_NOSUID:
        pytest.skip(f"{public_directory} is mounted nosuid")
    plain, privileged = public_directory / "plain", public_directory / "privileged"
    options = ["-std=gnu17", "-O2", "-static", "-Wall", "-Wextra", "-Werror"]
    subprocess.run(["gcc", *options, "-o", plain, SOURCE], check=True)
    shutil.copy(plain, privileged)
    with ExitStack() as stack:

        def start(privilege: str) -> Program:
            if privilege == "setuid":
                privileged.chmod(0o4755)
            else:
                grant_net_raw(privileged)
            program = Program(NOBODY.command([str(plain), str(plain), str(privileged)]))
            stack.callback(program.close)
            return program

        yield start


def ask_for_pages(caller: Caller, pid: int) -> bool:
    """Ask about both images' pages; return whether the plain one's was shown."""
    of_privileged, of_plain = caller.get_page_flags(pid, PRIVILEGED_PAGE, 2).state
    assert of_privileged == pageflags_pb2.PAGE_STATE_ABSENT, "the privileged image was shown"
    return of_plain == pageflags_pb2.PAGE_STATE_ANON


def ask_for_mappings(caller: Caller, pid: int) -> bool:
    """Ask where both images' pages are; return whether the plain one's was told."""
    addresses = {mapping.start_address for mapping in caller.list_mappings(pid)}
    assert PRIVILEGED_PAGE not in addresses, "the privileged image's mappings were shown"
    return PLAIN_PAGE in addresses


@pytest.mark.slow
@pytest.mark.parametrize("privilege", ["setuid", "capability"])
def test_target_that_executes_a_privileged_program_in_a_loop(
    start_daemon: StartDaemon, start_caller: StartCaller, start_loop: StartLoop, privilege: str
) -> None:
    """Seen to fail without the opens after the one that shows frames: pagemap again, and maps.

    Taking out the second A-open of pagemap alone does not suffice, since maps is opened as the
    caller, too, and after it.
    """
    loop = start_loop(privilege)
    daemon = start_daemon(change=SLOW_OPENS)
    caller = start_caller(NOBODY, daemon.socket_path)
    deadline = time.monotonic() + SECONDS
    rounds = exposed = answers = 0
    outcomes = set()
    while rounds < ROUNDS or exposed < EXPOSED_ROUNDS or not answers:
        assert time.monotonic() < deadline, f"{rounds} rounds, {exposed} exposed, {answers} answers"
        for number in range(CALLS):
            question = ask_for_pages if number % 2 else ask_for_mappings
            try:
                answers += question(caller, loop.pid)
            except CallError as error:
                outcomes.add(error.outcome)
        rounds, exposed = count_rounds(daemon)
    assert outcomes <= ENDED | {DENIED}
