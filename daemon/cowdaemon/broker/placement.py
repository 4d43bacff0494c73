# SPDX-License-Identifier: Apache-2.0
"""Where a caller lives: one in another user or pid namespace than cowd is refused.

Root, in the broker; on kernels that do not tell the namespaces of a pidfd, in a short-lived process
of its own for each connection. A caller in another user namespace shows as a uid here whose
processes the kernel would not let it near, and in another pid namespace pids are other processes.
Whoever cannot be placed, because it has ended or hangs, is refused as well.
"""

import signal
from collections.abc import Callable
from functools import partial
from typing import Final

from cowdaemon.errors import Reason
from cowdaemon.limits import PLACEMENT_SECONDS
from cowdaemon.system import namespaces
from cowdaemon.system.confinement import bind_to_parent, close_to_others
from cowdaemon.system.processes import FAILED
from cowdaemon.system.procfs import has_ended, read_status

__all__ = ["judge_placement", "place_by_pidfd", "place_by_proc"]

_REFUSALS: Final = {
    "user": Reason.FOREIGN_USER_NAMESPACE,
    "pid": Reason.FOREIGN_PID_NAMESPACE,
}


def place_by_pidfd(pidfd: int) -> Reason | None:
    """Return why the process must be refused for where it lives; None if it lives with us.

    Raises:
        OSError: no descriptor is left for looking.
    """
    try:
        return _compare(partial(namespaces.of_pidfd, pidfd))
    except ProcessLookupError:
        return Reason.CALLER_GONE


def place_by_proc(pid: int, uid: int, pidfd: int, broker_pid: int) -> int:
    """Return the number of place_by_pidfd()'s answer, found without asking the pidfd; 0 for None.

    To be run in a process of its own: a process that hangs holds up whoever looks, so the alarm
    ends us.
    """
    close_to_others()
    bind_to_parent(broker_pid)
    signal.setitimer(signal.ITIMER_REAL, PLACEMENT_SECONDS)
    try:
        refusal = _compare(partial(namespaces.of_pid, pid))
        # Without SO_PEERPIDFD the pid may have passed to another process before we held it.
        if read_status(pid)["Uid"].split()[1] != str(uid) or has_ended(pidfd):
            refusal = Reason.CALLER_GONE
    except OSError:
        refusal = Reason.CALLER_GONE
    return refusal.number if refusal else 0


def judge_placement(status: int) -> Reason | None:
    """Return the answer of place_by_proc() from the exit status of the process that ran it."""
    if status < 0 or status == FAILED:
        return Reason.CALLER_GONE  # it hung, or failed
    return Reason.from_number(status) if status else None


def _compare(namespace_of: Callable[[str], tuple[int, int]]) -> Reason | None:
    for kind, refusal in _REFUSALS.items():
        if namespace_of(kind) != namespaces.own(kind):
            return refusal
    return None
