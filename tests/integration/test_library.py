# SPDX-License-Identifier: Apache-2.0
"""The library in a process of an ordinary user, with a daemon and without one."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cowd
import pytest
from harness.daemon import Daemon
from harness.programs import NOBODY, environment

MAP = """
import json, mmap, os, sys
import numpy as np
import cowd

PAGE = mmap.PAGESIZE
with open(sys.argv[1], "wb") as file:
    file.write(b"w" * 4 * PAGE)
words = np.memmap(sys.argv[1], dtype="u1", mode="c")
words[0] = words[2 * PAGE] = 1


def describe(pages):
    return {
        "backend": pages.backend,
        "copied": pages.copied.tolist(),
        "kpageflags": None if pages.kpageflags is None else pages.kpageflags.tolist(),
        "fallback": str(pages.fallback_error),
    }

"""
DESCRIBE = "print(json.dumps(describe(cowd.pages(words))))"
KTHREADD = 2
COPIED = [True, False, True, False]
SWAPBACKED = 1 << 14


def run(
    code: str,
    directory: Path,
    socket_path: Path,
    arguments: Sequence[str] = (),
    prefix: Sequence[str] = (),
) -> Any:
    """Run `code` after MAP as user nobody; return what it prints as JSON.

    Args:
        code: may use the names of MAP.
        directory: that nobody may write to.
        socket_path: of a daemon, or of none.
        arguments: after the file's.
        prefix: a command that runs, as root, the command that changes the user.
    """
    program = [sys.executable, "-W", "error", "-c", MAP + code, str(directory / "words")]
    done = subprocess.run(
        [*prefix, *NOBODY.command([*program, *arguments])],
        env=environment() | {"COWD_SOCKET": str(socket_path)},
        cwd="/",
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
        check=True,
    )
    return json.loads(done.stdout)


def test_with_the_daemon_the_flags_come_too(daemon: Daemon, public_directory: Path) -> None:
    told = run(DESCRIBE, public_directory, daemon.socket_path)
    assert (told["backend"], told["copied"], told["fallback"]) == ("daemon", COPIED, "None")
    assert [bool(word & SWAPBACKED) for word in told["kpageflags"]] == COPIED


def test_without_the_daemon_all_but_the_flags(public_directory: Path) -> None:
    told = run(DESCRIBE, public_directory, public_directory / "cowd.sock")
    assert (told["backend"], told["copied"], told["kpageflags"]) == ("local", COPIED, None)
    assert told["fallback"].endswith("No such file or directory")


def test_a_daemon_that_refuses_is_done_without(daemon: Daemon, public_directory: Path) -> None:
    """Refused for its pid namespace, a process still may ask the kernel about itself."""
    told = run(
        DESCRIBE,
        public_directory,
        daemon.socket_path,
        prefix=["unshare", "--pid", "--fork", "--mount-proc"],
    )
    assert (told["backend"], told["copied"]) == ("local", COPIED)
    assert "another pid namespace" in told["fallback"]


def test_the_kernel_refuses_what_it_refuses(public_directory: Path) -> None:
    """Without the daemon, too: the first process is root's."""
    code = """
outcomes = []
for ask in (cowd.Local().list_mappings, lambda pid: cowd.Local().get_page_flags(pid, 0, 1)):
    try:
        ask(1)
    except cowd.AccessDenied as error:
        outcomes.append([error.reason, error.pid, str(error)[:44]])
print(json.dumps(outcomes))
"""
    sentence = "the kernel does not let you inspect process "
    told = run(code, public_directory, public_directory / "cowd.sock")
    assert told == [["ACCESS_DENIED", 1, sentence]] * 2


def test_a_process_is_itself_under_a_proc_of_another_namespace(public_directory: Path) -> None:
    """There its own number is somebody else's."""
    told = run(
        DESCRIBE,
        public_directory,
        public_directory / "cowd.sock",
        prefix=["unshare", "--pid", "--fork"],
    )
    assert (told["backend"], told["copied"]) == ("local", COPIED)


def test_a_kernel_thread_has_no_address_space() -> None:
    with pytest.raises(cowd.FailedPrecondition) as caught:
        cowd.Local().list_mappings(KTHREADD)
    assert caught.value.reason == "NO_ADDRESS_SPACE"


def test_the_bare_question_starts_nothing(daemon: Daemon, public_directory: Path) -> None:
    """No grpc, so that a process may fork afterwards as if nothing had been asked."""
    code = """
tracker = cowd.Tracker(words)
print(json.dumps([cowd.copied(words).tolist(), tracker.look().copied.tolist(), sorted(
    {"grpc", "rich", "click"} & set(sys.modules))]))
"""
    assert run(code, public_directory, daemon.socket_path) == [COPIED, [0, 2], []]


def test_children_of_a_fork_ask_for_themselves(daemon: Daemon, public_directory: Path) -> None:
    """With the parent's grpc in use, a child is answered without the daemon."""
    code = """
before = describe(cowd.pages(words))
reading, writing = os.pipe()
if os.fork() == 0:
    words[PAGE] = 1
    os.write(writing, json.dumps(describe(cowd.pages(words))).encode())
    os._exit(0)
os.close(writing)
child = json.loads(os.read(reading, 65_536))
print(json.dumps([before, child, describe(cowd.pages(words))]))
"""
    before, child, after = run(code, public_directory, daemon.socket_path)
    assert (before["backend"], before["copied"]) == ("daemon", COPIED)
    assert (child["backend"], child["copied"]) == ("local", [True, True, True, False])
    assert "forked" in child["fallback"]
    assert (after["backend"], after["copied"]) == ("daemon", COPIED)


@pytest.mark.parametrize(
    ("kind", "due", "alone"),
    [
        ("uffd-file", [True, False, False, False], "the local backend cannot tell what page 2 is"),
        ("uffd-poisoned", [True, False, False], [True, True, False]),
    ],
)
def test_what_only_the_daemon_can_tell_is_asked_of_it(
    daemon: Daemon, public_directory: Path, kind: str, due: list[bool], alone: object
) -> None:
    """A marker of userfaultfd looks like a page that is swapped out to the kernel alone."""
    code = """
sys.path += [sys.argv[2]]
import ctypes
import subjects

made = subjects.create(sys.argv[3], [])
pages = [page for page in made["pages"] if page["mapping"] == "PRIVATE_FILE"]
memory = (ctypes.c_char * (len(pages) * PAGE)).from_address(pages[0]["address"])
outcome = [[page["copied"] for page in pages], cowd.copied(memory).tolist()]
try:
    outcome.append(cowd.copied(memory, backend="local").tolist())
except cowd.FailedPrecondition as error:
    outcome.append(str(error))
print(json.dumps(outcome))
"""
    kernel = str(Path(__file__).parent.parent / "kernel")
    told = run(code, public_directory, daemon.socket_path, [kernel, kind])
    assert told == [due, due, alone]
