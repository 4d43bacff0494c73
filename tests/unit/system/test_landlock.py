# SPDX-License-Identifier: Apache-2.0
"""Landlock keeps a process from files, and from others: tried in children that it restricts."""

import ctypes
import errno
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from cowdaemon.system import confinement as module
from cowdaemon.system.confinement import (
    FileRight,
    PrivilegeError,
    close_to_others,
    read_landlock_abi,
    restrict_files,
)
from unit.children import RunInChild

UID = 65534
NONE, EVERYTHING = FileRight(0), FileRight((1 << 16) - 1)
PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS = 4, 38
NUMBER_WITHOUT_MEANING = 30_000
ABI = read_landlock_abi()

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: to be another user")


def from_landlock(abi: int) -> pytest.MarkDecorator:
    return pytest.mark.skipif(abi > ABI, reason=f"the kernel has version {ABI} of Landlock")


def number_of(attempt: Callable[[], object]) -> int:
    """Return the number of the error that an attempt fails with, 0 if it does not fail."""
    try:
        attempt()
    except OSError as error:
        return error.errno or -1
    return 0


@from_landlock(1)
def test_no_file_is_left_but_what_is_excepted(run_in_child: RunInChild, tmp_path: Path) -> None:
    left, other = tmp_path / "left", tmp_path / "other"
    for file in (left, other):
        file.write_text("")
    exceptions = {left: FileRight.READ_FILE, tmp_path: FileRight.MAKE_SOCK}

    def restrict() -> dict[str, int]:
        close_to_others()
        kept = {os.open(path, os.O_PATH): rights for path, rights in exceptions.items()}
        opened = os.open(other, os.O_RDWR)
        restrict_files(ABI, kept, NONE)
        attempts: dict[str, Callable[[], object]] = {
            "read what is excepted": lambda: os.open(left, os.O_RDONLY),
            "make a socket": lambda: socket.socket(socket.AF_UNIX).bind(str(tmp_path / "s")),
            "use what is open": lambda: (os.read(opened, 1), os.write(opened, b"x")),
            "write what is excepted": lambda: os.open(left, os.O_WRONLY),
            "read": lambda: os.open(other, os.O_RDONLY),
            "read through the descriptor": lambda: os.open(f"/proc/self/fd/{opened}", os.O_RDONLY),
            "list": lambda: os.listdir(tmp_path),
            "make": lambda: os.open(tmp_path / "made", os.O_CREAT | os.O_WRONLY),
            "make a directory": lambda: os.mkdir(tmp_path / "directory"),
            "make a link": lambda: os.symlink("x", tmp_path / "link"),
            "make a pipe": lambda: os.mkfifo(tmp_path / "pipe"),
            "make a name": lambda: os.link(other, tmp_path / "name"),
            "remove": lambda: os.unlink(other),
            "rename": lambda: os.rename(other, tmp_path / "renamed"),
            "execute": lambda: os.execv("/bin/true", ["true"]),
        }
        if ABI >= 3:
            attempts["truncate"] = lambda: os.truncate(other, 0)
        return {what: number_of(attempt) for what, attempt in attempts.items()}

    outcomes = run_in_child(restrict)
    allowed = ("read what is excepted", "make a socket", "use what is open")
    assert [outcomes.pop(what) for what in allowed] == [0, 0, 0]
    assert outcomes == dict.fromkeys(outcomes, errno.EACCES)


@from_landlock(1)
def test_right_that_is_kept_is_kept_everywhere(run_in_child: RunInChild, tmp_path: Path) -> None:
    def restrict() -> list[int]:
        close_to_others()
        restrict_files(ABI, {}, FileRight.MAKE_SOCK | FileRight.REMOVE_FILE)
        path = str(tmp_path / "s")
        return [
            number_of(lambda: socket.socket(socket.AF_UNIX).bind(path)),
            number_of(lambda: os.unlink(path)),
            number_of(lambda: os.mkdir(path)),
        ]

    assert run_in_child(restrict) == [0, 0, errno.EACCES]


def reach_others(restrict: Callable[[], None]) -> dict[str, int]:
    """Try what others would notice, after `restrict`; return what came of each."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind("")
    listening.listen()
    restrict()
    child = os.fork()
    if child == 0:
        signal.pause()
    attempts = {
        "connect to an abstract socket": lambda: socket.socket(socket.AF_UNIX).connect(
            listening.getsockname()
        ),
        "signal the parent": lambda: os.kill(os.getppid(), 0),
        "bind TCP": lambda: socket.socket().bind(("127.0.0.1", 0)),
        "signal a child": lambda: os.kill(child, signal.SIGKILL),
    }
    outcomes = {what: number_of(attempt) for what, attempt in attempts.items()}
    os.waitpid(child, 0)
    return outcomes


@pytest.mark.parametrize(
    "abi", [pytest.param(abi, marks=from_landlock(abi)) for abi in range(7)] + [ABI]
)
def test_older_interfaces_take_what_they_know_of(run_in_child: RunInChild, abi: int) -> None:
    def restrict() -> None:
        close_to_others()
        restrict_files(abi, {}, NONE)

    outcomes = run_in_child(lambda: reach_others(restrict))
    scoped = errno.EPERM if abi >= 6 else 0
    assert outcomes == {
        "connect to an abstract socket": scoped,
        "signal the parent": scoped,
        "bind TCP": errno.EACCES if abi >= 4 else 0,
        "signal a child": 0,
    }


@needs_root
@from_landlock(1)
def test_pagemap_of_others_is_closed_to_whoever_is_restricted(run_in_child: RunInChild) -> None:
    """It is why openers are not: whatever the ruleset says, the kernel refuses ptrace access."""

    def open_pagemap(abi: int) -> list[int]:
        os.setresuid(UID, UID, UID)
        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)  # again, or nobody may look
        ctypes.CDLL(None).prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        reader, writer = os.pipe()
        target = os.fork()
        if target == 0:
            os.close(writer)
            os.read(reader, 1)  # it ends with us: we may not signal it
            os._exit(0)
        restrict_files(abi, {}, EVERYTHING & ~FileRight.MAKE_SOCK)
        return [
            number_of(lambda pid=pid: os.open(f"/proc/{pid}/pagemap", os.O_RDONLY))
            for pid in (target, os.getpid())
        ]

    assert run_in_child(lambda: open_pagemap(0)) == [0, 0]
    assert run_in_child(lambda: open_pagemap(ABI)) == [errno.EACCES, 0]


def test_kernel_without_landlock_has_version_0(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SYS_LANDLOCK_CREATE_RULESET", NUMBER_WITHOUT_MEANING)
    assert read_landlock_abi() == 0


def test_landlock_that_was_switched_off_at_boot_has_version_0(
    break_libc: Callable[..., None],
) -> None:
    break_libc("syscall", result=-1, error=errno.EOPNOTSUPP)
    assert read_landlock_abi() == 0


def test_kernel_that_will_not_say_whether_it_has_landlock_raises(
    break_libc: Callable[..., None],
) -> None:
    break_libc("syscall", result=-1, error=errno.EPERM)
    with pytest.raises(PrivilegeError, match="Landlock: Operation not permitted"):
        read_landlock_abi()


@from_landlock(1)
@pytest.mark.parametrize("calls_before", [0, 1, 2])
def test_restriction_that_fails_at_any_step_raises(
    run_in_child: RunInChild, break_libc: Callable[..., None], calls_before: int
) -> None:
    break_libc("syscall", result=-1, error=errno.ENOMEM, after_calls=calls_before)

    def restrict() -> None:
        descriptor = os.open("/", os.O_PATH)
        restrict_files(ABI, {descriptor: FileRight.READ_FILE}, NONE)

    with pytest.raises(PrivilegeError, match="landlock_"):
        run_in_child(restrict)
