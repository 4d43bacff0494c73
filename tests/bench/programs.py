# SPDX-License-Identifier: Apache-2.0
"""The programs in C that cowd is compared with: compiled here, run as root; see reading.h."""

import subprocess
from pathlib import Path
from typing import NamedTuple

SOURCES = Path(__file__).parent
OPTIONS = ("-std=gnu17", "-O2", "-Wall", "-Wextra", "-Werror")
COMPILER = "cc"


class Reading(NamedTuple):
    """What one reading took and found; `reads` of kpageflags."""

    seconds: float
    listed: int
    present: int
    anonymous: int
    reads: int


class CProgram:
    """One of them, compiled and running.

    Args:
        name: of its source, without ".c".
        directory: where it is compiled to.

    Raises:
        FileNotFoundError: there is no C compiler.
    """

    def __init__(self, name: str, directory: Path) -> None:
        program = directory / name
        source = SOURCES / f"{name}.c"
        subprocess.run([COMPILER, *OPTIONS, "-o", program, source], check=True)
        self._process = subprocess.Popen(
            [program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def read(self, pid: int, address: int, count: int) -> Reading:
        """Have it read a range once."""
        seconds, *found = self.ask(pid, address, count)
        return Reading(seconds, *map(int, found))

    def ask(self, *numbers: int) -> list[float]:
        """Write a line of numbers, and return those of the line that it answers."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(" ".join(map(str, numbers)) + "\n")
        self._process.stdin.flush()
        words = self._process.stdout.readline().split()
        assert words, f"{self._process.args!r} ended with status {self._process.wait()}"
        return [float(word) for word in words]

    def close(self) -> None:
        """End it."""
        self._process.communicate()
