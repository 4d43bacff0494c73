# SPDX-License-Identifier: Apache-2.0
"""Attack 5: connect, and be somebody else, or nobody, by the time that anybody looks.

Whoever connected is who the kernel says connected: uid, gid and groups as they were then. That
process may have ended and left the connection to a child, or have executed a setuid program, which
makes it root in everything but its real uid. The broker is stopped while that happens, so that it
accepts afterwards.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from harness.connectors import CAT, Connector, StartConnector, broker_stopped
from harness.daemon import StartDaemon
from harness.older_kernels import WITHOUT_PLACEMENT
from harness.outcomes import CALLER_GONE, DENIED
from harness.processes import read_status
from harness.programs import NOBODY, ROOT_USER, StartSubject

CAP_SYS_ADMIN = 21
CAP_SYS_PTRACE = 19
MEMBER = NOBODY._replace(groups=(7, 4711))


@pytest.fixture
def start_connector(public_directory: Path) -> Iterator[StartConnector]:
    """Return a function that starts a connector, with the arguments of Connector."""
    with ExitStack() as stack:

        def start(*arguments: object, **options: object) -> Connector:
            user, socket_path, *rest = arguments
            relay_path = public_directory / "relay"
            connector = Connector(user, socket_path, relay_path, *rest, **options)  # type: ignore[arg-type]
            stack.callback(connector.kill)
            return connector

        yield start


@pytest.fixture(params=["cat", "su"])
def setuid_program(request: pytest.FixtureRequest) -> Path:
    """Return a setuid-root program that stays for as long as its input does."""
    if request.param == "cat":
        return Path(request.getfixturevalue("setuid_cat"))
    program = shutil.which("su")
    if not program:
        pytest.skip("no su")
    return Path(program)


def verify_is_root(pid: int) -> None:
    """Assert that nobody's process runs as root, with all that helps to inspect others."""
    status = read_status(pid)
    capabilities = int(status["CapEff"], 16)
    assert status["Uid"].split()[:2] == [str(NOBODY.uid), "0"]
    assert capabilities >> CAP_SYS_PTRACE & capabilities >> CAP_SYS_ADMIN & 1


def test_connector_that_executes_a_setuid_program(
    start_daemon: StartDaemon,
    start_connector: StartConnector,
    start_subject: StartSubject,
    setuid_program: Path,
) -> None:
    """Seen to fail with a broker that reads the capabilities of any caller, not of uid 0 alone.

    And with one that takes the uid from /proc when it accepts.
    """
    daemon = start_daemon()
    own = start_subject("anonymous")
    with broker_stopped(daemon):
        connector = start_connector(NOBODY, daemon.socket_path, setuid_program)
        verify_is_root(connector.pid)
    info = connector.get_server_info()
    assert (info.caller.uid, info.caller.gid) == (NOBODY.uid, NOBODY.gid)
    assert connector.refused_page_flags(os.getpid(), 0x1000) == DENIED
    assert connector.refused_page_flags(connector.pid, 0x1000) == DENIED
    assert connector.get_page_flags(own.pid, own.address).state[0]


def test_connector_that_executes_a_setuid_program_on_an_older_kernel(
    start_daemon: StartDaemon, start_connector: StartConnector, setuid_cat: Path
) -> None:
    """There it is no more whom the kernel names, as a reused pid would not be.

    Seen to fail without place_by_proc's comparison of the uids.
    """
    daemon = start_daemon(change=WITHOUT_PLACEMENT)
    with broker_stopped(daemon):
        connector = start_connector(NOBODY, daemon.socket_path, setuid_cat)
        verify_is_root(connector.pid)
    assert connector.refused_page_flags(os.getpid(), 0x1000) == CALLER_GONE


def test_connector_that_is_root_but_for_a_moment(
    start_daemon: StartDaemon, start_connector: StartConnector, start_subject: StartSubject
) -> None:
    """It connects with the ids of another user, and is root before and after; so is its child.

    Seen to fail with a broker that takes the uid from /proc when it accepts, and with one that
    reads the capabilities of any caller.
    """
    daemon = start_daemon()
    own, of_root = start_subject("anonymous"), start_subject("anonymous", user=ROOT_USER)
    with broker_stopped(daemon):
        connector = start_connector(ROOT_USER, daemon.socket_path, CAT, connected_as=MEMBER)
        assert read_status(connector.pid)["Uid"].split() == ["0"] * 4
    caller = connector.get_server_info().caller
    assert (caller.uid, caller.gid) == (MEMBER.uid, MEMBER.gid)
    assert tuple(caller.groups) == MEMBER.groups
    assert connector.refused_page_flags(of_root.pid, of_root.address) == DENIED
    assert connector.get_page_flags(own.pid, own.address).state[0]


def test_connector_that_ends_once_it_is_accepted(
    start_daemon: StartDaemon, start_connector: StartConnector, start_subject: StartSubject
) -> None:
    """Whoever has the connection then has the connector's authority, neither more nor less.

    Seen to fail with a broker that takes uid, gid or groups from /proc when it accepts.
    """
    daemon = start_daemon()
    own, of_root = start_subject("anonymous"), start_subject("anonymous", user=ROOT_USER)
    with broker_stopped(daemon):
        connector = start_connector(ROOT_USER, daemon.socket_path, CAT, connected_as=MEMBER)
    before = connector.get_server_info().caller
    connector.end()
    after = connector.get_server_info().caller
    assert before == after
    assert (after.uid, after.gid, tuple(after.groups)) == (MEMBER.uid, MEMBER.gid, MEMBER.groups)
    assert connector.refused_page_flags(of_root.pid, of_root.address) == DENIED
    assert connector.get_page_flags(own.pid, own.address).state[0]


@pytest.mark.parametrize("change", ["", WITHOUT_PLACEMENT], ids=["this-kernel", "older-kernel"])
@pytest.mark.parametrize("reaped", [False, True], ids=["zombie", "reaped"])
def test_connector_that_ends_before_it_is_accepted(
    start_daemon: StartDaemon,
    start_connector: StartConnector,
    start_subject: StartSubject,
    change: str,
    reaped: bool,
) -> None:
    """Nobody can tell any more where it lived: it is refused.

    Seen to fail on this kernel with a placement that passes over the error; on an older one, for a
    zombie, without has_ended(), and for a reaped one when its absence is passed over in both
    places, as the peer is held and as it is placed.
    """
    daemon = start_daemon(change=change)
    own = start_subject("anonymous")
    with broker_stopped(daemon):
        connector = start_connector(NOBODY, daemon.socket_path)
        if reaped:
            connector.reap()
        else:
            os.waitid(os.P_PID, connector.pid, os.WEXITED | os.WNOWAIT)
    assert connector.refused_page_flags(os.getpid(), 0x1000) == CALLER_GONE
    assert connector.refused_page_flags(own.pid, own.address) == CALLER_GONE
