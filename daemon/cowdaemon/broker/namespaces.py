# SPDX-License-Identifier: Apache-2.0
"""Where a caller lives: one in another user or pid namespace than cowd is refused.

Root, in the broker; on kernels that do not tell the namespaces of a pidfd, in a short-lived process
of its own for each connection. A caller in another user namespace shows as a uid here whose
processes the kernel would not let it near, and in another pid namespace pids are other processes.
Whoever cannot be placed, because it has ended or hangs, is refused as well.
"""

import fcntl
import os
import signal
import socket
from typing import Final

from cowdaemon.broker.peers import has_ended, read_status
from cowdaemon.broker.processes import fork_child
from cowdaemon.confinement import bind_to_parent, close_to_others
from cowdaemon.errors import Reason
from cowdaemon.limits import PLACEMENT_SECONDS

__all__ = ["PlacementChild", "can_place_by_pidfd", "place_by_pidfd", "place_by_proc"]

# PIDFD_GET_PID_NAMESPACE and PIDFD_GET_USER_NAMESPACE, linux/pidfd.h: Linux commit 5b08bd408534
# ("pidfs: allow retrieval of namespace file descriptors") (in v6.11).
_PIDFD_GET_PID_NAMESPACE: Final = 0xFF05
_PIDFD_GET_USER_NAMESPACE: Final = 0xFF09


def _own_namespace(kind: str) -> tuple[int, int]:
    found = os.stat(f"/proc/self/ns/{kind}")
    return found.st_dev, found.st_ino


def can_place_by_pidfd() -> bool:
    """Try whether the kernel tells the namespaces of a pidfd."""
    pidfd = os.pidfd_open(os.getpid())
    try:
        os.close(fcntl.ioctl(pidfd, _PIDFD_GET_USER_NAMESPACE))
    except OSError:
        return False
    finally:
        os.close(pidfd)
    return True


def place_by_pidfd(pidfd: int) -> Reason | None:
    """Return why the process must be refused for where it lives; None if it lives with us.

    Does not wait on the process, whatever that does.
    """
    for request, kind, refusal in (
        (_PIDFD_GET_USER_NAMESPACE, "user", Reason.FOREIGN_USER_NAMESPACE),
        (_PIDFD_GET_PID_NAMESPACE, "pid", Reason.FOREIGN_PID_NAMESPACE),
    ):
        try:
            namespace = fcntl.ioctl(pidfd, request)
        except OSError:  # ESRCH: it has ended
            return Reason.CALLER_GONE
        try:
            found = os.fstat(namespace)
        finally:
            os.close(namespace)
        if (found.st_dev, found.st_ino) != _own_namespace(kind):
            return refusal
    return None


def place_by_proc(pid: int, uid: int, pidfd: int, answer: int, broker_pid: int) -> None:
    """Write the number of place_by_pidfd()'s answer to `answer`, found without its ioctls; 0: none.

    To be run in a process of its own: opening /proc/PID/ns takes a lock that the process may hold
    for ever (exec_update_lock), so the alarm ends us, and no answer means refused.
    """
    close_to_others()
    bind_to_parent(broker_pid)
    signal.setitimer(signal.ITIMER_REAL, PLACEMENT_SECONDS)
    refusal = 0
    try:
        for kind, reason in (
            ("user", Reason.FOREIGN_USER_NAMESPACE),
            ("pid", Reason.FOREIGN_PID_NAMESPACE),
        ):
            found = os.stat(f"/proc/{pid}/ns/{kind}")
            if (found.st_dev, found.st_ino) != _own_namespace(kind):
                refusal = refusal or reason.number
        # Without SO_PEERPIDFD the pid may have passed to another process before we held it.
        if read_status(pid)["Uid"].split()[1] != str(uid) or has_ended(pidfd):
            refusal = Reason.CALLER_GONE.number
    except OSError:
        refusal = Reason.CALLER_GONE.number
    os.write(answer, bytes([refusal]))


class PlacementChild:
    """A process that runs place_by_proc(); `child` turns readable by its pidfd when it has ended.

    Raises:
        OSError: it could not be forked.
    """

    def __init__(self, pid: int, uid: int, pidfd: int) -> None:
        self._answer, answer = socket.socketpair()
        broker_pid = os.getpid()
        try:
            with answer:
                self.child: Final = fork_child(
                    "cowd-placement",
                    lambda: place_by_proc(pid, uid, pidfd, answer.fileno(), broker_pid),
                    keep=[pidfd, answer.fileno()],
                )
        except OSError:
            self._answer.close()
            raise

    def finish(self) -> Reason | None:
        """Reap it; return its answer, which is as that of place_by_pidfd()."""
        self.child.reap()
        with self._answer:
            answer = self._answer.recv(1)
        if not answer:
            return Reason.CALLER_GONE  # it hung, or failed
        return Reason.from_number(answer[0]) if answer[0] else None
