# SPDX-License-Identifier: Apache-2.0
"""The author's method, the tests' second source: a program in C that only root can use."""

import subprocess
from pathlib import Path
from typing import NamedTuple

SOURCE = Path(__file__).parents[1] / "kernel" / "authors_method.c"


class Frame(NamedTuple):
    """What root sees of one page: its pagemap entry and, if it is present, its frame's flags."""

    entry: int
    kpageflags: int | None


class AuthorsMethod:
    """The compiled program.

    Args:
        directory: where it is compiled to.

    Raises:
        FileNotFoundError: there is no gcc.
    """

    def __init__(self, directory: Path) -> None:
        self._program = directory / "authors_method"
        options = ["-std=gnu17", "-O2", "-Wall", "-Wextra", "-Werror"]
        subprocess.run(["gcc", *options, "-o", self._program, SOURCE], check=True)

    def read_frames(self, pid: int, address: int, count: int) -> list[Frame]:
        """Return one Frame for each of `count` pages from `address` of process `pid`."""
        command = [self._program, str(pid), str(address), str(count)]
        lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        words = [line.split() for line in lines.splitlines()]
        return [
            Frame(int(entry, 16), None if flags == "-" else int(flags, 16))
            for entry, flags in words
        ]
