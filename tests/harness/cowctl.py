# SPDX-License-Identifier: Apache-2.0
"""cowctl as a process of its own: how it ended, and what code around it may do.

Runs as root in the test process; cowctl runs as user nobody.
"""

import subprocess
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from harness.daemon import Daemon
from harness.programs import NOBODY, environment

SECONDS = 60.0
"""For a command to end: generous, other tests share the machine."""
SAY_MODULES = """
import sys
from cowd.cli.main import main
status = main()
print(*sys.modules, file=sys.stderr)
sys.exit(status)
"""
"""Runs cowctl, and tells its modules on standard error."""


class Ended(NamedTuple):
    """How a command ended, and what it wrote."""

    status: int
    out: str
    err: str


RunCowctl = Callable[..., Ended]
StartCowctl = Callable[..., "subprocess.Popen[Any]"]


def run_code(daemon: Daemon, code: str, *arguments: str) -> Ended:
    """Run Python code as nobody, with these arguments; cowctl's JSON is checked as it ends."""
    from harness.schemas import verify_json  # The booted machines' tests have no jsonschema.

    tried = subprocess.run(
        NOBODY.command([sys.executable, "-c", code, *arguments]),
        env={**environment(), "COWD_SOCKET": str(daemon.socket_path)},
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
    )
    verify_json(arguments, tried.stdout)
    return Ended(tried.returncode, tried.stdout, tried.stderr)
