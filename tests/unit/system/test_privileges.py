# SPDX-License-Identifier: Apache-2.0
"""What a process of the broker's makes of itself, as the kernel shows it in /proc/self/status.

Everything happens in forked children: the test process keeps its ids and capabilities.
"""

import ctypes
import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from cowdaemon.system import privileges as module
from cowdaemon.system.confinement import PrivilegeError
from cowdaemon.system.privileges import (
    Capability,
    assume_file_system_ids,
    raised,
    read_permitted_capabilities,
    restrict_capabilities,
)
from harness.processes import read_status
from unit.children import RunInChild

UID, GID = 65534, 65533
GROUPS_OF_ONE_PAGE = tuple(range(70_000, 70_300))
NONE = Capability(0)

pytestmark = pytest.mark.usefixtures("nothing_is_left")
needs_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="needs root: it gives up what only root has"
)


def read_capabilities(kind: str) -> Capability:
    """Return one set of the calling process, "Eff" or "Prm", whether its bits have names or not."""
    return Capability(int(read_status(os.getpid())[f"Cap{kind}"], 16))


def read_sets() -> tuple[int, int]:
    return int(read_capabilities("Eff")), int(read_capabilities("Prm"))


def is_refused(attempt: Callable[[], object]) -> bool:
    try:
        attempt()
    except (PrivilegeError, PermissionError):
        return True
    return False


@needs_root
@pytest.mark.parametrize("groups", [(), (3, 1, 2), (0,), GROUPS_OF_ONE_PAGE[::-1]])
def test_file_system_ids_are_the_callers_and_the_others_are_kept(
    run_in_child: RunInChild, groups: tuple[int, ...]
) -> None:
    def assume() -> tuple[str, str, list[int]]:
        assume_file_system_ids(UID, GID, groups)
        status = read_status(os.getpid())
        return status["Uid"], status["Gid"], [int(group) for group in status["Groups"].split()]

    uids, gids, found = run_in_child(assume)
    assert uids.split() == ["0", "0", "0", str(UID)]
    assert gids.split() == ["0", "0", "0", str(GID)]
    assert sorted(found) == sorted(groups)


@needs_root
def test_assumed_ids_are_what_files_see(run_in_child: RunInChild, public_path: Path) -> None:
    secret = public_path / "secret"
    secret.touch(mode=0o600)

    def read() -> bytes:
        assume_file_system_ids(UID, GID, ())
        restrict_capabilities(NONE, NONE)
        return secret.read_bytes()

    with pytest.raises(PermissionError):
        run_in_child(read)
    os.chown(secret, UID, GID)
    assert run_in_child(read) == b""


@needs_root
@pytest.mark.parametrize("call", ["setfsuid", "setfsgid"])
def test_ids_that_were_not_assumed_raise(
    run_in_child: RunInChild, break_libc: Callable[..., None], call: str
) -> None:
    """These two return the id of before, whether they succeed or not (setfsuid(2))."""
    break_libc(call, result=0)
    with pytest.raises(PrivilegeError):
        run_in_child(lambda: assume_file_system_ids(UID, GID, ()))


@needs_root
@pytest.mark.parametrize("error", [None, PermissionError(errno.EPERM, "setgroups")])
def test_groups_that_were_not_assumed_raise(
    run_in_child: RunInChild, monkeypatch: pytest.MonkeyPatch, error: OSError | None
) -> None:
    def setgroups(_: object) -> None:
        if error:
            raise error

    monkeypatch.setattr(module.os, "setgroups", setgroups)
    with pytest.raises(PrivilegeError):
        run_in_child(lambda: assume_file_system_ids(UID, GID, (UID, UID - 1)))


@needs_root
def test_capabilities_that_were_given_up_are_gone_for_good(run_in_child: RunInChild) -> None:
    def give_up() -> tuple[tuple[int, int], list[str]]:
        restrict_capabilities(Capability.SYS_ADMIN, NONE)
        attempts = {
            "capset": lambda: module._capset(int(Capability.SETUID), int(Capability.SETUID)),
            "effective": lambda: module._capset(
                int(Capability.SYS_PTRACE), int(Capability.SYS_ADMIN)
            ),
            "setgroups": lambda: os.setgroups([0]),
            "setresuid": lambda: os.setresuid(UID, UID, UID),
            "setresgid": lambda: os.setresgid(GID, GID, GID),
        }
        done = [name for name, attempt in attempts.items() if not is_refused(attempt)]
        return read_sets(), done

    assert run_in_child(give_up) == ((0, Capability.SYS_ADMIN), [])


@needs_root
def test_callers_ids_are_not_changed_for_another_users(run_in_child: RunInChild) -> None:
    """With SETUID gone from the permitted set the kernel lets it only be one of its own again."""

    def change() -> tuple[str, tuple[int, int]]:
        assume_file_system_ids(UID, GID, ())
        restrict_capabilities(Capability.SYS_ADMIN, NONE)
        libc = ctypes.CDLL(None)
        libc.setfsuid(1000)
        libc.setfsgid(1000)
        status = read_status(os.getpid())
        return f"{status['Uid']}\t{status['Gid']}", read_sets()

    ids, sets = run_in_child(change)
    assert ids.split() == ["0", "0", "0", str(UID), "0", "0", "0", str(GID)]
    assert sets == (0, Capability.SYS_ADMIN)


@needs_root
def test_capability_is_effective_inside_of_the_block_alone(run_in_child: RunInChild) -> None:
    def raise_once() -> list[tuple[int, int]]:
        restrict_capabilities(Capability.SYS_ADMIN | Capability.SYS_PTRACE, Capability.SYS_PTRACE)
        found = [read_sets()]
        try:
            with raised(Capability.SYS_ADMIN):
                found.append(read_sets())
                raise KeyError
        except KeyError:
            found.append(read_sets())
        return found

    both = Capability.SYS_ADMIN | Capability.SYS_PTRACE
    before = (Capability.SYS_PTRACE, both)
    assert run_in_child(raise_once) == [before, (both, both), before]


@needs_root
def test_capability_that_is_not_permitted_cannot_be_raised(run_in_child: RunInChild) -> None:
    def try_to_raise() -> None:
        restrict_capabilities(Capability.SYS_PTRACE, NONE)
        with raised(Capability.SYS_ADMIN):
            os._exit(0)

    with pytest.raises(PrivilegeError):
        run_in_child(try_to_raise)


@needs_root
def test_permitted_capabilities_are_those_of_the_process(run_in_child: RunInChild) -> None:
    kept = Capability.SYS_ADMIN | Capability.SETGID

    def restrict() -> Capability:
        restrict_capabilities(kept, NONE)
        return read_permitted_capabilities()

    assert run_in_child(restrict) == kept


def test_permitted_capabilities_are_only_those_with_a_name() -> None:
    """A container may lack some; asking capset for one more than there are would fail."""
    of_process = read_capabilities("Prm")
    every = Capability(sum(Capability))
    assert read_permitted_capabilities() == of_process & every


@needs_root
@pytest.mark.parametrize(("result", "error"), [(-1, errno.ENOMEM), (-1, errno.EPERM), (0, 0)])
def test_capset_that_fails_or_does_nothing_raises(
    run_in_child: RunInChild,
    break_libc: Callable[..., None],
    result: int,
    error: int,
) -> None:
    break_libc("capset", result, error)
    with pytest.raises(PrivilegeError):
        run_in_child(lambda: restrict_capabilities(Capability.SYS_ADMIN, NONE))
