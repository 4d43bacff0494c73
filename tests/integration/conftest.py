# SPDX-License-Identifier: Apache-2.0
"""Fixtures that run cowctl as a person does."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from harness.cowctl import SECONDS, Ended, RunCowctl, StartCowctl
from harness.daemon import Daemon
from harness.programs import NOBODY, User, environment


@pytest.fixture
def start_cowctl(daemon: Daemon) -> Iterator[StartCowctl]:
    """Return a function that starts cowctl with pipes for its output."""
    with ExitStack() as stack:

        def start(
            *arguments: str, user: User = NOBODY, socket_path: Path | None = None
        ) -> "subprocess.Popen[bytes]":
            process = subprocess.Popen(
                user.command([sys.executable, "-m", "cowd.cli.main", *arguments]),
                env={**environment(), "COWD_SOCKET": str(socket_path or daemon.socket_path)},
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            stack.callback(process.communicate)
            stack.callback(process.kill)
            return process

        yield start


@pytest.fixture
def run_cowctl(start_cowctl: StartCowctl) -> RunCowctl:
    """Return a function that runs cowctl to its end."""

    def run(*arguments: str, **options: Any) -> Ended:
        process = start_cowctl(*arguments, **options)
        out, err = process.communicate(timeout=SECONDS)
        return Ended(process.returncode, out.decode(), err.decode())

    return run


@pytest.fixture
def silent_socket(public_directory: Path) -> Iterator[socket.socket]:
    """Return the listening socket of a daemon that takes connections and never says a word."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(public_directory / "silent.sock"))
        (public_directory / "silent.sock").chmod(0o666)
        listener.listen()
        listener.settimeout(SECONDS)
        yield listener
