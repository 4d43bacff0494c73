# SPDX-License-Identifier: Apache-2.0
"""Giving up every privilege, verified: for the zygote, and so for the workers that it forks.

Root before, the unprivileged user after. What cannot be given up raises, and the zygote ends.
"""

import ctypes
import os
import pwd
import resource
import signal
from pathlib import Path
from typing import Final

from cowdaemon.limits import WORKER_DESCRIPTORS

__all__ = ["PrivilegeError", "become", "bind_to_parent", "name_process"]

_libc: Final = ctypes.CDLL(None, use_errno=True)

_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h
_PR_SET_DUMPABLE: Final = 4
_PR_SET_NAME: Final = 15
_PR_SET_NO_NEW_PRIVS: Final = 38


class PrivilegeError(Exception):
    """Some privilege is left."""


def become(user: str, memory_bytes: int) -> None:
    """Become `user` for good, without capabilities, groups, core dumps, or a way to get any.

    Args:
        user: name of the account.
        memory_bytes: most that each worker may have (RLIMIT_DATA).
    """
    account = pwd.getpwnam(user)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_DATA, memory_bytes)
    _limit(resource.RLIMIT_NOFILE, WORKER_DESCRIPTORS)
    os.umask(0o077)
    os.chdir("/")
    os.setgroups([])
    os.setresgid(account.pw_gid, account.pw_gid, account.pw_gid)
    os.setresuid(account.pw_uid, account.pw_uid, account.pw_uid)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _prctl(_PR_SET_DUMPABLE, 0)
    _verify_unprivileged(account.pw_uid, account.pw_gid)


def _limit(kind: int, most: int) -> None:
    hard = resource.getrlimit(kind)[1]
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(kind, (most, most))


def _verify_unprivileged(uid: int, gid: int) -> None:
    status = dict(
        line.split(":\t", 1)
        for line in Path("/proc/self/status").read_text(errors="replace").splitlines()
        if ":\t" in line
    )
    is_unprivileged = (
        uid != 0
        and status["Uid"].split() == [str(uid)] * 4
        and status["Gid"].split() == [str(gid)] * 4
        and not status["Groups"].split()
        and not any(int(status[key], 16) for key in ("CapEff", "CapPrm", "CapInh", "CapAmb"))
        and status["NoNewPrivs"] == "1"
    )
    if not is_unprivileged:
        raise PrivilegeError(f"uid {uid} kept some privilege")


def bind_to_parent(parent_pid: int) -> None:
    """Be killed when the parent dies; raise if it has died already."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        raise PrivilegeError("the parent died first")


def name_process(name: str) -> None:
    """Set what `ps` shows as the command, at most 15 characters."""
    if _libc.prctl(_PR_SET_NAME, name.encode(), 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), f"prctl({option}, {value})")
