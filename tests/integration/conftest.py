# SPDX-License-Identifier: Apache-2.0
"""Fixtures of what a client may find at the socket, and of the socket that systemd holds."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.cowctl import SECONDS


def listen(path: Path) -> socket.socket:
    """Return a socket that everybody may connect to."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    path.chmod(0o666)
    listener.listen()
    return listener


@pytest.fixture
def silent_socket(public_directory: Path) -> Iterator[socket.socket]:
    """Return the listening socket of a daemon that takes connections and never says a word."""
    with listen(public_directory / "silent.sock") as listener:
        listener.settimeout(SECONDS)
        yield listener


@pytest.fixture
def handed_over(public_directory: Path) -> Iterator[socket.socket]:
    """Return a listening socket to hand to one daemon after the other, as systemd does."""
    with listen(public_directory / "handed-over.sock") as listener:
        yield listener
