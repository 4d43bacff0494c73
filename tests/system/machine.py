# SPDX-License-Identifier: Apache-2.0
"""A machine that runs a real Debian with a real systemd, and is thrown away afterwards.

Root, on the host. A machine is a container of systemd-nspawn that shares the kernel and nothing
else: pids, users, mounts, network and the journal are its own. Its processes and files are seen
from the host as well, as `pid_on_host` and `path` say.
"""

import itertools
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.daemon import ROOT
from harness.processes import read_children, read_status
from harness.programs import ANSWER_SECONDS, Caller, Program
from system.trees import Release

BOOT = Path(__file__).with_name("boot.sh")
BOOT_SECONDS = 120.0
RUN_SECONDS = 120.0
"""For a command to end: generous, others share the machine."""
END_SECONDS = 30.0
EVENT_SECONDS = 60.0
"""For something to be told to the journal."""
SHOWN = 4000
"""Characters of the end of what a command wrote."""
READ_BYTES = 65_536
SOCKET = "/run/cowd/cowd.sock"
CONFIG = "/etc/cowd/cowd.toml"
TESTS = "/mnt/tests"
"""Where the checkout's folder of that name is, inside."""
PACKAGES = "/mnt/packages"
CHECKOUT = "/mnt/checkout"
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
    "DEBIAN_FRONTEND": "noninteractive",
    "SYSTEMD_PAGER": "",
}
_numbers = itertools.count(1)
_JOURNALCTL = ("journalctl", "--all", "--quiet", "--output=json")
Record = dict[str, Any]
"""A record of the journal: values by field."""


class MachineError(Exception):
    """A machine did not boot, or a command in it failed; the text says what was written."""


def read_pid_inside(pid: int) -> int:
    """Return the pid that a process has in its machine, from the host's."""
    return int(read_status(pid)["NSpid"].split()[-1])


class Machine:
    """One booted Debian.

    Args:
        release: of the tree.
        tree: to boot; not written to.
        packages: a folder to show at PACKAGES.

    Raises:
        MachineError: it did not boot.
    """

    def __init__(self, release: Release, tree: Path, packages: Path) -> None:
        self.release = release
        self.name = f"cowd-{release}-{os.getpid()}-{next(_numbers)}"
        self._directory = Path(tempfile.mkdtemp(prefix=f"{self.name}-"))
        (self._directory / "machine").mkdir()
        self._console = self._directory / "console"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notices:
            notices.bind(str(self._directory / "notify"))
            self._process = self._boot(tree, packages)
            try:
                self.leader = self._await_boot(notices)
                self._verify_health()
            except BaseException:
                self.stop()
                raise

    def _boot(self, tree: Path, packages: Path) -> "subprocess.Popen[bytes]":
        shown = {ROOT: CHECKOUT, ROOT / "tests": TESTS, packages: PACKAGES}
        binds = [f"--bind-ro={there}:{inside}" for there, inside in shown.items()]
        # Whatever becomes of this process, the machine is ended. It has no part in its Ctrl-C.
        command = ["setpriv", "--pdeathsig=TERM", "unshare", "--mount", "sh", str(BOOT)]
        with self._console.open("wb") as console:
            return subprocess.Popen(
                [*command, str(self._directory / "machine"), self.name, str(tree), *binds],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                env=os.environ | {"NOTIFY_SOCKET": str(self._directory / "notify")},
                start_new_session=True,
            )

    def _await_boot(self, notices: socket.socket) -> int:
        """Return the host's pid of the first process inside, once it has started everything."""
        leader = 0
        deadline = time.monotonic() + BOOT_SECONDS
        ended = os.pidfd_open(self._process.pid)
        try:
            while (left := deadline - time.monotonic()) > 0:
                readable, _, _ = select.select([notices, ended], [], [], left)
                if notices not in readable:
                    break
                notice = dict(
                    line.split("=", 1) for line in notices.recv(4096).decode().splitlines()
                )
                leader = int(notice.get("X_NSPAWN_LEADER_PID", leader))
                if notice.get("READY") == "1":
                    return leader
        finally:
            os.close(ended)
        raise MachineError(f"{self.name} did not boot:\n{self.console()}")

    def _verify_health(self) -> None:
        if self.run("systemctl", "is-system-running", "--wait", check=False).returncode:
            failed = self.run("systemctl", "status", "--failed", "--no-legend", check=False).stdout
            raise MachineError(f"{self.name} booted, but not all of it:\n{failed}")

    def console(self) -> str:
        """Return the end of what the machine has written to its console."""
        return self._console.read_text(errors="backslashreplace")[-SHOWN:]

    def stop(self) -> None:
        """Turn it off, at once, and leave nothing of it."""
        self._process.terminate()
        try:
            self._process.wait(END_SECONDS)
        finally:
            shutil.rmtree(self._directory)

    # Commands

    def command(self, arguments: Sequence[str], user: str | None = None) -> list[str]:
        """Return the host's command for one of the machine, run by a user of it, or by root."""
        inside = [
            "env",
            "-i",
            "--chdir=/",
            *(f"{name}={value}" for name, value in ENVIRONMENT.items()),
        ]
        if user:
            inside += ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "--"]
        return ["nsenter", f"--target={self.leader}", "--all", "--", *inside, *arguments]

    def run(
        self,
        *arguments: str,
        user: str | None = None,
        check: bool = True,
        stdin: str = "",
        seconds: float = RUN_SECONDS,
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command to its end, as root or as a user.

        Raises:
            MachineError: it failed, unless `check` is false.
        """
        done = subprocess.run(
            self.command(arguments, user),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        if check and done.returncode:
            raise MachineError(
                f"{self.name}: {' '.join(arguments)} ended with {done.returncode}:\n"
                f"{(done.stdout + done.stderr)[-SHOWN:]}"
            )
        return done

    def start(self, *arguments: str, user: str | None = None) -> "Started":
        """Start a command that reads lines of JSON and answers with lines of JSON."""
        return Started(self.command(arguments, user))

    def start_caller(self, user: str) -> "MachineCaller":
        """Start a client that makes gRPC calls without cowd's library."""
        return MachineCaller(self, user)

    def start_asking(self, kind: str, user: str) -> "Asking":
        """Start a client that asks all the time, and return when it has been answered."""
        return Asking(self, kind, user)

    def python(self, code: str, *arguments: str, user: str | None = None, **options: Any) -> Any:
        """Run Python code; return what it prints as JSON."""
        return json.loads(self.run("python3", "-c", code, *arguments, user=user, **options).stdout)

    # Files and processes, from the host

    def path(self, inside: str) -> Path:
        """Return the host's path of one in the machine; no link in it may be absolute."""
        return Path(f"/proc/{self.leader}/root{inside}")

    def write(self, inside: str, text: str) -> None:
        """Write a file that everybody may read, and make its folder."""
        path = self.path(inside)
        self.run("mkdir", "--parents", str(Path(inside).parent))
        path.write_text(text)
        path.chmod(0o644)

    def pid_on_host(self, pid: int) -> int:
        """Return the host's pid of a process that systemd, in the machine, has started."""
        families = [self.leader]
        while families:
            for child in read_children(families.pop()):
                if read_pid_inside(child.pid) == pid:
                    return child.pid
                families.append(child.pid)
        raise MachineError(f"{self.name} has no process {pid}")

    # systemd

    def show(self, unit: str, *names: str) -> dict[str, str]:
        """Return properties of a unit."""
        options = [f"--property={name}" for name in names]
        shown = self.run("systemctl", "show", *options, unit).stdout
        return dict(line.split("=", 1) for line in shown.splitlines())

    def main_pid(self, unit: str = "cowd.service") -> int:
        """Return the host's pid of a unit's main process."""
        pid = int(self.show(unit, "MainPID")["MainPID"])
        assert pid, f"{unit} does not run"
        return self.pid_on_host(pid)

    @contextmanager
    def drop_in(self, unit: str, text: str) -> Iterator[None]:
        """Change a unit, as `systemctl edit` does, until the end of the block."""
        path = f"/run/systemd/system/{unit}.d/test.conf"
        self.write(path, text)
        self.run("systemctl", "daemon-reload")
        try:
            yield
        finally:
            self.path(path).unlink()
            self.run("systemctl", "daemon-reload")

    @contextmanager
    def configured(self, text: str) -> Iterator[None]:
        """Have other settings in force, until the end of the block."""
        path = self.path(CONFIG)
        packaged = path.read_bytes()
        path.write_text(text)
        try:
            self.run("systemctl", "restart", "cowd")
            yield
        finally:
            path.write_bytes(packaged)
            self.run("systemctl", "reset-failed", "cowd.service", "cowd.socket")
            self.run("systemctl", "restart", "cowd")

    # The journal

    def now(self) -> int:
        """Return a time, in microseconds, after all that has been written to the journal."""
        self.run("journalctl", "--sync")
        return time.monotonic_ns() // 1000  # the clock of the host's kernel is the machine's

    def read_journal(self, *matches: str, after: int = 0) -> list[Record]:
        """Return the records that match, each FIELD=value, oldest first."""
        self.run("journalctl", "--sync")
        lines = self.run(*_JOURNALCTL, *matches).stdout.splitlines()
        return [record for record in map(json.loads, lines) if _is_after(record, after)]

    def await_record(self, *matches: str, after: int, seconds: float = EVENT_SECONDS) -> Record:
        """Return the first record that matches, written after that time, or wait for it.

        The time is compared here: journalctl 252 may pass over a record with --after-cursor.
        """
        deadline = time.monotonic() + seconds
        with Started(self.command([*_JOURNALCTL, "--follow", "--no-tail", *matches])) as following:
            while True:
                record = following.read(max(0, deadline - time.monotonic()))
                if _is_after(record, after):
                    return record

    def log(self) -> str:
        """Return what the journal has of our units, for people; nothing if it never had any."""
        command = ["journalctl", "--output=short-precise", "--unit=cowd*"]
        return self.run(*command, check=False).stdout


def _is_after(record: Record, microseconds: int) -> bool:
    return int(record["__MONOTONIC_TIMESTAMP"]) > microseconds


class Started(Program):
    """A command in a machine."""

    def __init__(self, command: Sequence[str]) -> None:
        super().__init__(command)
        self._unread = b""

    def read(self, seconds: float = ANSWER_SECONDS) -> Record:
        """Receive one line, also of several that came together."""
        assert self._process.stdout
        output = self._process.stdout.fileno()
        deadline = time.monotonic() + seconds
        while b"\n" not in self._unread:
            left = max(0.0, deadline - time.monotonic())
            readable, _, _ = select.select([output], [], [], left)
            assert readable, f"no answer from {self._process.args!r} within {seconds} s"
            part = os.read(output, READ_BYTES)
            assert part, f"{self._process.args!r} ended with exit status {self._process.wait()}"
            self._unread += part
        line, _, self._unread = self._unread.partition(b"\n")
        record: Record = json.loads(line)
        return record

    @property
    def pid(self) -> int:
        """The host's pid: nsenter waits for it."""
        [child] = read_children(self._process.pid)
        return child.pid

    def kill(self) -> None:
        """End it at once unless it has ended, and collect it."""
        for child in read_children(self._process.pid):
            os.kill(child.pid, signal.SIGKILL)
        self.close()

    def __enter__(self) -> "Started":
        return self

    def __exit__(self, *exception: object) -> None:
        self.kill()


class MachineCaller(Caller, Started):
    """A client that makes gRPC calls without cowd's library, as a user of a machine."""

    def __init__(self, machine: Machine, user: str) -> None:
        Started.__init__(self, machine.command(["python3", f"{TESTS}/caller.py", SOCKET], user))
        self.pid_inside: int = self.read()["pid"]


class Asking(Started):
    """A client that asks all the time: see asking.py."""

    def __init__(self, machine: Machine, kind: str, user: str) -> None:
        super().__init__(machine.command(["python3", f"{TESTS}/system/asking.py", kind], user))
        self.pid_inside: int = self.read()["pid"]

    def count(self) -> int:
        """Return how many answers it has had."""
        self.write({})
        answers: int = self.read()["answers"]
        return answers

    def await_answers(self, count: int, seconds: float = ANSWER_SECONDS) -> None:
        """Return when it has had so many more answers from now on."""
        deadline = time.monotonic() + seconds
        wanted = self.count() + count
        while (answers := self.count()) < wanted:
            assert time.monotonic() < deadline, f"{wanted - answers} of {count} answers are missing"

    def ask(self) -> str | None:
        """Ask once; return what went wrong, if something did."""
        self.write({})
        failure: str | None = self.read()["failure"]
        return failure

    def end(self) -> Record:
        """Have it end, and return what it has to tell."""
        assert self._process.stdin
        self._process.stdin.close()
        told = self.read()
        self.close()
        return told
