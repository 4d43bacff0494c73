# SPDX-License-Identifier: Apache-2.0
"""A zygote that executes statements first: for what this machine cannot show otherwise.

Runs in place of cowdaemon.worker.zygote, as root like that, for a Daemon whose `change` is what
in_zygote() returns. What it forks are real workers.
"""

import os
import sys
from pathlib import Path

STATEMENTS = "COWD_TEST_ZYGOTE"


def in_zygote(statements: str) -> str:
    """Return statements for the broker that have a zygote execute others, and then be one."""
    tests = Path(__file__).resolve().parents[1]
    return f"""
import os
from cowdaemon.broker import zygote
zygote._MODULE = {__name__!r}
os.environ["PYTHONPATH"] += os.pathsep + {str(tests)!r}
os.environ[{STATEMENTS!r}] = {statements!r}
"""


if __name__ == "__main__":
    exec(os.environ.pop(STATEMENTS))
    from cowdaemon.worker import zygote

    zygote.main(sys.argv[1:])
