# SPDX-License-Identifier: Apache-2.0
"""What a caller has with us: of real processes that connected, and changed, or ended since."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from cowdaemon.broker.peers import Credential, Peer
from cowdaemon.system import peercred
from cowdaemon.system.privileges import Capability
from cowdaemon.system.procfs import has_ended
from harness.processes import read_status
from harness.programs import NOBODY
from unit.children import StartConnector

OPTION_WITHOUT_MEANING = 30_000
KEPT = Capability.SYS_PTRACE | Capability.DAC_READ_SEARCH
GONE = (ProcessLookupError, FileNotFoundError)

pytestmark = pytest.mark.usefixtures("nothing_is_left")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: to be another user")
Receive = Callable[[Any], Peer]


@pytest.fixture
def receive() -> Iterator[Receive]:
    """Return a function that makes a peer of who connected, and holds its process."""
    with ExitStack() as stack:

        def receive(connector: Any) -> Peer:
            peer = Peer(connector.client)
            stack.callback(peer.release_process)
            assert peer.hold_process()
            return peer

        yield receive


def own_capabilities() -> Capability:
    return Capability(int(read_status(os.getpid())["CapEff"], 16)) & KEPT


def test_credential_is_that_of_who_connected(
    start_connector: StartConnector, receive: Receive
) -> None:
    connector = start_connector()
    peer = receive(connector)
    assert (peer.pid, peer.uid, peer.gid) == (connector.pid, os.geteuid(), os.getegid())
    credential = peer.read_credential()
    assert (credential.uid, credential.gid) == (os.geteuid(), os.getegid())
    assert credential.groups == tuple(sorted(os.getgroups()))
    assert credential.label == peer.label == peercred.read_label(connector.client)
    assert credential.gids == (os.getegid(), *sorted(os.getgroups()))


@needs_root
def test_label_is_part_of_the_credential(
    start_connector: StartConnector, receive: Receive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two labels are two credentials: their records tell them apart."""
    monkeypatch.setattr(peercred, "read_label", lambda _: b"confined")
    peer = receive(start_connector(*NOBODY.command([])))
    assert peer.label == b"confined"
    expected = Credential(NOBODY.uid, NOBODY.gid, (), Capability(0), b"confined")
    assert peer.read_credential() == expected


@needs_root
@pytest.mark.parametrize(
    ("drop", "expected"),
    [
        ([], KEPT),
        (["setpriv", "--bounding-set=-sys_ptrace"], Capability.DAC_READ_SEARCH),
        (["setpriv", "--bounding-set=-dac_read_search"], Capability.SYS_PTRACE),
        (["setpriv", "--bounding-set=-all"], Capability(0)),
    ],
    ids=["all", "no SYS_PTRACE", "no DAC_READ_SEARCH", "none"],
)
def test_capabilities_of_root_that_count(
    start_connector: StartConnector, receive: Receive, drop: list[str], expected: Capability
) -> None:
    credential = receive(start_connector(*drop)).read_credential()
    assert credential.capabilities == expected & own_capabilities()


@needs_root
def test_capabilities_of_another_uid_count_for_nothing(
    start_connector: StartConnector, receive: Receive
) -> None:
    """It may have executed a setuid program since it connected."""
    keep = ["setpriv", "--inh-caps=+sys_ptrace", "--ambient-caps=+sys_ptrace"]
    connector = start_connector(*keep, *NOBODY.command([])[1:])
    assert int(read_status(connector.pid)["CapEff"], 16) == Capability.SYS_PTRACE
    assert receive(connector).read_credential().capabilities == Capability(0)


@needs_root
def test_root_that_is_root_no_more_has_no_credential(
    start_connector: StartConnector, receive: Receive
) -> None:
    connector = start_connector(then="os.setresuid(65534, 65534, 65534)")
    assert int(read_status(connector.pid)["Uid"].split()[1]) == NOBODY.uid
    with pytest.raises(GONE):
        receive(connector).read_credential()


@needs_root
def test_capabilities_of_root_that_has_ended_are_not_read(
    start_connector: StartConnector, receive: Receive
) -> None:
    """Whatever has its number by now: what is read then may be another's. Here it is our own."""
    connector = start_connector()
    peer = receive(connector)
    peer.pid = os.getpid()
    assert peer.read_credential().capabilities == own_capabilities()
    connector.end()
    with pytest.raises(GONE):
        peer.read_credential()


@needs_root
def test_credential_of_a_user_outlives_its_process(
    start_connector: StartConnector, receive: Receive
) -> None:
    """The pid is asked nothing that gives it something."""
    connector = start_connector(*NOBODY._replace(groups=(4, 5)).command([]))
    peer = receive(connector)
    connector.end()
    assert peer.read_credential() == Credential(NOBODY.uid, NOBODY.gid, (4, 5), Capability(0))


@pytest.mark.parametrize("option", [peercred._SO_PEERPIDFD, OPTION_WITHOUT_MEANING])
def test_process_that_has_ended_is_not_held_or_known_to_have_ended(
    start_connector: StartConnector, monkeypatch: pytest.MonkeyPatch, option: int
) -> None:
    """Newer kernels hand out a pidfd of it even so (6.16)."""
    monkeypatch.setattr(peercred, "_SO_PEERPIDFD", option)
    connector = start_connector()
    connector.end()
    peer = Peer(connector.client)
    is_held = peer.hold_process()
    assert is_held == (peer.pidfd >= 0)
    assert not is_held or has_ended(peer.pidfd)
    assert not is_held or option != OPTION_WITHOUT_MEANING
    peer.release_process()


def test_process_is_let_go_of_once(start_connector: StartConnector) -> None:
    """The number of its pidfd is soon another's."""
    peer = Peer(start_connector().client)
    peer.release_process()  # which it does not hold yet
    assert peer.hold_process()
    held = peer.pidfd
    peer.release_process()
    with open(os.devnull, "rb") as other:
        assert other.fileno() == held
        peer.release_process()
        os.fstat(other.fileno())
