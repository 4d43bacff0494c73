# SPDX-License-Identifier: Apache-2.0
"""Children of the tests' process: what runs a function, lives in some namespaces, or connects.

The fixtures that start and end them are in conftest.py.
"""

import os
import socket
import subprocess
from collections.abc import Callable
from typing import Any

from harness.processes import read_children

# Connects, does what it was told to, says so, and stays until its input ends.
CONNECT = """
import os, socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.connect(sys.argv[1])
exec(sys.argv[2])
print("connected", flush=True)
sys.stdin.read()
"""


class Placed:
    """A process in some namespaces; `pid` is its number in ours."""

    def __init__(self, *command: str) -> None:
        self.process = subprocess.Popen(
            [*command, "cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
        )
        assert self.process.stdin
        assert self.process.stdout
        try:
            self.process.stdin.write(b"x")
            self.is_there = self.process.stdout.read(1) == b"x"  # in its namespaces by now
        except BrokenPipeError:
            self.is_there = False
        children = read_children(self.process.pid)
        self.pid = children[0].pid if children else self.process.pid
        self.pidfd = os.pidfd_open(self.pid) if self.is_there else -1

    def close(self) -> None:
        self.process.communicate()
        if self.is_there:
            os.close(self.pidfd)


class Connector:
    """A process that has connected, and our end of its connection."""

    def __init__(self, process: subprocess.Popen[bytes], client: socket.socket) -> None:
        self.process = process
        self.pid = process.pid
        self.client = client

    def end(self) -> None:
        """Let it end, and reap it."""
        self.process.communicate()


RunInChild = Callable[[Callable[[], Any]], Any]
"""The fixture run_in_child."""
StartPlaced = Callable[..., Placed]
"""The fixture start_placed."""
StartConnector = Callable[..., Connector]
"""The fixture start_connector."""
