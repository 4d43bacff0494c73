# SPDX-License-Identifier: Apache-2.0
"""Children that the broker forks without exec: they keep the descriptors named, and nothing else.

Root. A child never returns into the broker's code: it ends in os._exit, whatever happens.
"""

import logging
import os
import resource
import signal
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

from cowdaemon.system.confinement import name_process

__all__ = ["FAILED", "STOP_SIGNAL", "Child", "fork_child"]

STOP_SIGNAL: Final = signal.SIGUSR1
"""Ends a child that does not catch it; unlike SIGTERM, nobody sends it to a whole group."""

FAILED: Final = 70
"""Exit status of a process that raised what nobody foresaw: EX_SOFTWARE of sysexits.h."""

_log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Child:
    """A child process; `pidfd` turns readable when it has ended."""

    pid: int
    pidfd: int

    def stop(self) -> None:
        """End it, by STOP_SIGNAL: it may have chosen to say something first."""
        signal.pidfd_send_signal(self.pidfd, STOP_SIGNAL)

    def reap(self) -> int:
        """Collect the ended child; return its exit status, negative for a signal."""
        os.close(self.pidfd)
        _, status = os.waitpid(self.pid, 0)
        return os.waitstatus_to_exitcode(status)


def fork_child(name: str, run: Callable[[], int], keep: Collection[int]) -> Child:
    """Fork a child that calls `run` with standard error and the descriptors `keep` alone.

    What `run` returns is the child's exit status; FAILED if it raises.
    """
    pid = os.fork()
    if pid:
        try:
            return Child(pid, os.pidfd_open(pid))
        except OSError:  # no descriptor: without one its end would go unnoticed
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise
    status = FAILED
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # the broker acts on these, and closes our socket
        name_process(name)
        logging.basicConfig(force=True)  # to standard error: what else there was may be closed
        _close_all_but({2, *keep})
        status = run()
    except BaseException:  # noqa: BLE001 - a child must end here, and say why
        _log.exception("%s failed", name)
    finally:
        os._exit(status)


def _close_all_but(keep: Collection[int]) -> None:
    lowest = 0
    for descriptor in sorted(keep):
        os.closerange(lowest, descriptor)
        lowest = descriptor + 1
    os.closerange(lowest, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
