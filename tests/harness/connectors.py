# SPDX-License-Identifier: Apache-2.0
"""Callers on a connection that another process made, and a broker that is slow to accept it.

Runs as root in the test process; see tests/security/connector.py.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from harness.daemon import ROOT, Daemon
from harness.programs import ANSWER_SECONDS, CALLER, Caller, Program, User

CONNECTOR = ROOT / "tests" / "security" / "connector.py"
CAT = Path("/bin/cat")
"""A program that stays for as long as its input does."""


@contextmanager
def broker_stopped(daemon: Daemon) -> Iterator[None]:
    """Keep the broker from running: connections wait to be accepted."""
    os.kill(daemon.pid, signal.SIGSTOP)
    try:
        os.waitid(os.P_PID, daemon.pid, os.WSTOPPED | os.WNOWAIT)
        yield
    finally:
        os.kill(daemon.pid, signal.SIGCONT)


class Connector(Caller):
    """A caller on a connection that its parent made before it went on as another program.

    Args:
        user: whom both run as.
        socket_path: where the daemon listens.
        relay_path: for the child's use.
        program: what the parent executes; it ends instead if there is none.
        connected_as: whose effective ids and groups the parent has while it connects.
        bound: what the parent binds its end to before it connects; "@" stands for an abstract name.
        held: a file that the parent holds close-on-exec when it executes the program.
    """

    def __init__(
        self,
        user: User,
        socket_path: Path,
        relay_path: Path,
        program: Path | None = None,
        connected_as: User | None = None,
        bound: str = "",
        held: Path | None = None,
        prefix: Sequence[str] = (),
    ) -> None:
        options = [f"--bind={bound}"] if bound else []
        if connected_as:
            ids = (connected_as.uid, connected_as.gid, *connected_as.groups)
            options += [f"--ids={','.join(map(str, ids))}"]
        options += [f"--hold={held}"] if held else []
        options += [f"--program={program}"] if program else []
        arguments = [str(path) for path in (CONNECTOR, socket_path, CALLER, relay_path)]
        command = user.command([sys.executable, *arguments, *options])
        Program.__init__(self, [*prefix, *command])
        self._calling_pid: int = self.read()["pid"]

    def end(self) -> None:
        """End the connecting process, collect it, and leave its child."""
        self._process.kill()
        self.reap()

    def reap(self) -> None:
        """Collect the connecting process, which ends by itself."""
        self._process.wait(ANSWER_SECONDS)

    def kill(self) -> None:
        """End both."""
        os.kill(self._calling_pid, signal.SIGKILL)
        super().kill()


StartConnector = Callable[..., Connector]
"""The fixture start_connector."""
