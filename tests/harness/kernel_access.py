# SPDX-License-Identifier: Apache-2.0
"""What the kernel itself lets a user open, without any daemon: a program of that user tries.

Runs as root in the test process.
"""

import json
import subprocess
import sys
from collections.abc import Sequence

from harness.programs import User

_TRY = """
import errno, json, os, sys
outcomes = []
for pid in sys.argv[1:]:
    try:
        os.close(os.open(f"/proc/{pid}/pagemap", os.O_RDONLY))
    except OSError as error:
        outcomes.append(errno.errorcode[error.errno])
    else:
        outcomes.append("")
print(json.dumps(outcomes))
"""


def open_pagemaps(user: User, pids: Sequence[int], suffix: Sequence[str] = ()) -> list[str]:
    """Return for each process the name of the error with which its pagemap does not open, or "".

    `suffix` is a command that runs, as the user, the program that tries.
    """
    command = user.command([*suffix, sys.executable, "-I", "-c", _TRY, *map(str, pids)])
    tried = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd="/")
    outcomes: list[str] = json.loads(tried.stdout)
    return outcomes
