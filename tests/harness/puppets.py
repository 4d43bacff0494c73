# SPDX-License-Identifier: Apache-2.0
"""A process of a user that does to its memory what a test tells it; see tests/kernel/puppet.py.

Runs in the test process.
"""

import sys
from typing import NamedTuple

from harness.daemon import ROOT
from harness.programs import NOBODY, Program, User

PUPPET = ROOT / "tests" / "kernel" / "puppet.py"


class Mapped(NamedTuple):
    """Where a mapping is."""

    pid: int
    address: int


class Puppet(Program):
    """The process; it has one mapping at a time.

    Args:
        user: whose it is.
        interpreter: of Python, after which the process is named.
    """

    def __init__(self, user: User = NOBODY, interpreter: str = sys.executable) -> None:
        super().__init__(user.command([interpreter, str(PUPPET)]))

    def map_pages(
        self, place: str | None, pages: int, private: bool = True, populate: bool = False
    ) -> Mapped:
        """Have it map a fresh file in a directory, a "memfd", or anonymous memory (None)."""
        options = {"directory": place, "private": private, "pages": pages, "populate": populate}
        self.write({"map": options})
        return Mapped(**self.read())

    def do(self, action: str, first: int, count: int) -> int:
        """Have it act; return whether the kernel did, or of a fork the pid."""
        self.write({"do": [[action, first, count]]})
        (done,) = self.read()["done"]
        return int(done)

    def clear(self) -> None:
        """Have it let go of the mapping."""
        self.write({"clear": True})
        self.read()
