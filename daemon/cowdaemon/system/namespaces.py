# SPDX-License-Identifier: Apache-2.0
"""Which namespaces a process is in, each by the device and inode number of its file.

Used by root, in the broker and in processes that it makes for this. `kind` is a file's name in
/proc/PID/ns.
"""

import fcntl
import os
from typing import Final

__all__ = ["can_ask_pidfd", "of_pid", "of_pidfd", "own"]

# PIDFD_GET_PID_NAMESPACE and PIDFD_GET_USER_NAMESPACE, linux/pidfd.h: Linux commit 5b08bd408534
# ("pidfs: allow retrieval of namespace file descriptors") (in v6.11).
_REQUESTS: Final = {"pid": 0xFF05, "user": 0xFF09}


def can_ask_pidfd() -> bool:
    """Try whether the kernel tells the namespaces of a pidfd."""
    pidfd = os.pidfd_open(os.getpid())
    try:
        of_pidfd(pidfd, "user")
    except OSError:
        return False
    finally:
        os.close(pidfd)
    return True


def of_pidfd(pidfd: int, kind: str) -> tuple[int, int]:
    """Return a namespace of the process; does not wait, whatever the process does.

    Raises:
        OSError: it has ended.
    """
    namespace = fcntl.ioctl(pidfd, _REQUESTS[kind])
    try:
        found = os.fstat(namespace)
    finally:
        os.close(namespace)
    return found.st_dev, found.st_ino


def of_pid(pid: int, kind: str) -> tuple[int, int]:
    """Return a namespace of the process; waits for one that hangs (exec_update_lock, fs/exec.c).

    Raises:
        OSError: it has ended, or may not be looked at.
    """
    found = os.stat(f"/proc/{pid}/ns/{kind}")
    return found.st_dev, found.st_ino


def own(kind: str) -> tuple[int, int]:
    """Return the namespace that we are in."""
    found = os.stat(f"/proc/self/ns/{kind}")
    return found.st_dev, found.st_ino
