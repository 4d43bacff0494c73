# SPDX-License-Identifier: Apache-2.0
"""A real cowd, started by hand on a temporary socket.

Runs as root in the test process. Ready is what the daemon itself says, by a datagram on
NOTIFY_SOCKET. A daemon that does not start, does not stop, or leaves something behind raises
AssertionError with its log.
"""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from harness.processes import Departure, Tree, read_tree

ROOT = Path(__file__).resolve().parents[2]
"""The checkout."""
PYTHON_PATH = os.pathsep.join(str(ROOT / folder) for folder in ("proto", "daemon", "client"))
START_SECONDS = 60.0
"""Far over limits.ZYGOTE_START_SECONDS; a daemon that fails ends at once, and that is noticed."""
NOTIFICATION_BYTES = 4096
LOOK_SECONDS = 0.01
STOP_SECONDS = 10.0
"""More than limits.STOP_SECONDS."""
DEPART_SECONDS = 1.0
"""How long the rest of the daemon may outlive its broker."""

_ACTIVATE = 'export LISTEN_FDS=1 LISTEN_PID=$$; exec "$@" 3<&0 0</dev/null'
"""What systemd does for a socket unit: the listener is descriptor 3. It comes as standard input."""


class NotStartedError(AssertionError):
    """A daemon was not ready in time. `exit_status` is None if it had to be killed."""

    def __init__(self, exit_status: int | None, log: str) -> None:
        self.exit_status = exit_status
        self.log = log
        super().__init__(f"cowd was not ready (exit status {exit_status}); its log:\n{log}")


class Daemon:
    """One cowd with its socket, log and temporary files in `directory`, as root.

    Args:
        directory: its own and empty; made enterable by everyone.
        listener: a bound and listening socket to hand over as systemd does; by default the daemon
            makes its own.
        socket_path: where it listens; `directory`/cowd.sock by default.
        change: statements that set names of the broker's modules to other values first, for what
            this machine cannot show otherwise: small limits, an older kernel.
        config: what stands in its configuration file, or the file.
        prefix: a command that runs it, in place.
        installed: the command `cowd` of an installation, to be run instead of the checkout.

    Raises:
        NotStartedError: it ended, or was not ready in time.
    """

    def __init__(
        self,
        directory: Path,
        listener: socket.socket | None = None,
        socket_path: Path | None = None,
        change: str = "",
        config: str | Path = "",
        prefix: Sequence[str] = (),
        installed: Path | None = None,
    ) -> None:
        self.directory = directory
        self._config_path = directory / "cowd.toml"
        if isinstance(config, Path):
            self._config_path = config
        else:
            self._config_path.write_text(config)
            self._config_path.chmod(0o644)
        self._change = change
        self._prefix = prefix
        self._installed = installed
        self.socket_path = socket_path or directory / "cowd.sock"
        self.exit_status: int | None = None
        self._log_path = directory / "log"
        self._temporary = directory / "tmp"
        self._listener = listener
        directory.chmod(0o755)
        self._temporary.mkdir()
        self._temporary.chmod(0o1777)
        self._notifications = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notifications.bind(str(directory / "notify"))
        self._process = self._start()
        self.pid = self._process.pid
        self._await_ready()
        self._listener_thread = threading.Thread(target=self._hear, name="notifications")
        self._listener_thread.start()

    def _start(self) -> subprocess.Popen[bytes]:
        program = [sys.executable, "-m", "cowdaemon.main"]
        if self._installed:
            program = [str(self._installed)]
        command = [*program, "--user", "daemon"]
        # Always one of its own: this machine may have settings for a cowd of its own.
        command += ["--config", str(self._config_path)]
        if self._change:
            program = (
                f"{self._change}\nimport sys\nfrom cowdaemon.main import main\nsys.exit(main())"
            )
            command[1:3] = ["-c", program]
        if self._listener:
            command = ["/bin/sh", "-c", _ACTIVATE, "sh", *command]
        else:
            command += ["--socket", str(self.socket_path)]
        with self._log_path.open("wb") as log:
            return subprocess.Popen(
                [*self._prefix, *command],
                stdin=self._listener or subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env=self.environment(),
            )

    def environment(self) -> dict[str, str]:
        """Return the environment that the daemon runs in."""
        checkout = {} if self._installed else {"PYTHONPATH": PYTHON_PATH}
        return checkout | {
            "PATH": os.defpath,
            "PYTHONDONTWRITEBYTECODE": "1",
            "TMPDIR": str(self._temporary),
            "NOTIFY_SOCKET": str(self.directory / "notify"),
        }

    def _await_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        pidfd = os.pidfd_open(self._process.pid)
        try:
            while (left := deadline - time.monotonic()) > 0:
                readable, _, _ = select.select([self._notifications, pidfd], [], [], left)
                if self._notifications in readable:
                    if b"READY=1" in self._notifications.recv(NOTIFICATION_BYTES).splitlines():
                        return
                elif pidfd in readable:
                    break
        finally:
            os.close(pidfd)
        ended = self._process.poll()
        self._process.kill()
        self._process.wait()
        self._notifications.close()
        raise NotStartedError(ended, self.log())

    def _hear(self) -> None:
        """Take what the daemon tells systemd, or it would wait for room in the socket."""
        while self._notifications.recv(NOTIFICATION_BYTES):
            pass

    def close_notifications(self) -> None:
        """Take NOTIFY_SOCKET away, as a restart of the service manager does."""
        if self._notifications.fileno() >= 0:
            self._notifications.shutdown(socket.SHUT_RDWR)
            self._listener_thread.join()
            self._notifications.close()

    def log(self) -> str:
        """Return what the daemon has written to its standard error."""
        return self._log_path.read_text(errors="backslashreplace")

    def read_records(self) -> list[dict[str, Any]]:
        """Return the audit records in the log."""
        return [json.loads(line) for line in self.log().splitlines() if line.startswith("{")]

    def tree(self) -> Tree:
        """Return the daemon's processes."""
        return read_tree(self.pid)

    def settled_tree(self, openers: int, workers: int) -> Tree:
        """Return the daemon's processes once it has one zygote and that many others.

        The kernel tells nobody when a parent has collected a child, so this looks again and again.
        """
        deadline = time.monotonic() + DEPART_SECONDS
        wanted = (1, openers, workers)
        while True:
            tree = self.tree()
            counts = (len(tree.zygotes), len(tree.openers), len(tree.workers))
            if counts == wanted:
                return tree
            assert time.monotonic() < deadline, f"{tree}; the daemon's log:\n{self.log()}"
            time.sleep(LOOK_SECONDS)

    def stop(self) -> None:
        """End it as systemd does, and verify that it ended well and left nothing behind."""
        if self.exit_status is None:
            self._process.send_signal(signal.SIGTERM)
            self.await_end(STOP_SECONDS)

    def stays(self, seconds: float) -> bool:
        """Wait for so long; return whether it is still there."""
        with Departure([self.pid]) as departure:
            return bool(departure.wait(seconds))

    def await_end(self, seconds: float) -> None:
        """Wait until it has ended, and verify that it ended well and left nothing behind."""
        with Departure(self.tree().pids) as departure:
            self._wait(seconds)
            alive = departure.wait(DEPART_SECONDS)
        assert self.exit_status == 0, f"exit status {self.exit_status}; its log:\n{self.log()}"
        assert not alive, f"processes {alive} outlived the broker; its log:\n{self.log()}"
        left = list(self._temporary.iterdir())
        assert not left, f"left behind: {left}"
        if self._listener is None:
            assert not self.socket_path.exists(), "the daemon left its socket behind"

    def kill(self) -> list[int]:
        """Kill the broker; return the pids of what outlived it by more than a second."""
        with Departure(self.tree().pids) as departure:
            self._process.kill()
            self._wait(STOP_SECONDS)
            return departure.wait(DEPART_SECONDS)

    def _wait(self, seconds: float) -> None:
        try:
            self.exit_status = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self.exit_status = self._process.wait()
            raise AssertionError(f"cowd did not end; its log:\n{self.log()}") from None
        finally:
            self.close_notifications()


StartDaemon = Callable[..., Daemon]
"""The fixture start_daemon."""
