# SPDX-License-Identifier: Apache-2.0
"""What the tests of several forms need."""

import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest
from cowd.exporters.processes import Process, list_processes


@pytest.fixture
def free_port() -> Iterator[int]:
    """Return a port that nobody listens on, and that nobody else can take meanwhile."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@pytest.fixture
def children() -> Iterator[list[Process]]:
    """Return three processes by their pids, which ascend."""
    started = [
        subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) for _ in "123"
    ]
    pids = {each.pid for each in started}
    yield [each for each in list_processes() if each.identity.pid in pids]
    for process in started:
        process.kill()
        process.communicate()
