# SPDX-License-Identifier: Apache-2.0
"""An unprivileged program that has the library's local backend; see tests/local_caller.py.

Runs in the test process.
"""

import sys

from harness.daemon import ROOT
from harness.programs import NOBODY, Program

LOCAL_CALLER = ROOT / "tests" / "local_caller.py"


class LocalCaller(Program):
    """The program, of user nobody."""

    def __init__(self) -> None:
        super().__init__(NOBODY.command([sys.executable, str(LOCAL_CALLER)]))
        self.read()

    def ask(
        self, pid: int, address: int, count: int, has_scan: bool = True
    ) -> list[tuple[str, set[str]]]:
        """Return names of state and attributes of pages of one range.

        Without `has_scan` the library does as on a kernel that has no PAGEMAP_SCAN.
        """
        self.write({"pid": pid, "address": address, "count": count, "scan": has_scan})
        answer = self.read()
        return list(zip(answer["states"], map(set, answer["attributes"]), strict=True))

    def create(self, kind: str, *arguments: str) -> dict[str, object]:
        """Make the pages of a kind of subjects.py in the program itself."""
        self.write({"create": kind, "arguments": arguments})
        return self.read()
