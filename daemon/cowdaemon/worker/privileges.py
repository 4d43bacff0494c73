# SPDX-License-Identifier: Apache-2.0
"""Giving up every privilege, verified: for the zygote, and so for the workers that it forks.

Root before, the unprivileged user after; then closed in further, in steps, each when what comes
before it is done. What cannot be given up raises, and the process ends.
"""

import os
import pwd
import resource
from typing import Final

from cowdaemon.limits import (
    WORKER_DESCRIPTORS,
    WORKER_LOCKED_BYTES,
    WORKER_QUEUE_BYTES,
)
from cowdaemon.system.confinement import (
    FileRight,
    PrivilegeError,
    SystemCallFilter,
    close_to_others,
    read_landlock_abi,
    restrict_files,
)
from cowdaemon.system.procfs import read_status
from cowdaemon.system.system_calls import WORKER, WORKER_ERRORS, ZYGOTE

__all__ = ["Confinement", "become"]

_OF_ROOMS: Final = FileRight.MAKE_SOCK | FileRight.REMOVE_FILE


def become(user: str, memory_bytes: int) -> None:
    """Become `user` for good, without capabilities, groups, core dumps, or a way to get any.

    Args:
        user: name of the account.
        memory_bytes: most that each worker may have (RLIMIT_DATA).
    """
    account = pwd.getpwnam(user)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_MEMLOCK, WORKER_LOCKED_BYTES)
    _limit(resource.RLIMIT_MSGQUEUE, WORKER_QUEUE_BYTES)
    _limit(resource.RLIMIT_DATA, memory_bytes)
    _limit(resource.RLIMIT_NOFILE, WORKER_DESCRIPTORS)
    os.umask(0o077)
    os.chdir("/")
    try:
        os.setgroups([])
        os.setresgid(account.pw_gid, account.pw_gid, account.pw_gid)
        os.setresuid(account.pw_uid, account.pw_uid, account.pw_uid)
    except OSError as error:
        raise PrivilegeError(f"cannot become user {user}: {error.strerror}") from error
    close_to_others()
    _verify_unprivileged(account.pw_uid, account.pw_gid)


def _limit(kind: int, most: int) -> None:
    hard = resource.getrlimit(kind)[1]
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(kind, (most, most))


def _verify_unprivileged(uid: int, gid: int) -> None:
    status = read_status("self")
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


class Confinement:
    """What the zygote and its workers are closed in by, beyond their ids, where there is such.

    Made by the zygote; each process calls what it is for. Whatever fails raises, and that process
    ends.

    Attributes:
        has_seccomp: workers are held to a list of system calls.
        landlock_abi: version of Landlock's interface that keeps them from files; 0 if none does.

    Raises:
        PrivilegeError: what this machine has does not work.
    """

    def __init__(self) -> None:
        self._zygote_filter: Final = SystemCallFilter(ZYGOTE)
        self._worker_filter: Final = SystemCallFilter(WORKER, WORKER_ERRORS)
        self.has_seccomp: Final = self._worker_filter.is_there
        self.landlock_abi: Final = read_landlock_abi()

    def confine_zygote(self) -> None:
        """Close the zygote in, when it has become unprivileged; its workers inherit it."""
        # Workers make sockets in rooms that are not there yet.
        self._restrict_files({}, kept=_OF_ROOMS)
        self._zygote_filter.load()

    def confine_start(self, room: int) -> None:
        """Leave a worker no files but its room, before it has a second thread."""
        self._restrict_files({room: _OF_ROOMS}, kept=FileRight(0))

    def confine_worker(self) -> None:
        """Leave a worker what it takes to serve: all its threads, when everything is open."""
        self._worker_filter.load()

    def _restrict_files(self, exceptions: dict[int, FileRight], kept: FileRight) -> None:
        random = os.open("/dev/urandom", os.O_PATH | os.O_CLOEXEC)
        try:
            # gRPC seeds itself when its server starts, and aborts if it cannot.
            allowed = {random: FileRight.READ_FILE, **exceptions}
            restrict_files(self.landlock_abi, allowed, kept)
        finally:
            os.close(random)
