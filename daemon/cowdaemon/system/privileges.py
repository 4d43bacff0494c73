# SPDX-License-Identifier: Apache-2.0
"""Capabilities and file-system ids of the calling process, set and verified.

Root, in main, the broker and the openers. Whatever cannot be set or does not verify raises
PrivilegeError, and the process must end: it fails closed. One thread a process is assumed: the
raw system calls change the calling thread alone.
"""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntFlag
from typing import Final

from cowdaemon.system.confinement import PrivilegeError
from cowdaemon.system.procfs import read_status

__all__ = [
    "Capability",
    "assume_file_system_ids",
    "raised",
    "read_permitted_capabilities",
    "restrict_capabilities",
]

_libc: Final = ctypes.CDLL(None, use_errno=True)

_CAPABILITY_VERSION_3: Final = 0x20080522  # linux/capability.h


class Capability(IntFlag):
    """The capabilities that cowd uses, as in the kernel's sets (linux/capability.h)."""

    DAC_READ_SEARCH = 1 << 2
    SETGID = 1 << 6
    SETUID = 1 << 7
    SYS_PTRACE = 1 << 19
    SYS_ADMIN = 1 << 21


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Data(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


def _check(result: int, what: str) -> None:
    if result != 0:
        error = ctypes.get_errno()
        raise PrivilegeError(f"{what}: {os.strerror(error)}")


def _capget() -> tuple[int, int]:
    header, data = _Header(_CAPABILITY_VERSION_3, 0), (_Data * 2)()
    _check(_libc.capget(ctypes.byref(header), data), "capget")
    return (
        data[0].effective | data[1].effective << 32,
        data[0].permitted | data[1].permitted << 32,
    )


def _capset(effective: int, permitted: int) -> None:
    header, data = _Header(_CAPABILITY_VERSION_3, 0), (_Data * 2)()
    for word, shift in ((0, 0), (1, 32)):
        data[word].effective = effective >> shift & 0xFFFFFFFF
        data[word].permitted = permitted >> shift & 0xFFFFFFFF
    _check(_libc.capset(ctypes.byref(header), data), "capset")
    if _capget() != (effective, permitted):
        raise PrivilegeError("capset left other capabilities than asked for")


def read_permitted_capabilities() -> Capability:
    """Return those of Capability that the process may use."""
    permitted = _capget()[1]
    return Capability(sum(capability for capability in Capability if capability & permitted))


def restrict_capabilities(permitted: Capability, effective: Capability) -> None:
    """Give up every capability but these, for good; raise if that is not what came of it."""
    _capset(int(effective), int(permitted))


@contextmanager
def raised(capabilities: Capability) -> Iterator[None]:
    """Make `capabilities` effective, on top of what is, within the block."""
    effective, permitted = _capget()
    _capset(effective | int(capabilities), permitted)
    try:
        yield
    finally:
        _capset(effective, permitted)


def assume_file_system_ids(uid: int, gid: int, groups: tuple[int, ...]) -> None:
    """Look like this user wherever the kernel checks access to files and to /proc.

    The file-system ids are what ptrace_may_access() compares under PTRACE_MODE_FSCREDS
    (kernel/ptrace.c). The real ids stay root's, so that the user cannot signal or trace us.
    """
    try:
        os.setgroups(groups)
    except OSError as error:
        raise PrivilegeError("the caller's groups could not be assumed") from error
    _libc.setfsgid(ctypes.c_uint32(gid))
    _libc.setfsuid(ctypes.c_uint32(uid))
    status = read_status("self")
    assumed_uid, assumed_gid = (int(status[key].split()[3]) for key in ("Uid", "Gid"))
    if (assumed_uid, assumed_gid) != (uid, gid) or sorted(os.getgroups()) != sorted(groups):
        raise PrivilegeError("the caller's ids could not be assumed")
