# SPDX-License-Identifier: Apache-2.0
"""A mount namespace with a /proc of its own, for the daemon and its callers to run in.

Runs as root in the test process. Pids are the machine's own. Its mounts end with the last process
in it.
"""

import subprocess
from collections.abc import Callable
from pathlib import Path

# The instance is new, so that its options are nobody else's: Linux commit fa10fed30f25
# ("proc: allow to mount multiple instances of proc in one pid namespace") (in v5.8).
_SCRIPT = """
mount -t proc proc /proc
mount -o "remount,$1" /proc
cat /proc/self/mountinfo
echo
exec cat
"""


class ProcMount:
    """The namespace, from construction to `close`.

    Args:
        options: of its /proc, for a remount: see proc(5).

    Raises:
        OSError: the kernel does not mount it, or not so.
    """

    def __init__(self, options: str) -> None:
        self._process = subprocess.Popen(
            [
                *("unshare", "--mount", "--propagation=private", "--"),
                *("sh", "-euc", _SCRIPT, "sh", options),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd="/",
            text=True,
        )
        assert self._process.stdout
        lines = []
        while line := self._process.stdout.readline().strip():
            lines.append(line)
        if self._process.poll() is not None or not lines:
            raise OSError(self._process.communicate()[1].strip())
        self.options = _read_options(lines)
        """Of its /proc, as the kernel tells them inside."""
        namespace = f"/proc/{self._process.pid}/ns/mnt"
        self.prefix = ("nsenter", f"--mount={namespace}", "--")
        """A command that runs another one inside, in place."""

    def close(self) -> None:
        """Leave it; it ends with whatever else still runs in it."""
        self._process.communicate()

    def __enter__(self) -> "ProcMount":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


MountProc = Callable[[str], ProcMount]
"""The fixture mount_proc."""


def read_proc_options() -> set[str]:
    """Return the options of the /proc that the test process sees."""
    return _read_options(Path("/proc/self/mountinfo").read_text().splitlines())


def _read_options(lines: list[str]) -> set[str]:
    """Return the options of the last proc file system on /proc: it hides those below."""
    options: set[str] = set()
    for line in lines:
        mount, _, file_system = line.partition(" - ")
        if mount.split()[4] == "/proc" and file_system.split()[0] == "proc":
            options = set(file_system.split()[2].split(","))
    return options
