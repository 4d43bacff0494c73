# SPDX-License-Identifier: Apache-2.0
"""Whoever connects is who the kernel says connected, whatever that process is by now.

The broker is stopped while an unprivileged program connects and then executes a setuid program, so
that by the time of accept the connector is root in everything but its real uid. Its child keeps
the connection and calls on it.
"""

import os
import shutil
from pathlib import Path

import pytest
from harness.connectors import Connector, broker_stopped
from harness.daemon import StartDaemon
from harness.processes import read_status
from harness.programs import NOBODY, StartSubject

CAP_SYS_ADMIN = 21
CAP_SYS_PTRACE = 19


@pytest.fixture(params=["cat", "su"])
def setuid_program(request: pytest.FixtureRequest) -> Path:
    """Return a setuid-root program that stays for as long as its input does."""
    if request.param == "cat":
        return Path(request.getfixturevalue("setuid_cat"))
    program = shutil.which("su")
    if not program:
        pytest.skip("no su")
    return Path(program)


def test_connector_that_executes_a_setuid_program(
    start_daemon: StartDaemon,
    start_subject: StartSubject,
    public_directory: Path,
    setuid_program: Path,
) -> None:
    daemon = start_daemon()
    own = start_subject("anonymous")
    with broker_stopped(daemon):
        connector = Connector(
            NOBODY, daemon.socket_path, public_directory / "relay", setuid_program
        )
        status = read_status(connector.pid)
        capabilities = int(status["CapEff"], 16)
        assert status["Uid"].split()[:2] == [str(NOBODY.uid), "0"]
        assert capabilities >> CAP_SYS_PTRACE & capabilities >> CAP_SYS_ADMIN & 1
    try:
        info = connector.get_server_info()
        assert (info.caller.uid, info.caller.gid) == (NOBODY.uid, NOBODY.gid)
        denied = ("PERMISSION_DENIED", "ACCESS_DENIED")
        assert connector.refused_page_flags(os.getpid(), 0x1000) == denied
        assert connector.refused_page_flags(connector.pid, 0x1000) == denied
        address = own.description["pages"][0]["address"]
        assert connector.get_page_flags(own.pid, address).state[0]
    finally:
        connector.kill()


def test_connector_that_has_ended(start_daemon: StartDaemon, public_directory: Path) -> None:
    daemon = start_daemon()
    with broker_stopped(daemon):
        connector = Connector(NOBODY, daemon.socket_path, public_directory / "relay")
        connector.reap()
    try:
        refused = ("PERMISSION_DENIED", "CALLER_GONE")
        assert connector.refused_page_flags(os.getpid(), 0x1000) == refused
    finally:
        connector.kill()
