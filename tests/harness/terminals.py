# SPDX-License-Identifier: Apache-2.0
"""A terminal that a program runs on, as if a person had started it: keys in, the screen out.

Runs in the test process.
"""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from harness.programs import User

__all__ = ["ALTERNATE_SCREEN", "NORMAL_SCREEN", "Terminal"]

ALTERNATE_SCREEN = "\x1b[?1049h"
NORMAL_SCREEN = "\x1b[?1049l"
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_SECONDS = 30.0
"""For what is awaited: generous, other tests share the machine."""


class Terminal:
    """A terminal of some size with a program on it.

    Args:
        command: the program, with its arguments.
        user: whom it runs as.
        environment: that it has.
        columns, lines: of the terminal.
    """

    def __init__(
        self,
        command: Sequence[str],
        user: User,
        environment: Mapping[str, str],
        columns: int = 80,
        lines: int = 24,
    ) -> None:
        self._ours, theirs = pty.openpty()
        self._resize(theirs, columns, lines)
        self.attributes_before = self.attributes
        self.written = ""
        self.process = subprocess.Popen(
            # Who runs the tests in the background has a shell that ignores Ctrl-C for them.
            user.command(["env", "--default-signal=INT,QUIT", "setsid", "--ctty", *command]),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            cwd="/",
            env={**environment, "TERM": "xterm"},
        )
        os.close(theirs)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)

    @property
    def attributes(self) -> list[Any]:
        """How the terminal treats keys now."""
        return termios.tcgetattr(self._ours)

    @property
    def text(self) -> str:
        """All that was written, without what steers the terminal."""
        return _ESCAPES.sub("", self.written)

    def press(self, keys: str) -> None:
        """Type on it; "\\x03" is Ctrl-C."""
        os.write(self._ours, keys.encode())

    def resize(self, columns: int, lines: int) -> None:
        """Give it another size; the program is told so by a signal."""
        self._resize(self._ours, columns, lines)

    @staticmethod
    def _resize(descriptor: int, columns: int, lines: int) -> None:
        fcntl.ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("4H", lines, columns, 0, 0))

    def read_until(self, pattern: str) -> str:
        """Return what was written since, up to and with what fits a regular expression."""
        start = len(self.written)
        deadline = time.monotonic() + _SECONDS
        while not (found := re.search(pattern, self.written[start:])):
            left = deadline - time.monotonic()
            assert self._read(left), f"no {pattern!r} in {self.written[start:]!r}"
        return self.written[start : start + found.end()]

    def wait(self) -> int:
        """Wait until the program has ended; return its status, below 0 for a signal's number."""
        deadline = time.monotonic() + _SECONDS
        while self._read(deadline - time.monotonic()):
            pass
        return self.process.wait(max(0.0, deadline - time.monotonic()))

    def _read(self, seconds: float) -> bool:
        """Read on; return whether there is a program that writes."""
        readable, _, _ = select.select([self._ours], [], [], max(0.0, seconds))
        try:
            part = os.read(self._ours, 65_536) if readable else b""
        except OSError:  # EIO: nobody has it open any more
            part = b""
        self.written += part.decode(errors="replace")
        return bool(part)
