# SPDX-License-Identifier: Apache-2.0
"""What the service manager is told by a real socket, and what becomes of it if nobody listens."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from cowdaemon.system.manager import notify, read_watchdog_seconds

SECONDS = 10.0

pytestmark = pytest.mark.usefixtures("nothing_is_left")


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The manager's end of the socket that a service is told of."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(os.fspath(tmp_path / "notify"))
        listening.settimeout(SECONDS)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield listening


def test_manager_hears_what_it_is_told(
    manager: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    """As often as it is told: the variable stays."""
    for state in "READY=1\nSTATUS=Listening", "WATCHDOG=1":
        notify(state)
        assert manager.recv(4096).decode() == state
    assert caplog.records == []


def test_without_a_manager_nobody_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify("READY=1")
    assert caplog.records == []


def test_manager_that_is_away_is_on_the_log(
    manager: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    manager.close()
    notify("WATCHDOG=1")
    (record,) = caplog.records
    assert "the service manager cannot be told 'WATCHDOG=1'" in record.getMessage()


@pytest.mark.parametrize(
    ("given_up_usec", "told_seconds"), [("30000000", 15.0), ("1", 5e-7), ("0", None), (None, None)]
)
def test_watchdog_is_told_twice_as_often_as_it_wants(
    monkeypatch: pytest.MonkeyPatch, given_up_usec: str | None, told_seconds: float | None
) -> None:
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    if given_up_usec is not None:
        monkeypatch.setenv("WATCHDOG_USEC", given_up_usec)
    assert read_watchdog_seconds() == told_seconds
