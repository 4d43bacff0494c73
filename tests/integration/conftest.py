# SPDX-License-Identifier: Apache-2.0
"""Fixtures of what a client may find at the socket, and of the socket that systemd holds."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.cowctl import SECONDS


@pytest.fixture
def silent_socket(public_directory: Path) -> Iterator[socket.socket]:
    """Return the listening socket of a daemon that takes connections and never says a word."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(public_directory / "silent.sock"))
        (public_directory / "silent.sock").chmod(0o666)
        listener.listen()
        listener.settimeout(SECONDS)
        yield listener


@pytest.fixture
def handed_over(public_directory: Path) -> Iterator[socket.socket]:
    """Return a listening socket to hand to one daemon after the other, as systemd does."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(public_directory / "handed-over.sock"))
        (public_directory / "handed-over.sock").chmod(0o666)
        listener.listen()
        yield listener
