# SPDX-License-Identifier: Apache-2.0
"""Who connected, read from real connections of real processes."""

import errno
import os
import socket
from pathlib import Path

import pytest
from cowdaemon.system import peercred as module
from cowdaemon.system.peercred import open_process, read_groups, read_ids, read_label
from cowdaemon.system.procfs import has_ended
from harness.programs import NOBODY
from unit.children import StartConnector

GROUPS = tuple(range(70_000, 70_300))
"""More than Python's getsockopt() has room for."""
OPTION_WITHOUT_MEANING = 30_000

pytestmark = pytest.mark.usefixtures("nothing_is_left")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: to be another user")


class Connection:
    """Answers getsockopt() as kernels do that are not here."""

    def __init__(self, answer: bytes | int) -> None:
        self._answer = answer

    def getsockopt(self, *_: int) -> bytes:
        """Return the answer, or raise it."""
        if isinstance(self._answer, int):
            raise OSError(self._answer, os.strerror(self._answer))
        return self._answer


def test_ids_are_those_of_who_connected(start_connector: StartConnector) -> None:
    connector = start_connector()
    assert read_ids(connector.client) == (connector.pid, os.geteuid(), os.getegid())
    connector.end()
    assert read_ids(connector.client) == (connector.pid, os.geteuid(), os.getegid())


def test_own_groups_are_told_in_ascending_order(start_connector: StartConnector) -> None:
    assert read_groups(start_connector().client) == tuple(sorted(os.getgroups()))


@needs_root
@pytest.mark.parametrize("groups", [(), (7,), (9, 8), GROUPS[::-1]], ids=len)
def test_ids_and_groups_of_another_user(
    start_connector: StartConnector, groups: tuple[int, ...]
) -> None:
    option = f"--groups={','.join(map(str, groups))}" if groups else "--clear-groups"
    connector = start_connector("setpriv", f"--reuid={NOBODY.uid}", "--regid=12345", option)
    assert read_ids(connector.client) == (connector.pid, NOBODY.uid, 12345)
    assert read_groups(connector.client) == tuple(sorted(groups))
    connector.end()
    assert read_groups(connector.client) == tuple(sorted(groups))


@needs_root
def test_saved_ids_are_no_authority(start_connector: StartConnector) -> None:
    """The effective ones are, as at a setuid program's start."""
    connector = start_connector("setpriv", f"--ruid={NOBODY.uid}", "--euid=12345", "--clear-groups")
    assert read_ids(connector.client)[1] == 12345


@needs_root
def test_ids_are_of_when_it_connected(start_connector: StartConnector) -> None:
    connector = start_connector(then="os.setgroups([7]); os.setresgid(8, 8, 8); os.setuid(9)")
    assert read_ids(connector.client) == (connector.pid, os.geteuid(), os.getegid())
    assert read_groups(connector.client) == tuple(sorted(os.getgroups()))


def test_groups_of_what_is_no_unix_socket_raise() -> None:
    with socket.socket(socket.AF_INET) as other, pytest.raises(OSError, match="SO_PEERGROUPS"):
        read_groups(other)


def test_label_is_what_the_security_module_calls_it(start_connector: StartConnector) -> None:
    """Where no module labels processes, it is empty."""
    connector = start_connector()
    try:
        told = Path(f"/proc/{connector.pid}/attr/current").read_bytes().rstrip(b"\0\n")
    except OSError:
        told = b""
    # AppArmor labels every process, but not on every kernel its sockets.
    assert read_label(connector.client) in (told, b"")


@pytest.mark.parametrize(
    ("told", "label"),
    [
        (b"unconfined\0", b"unconfined"),
        (b"system_u:system_r:init_t:s0", b"system_u:system_r:init_t:s0"),
        (errno.ENOPROTOOPT, b""),
    ],
    ids=["AppArmor", "SELinux", "none"],
)
def test_label_as_kernels_tell_it(told: bytes | int, label: bytes) -> None:
    assert read_label(Connection(told)) == label  # type: ignore[arg-type]


def test_label_that_cannot_be_read_raises() -> None:
    with pytest.raises(OSError, match=os.strerror(errno.ERANGE)):
        read_label(Connection(errno.ERANGE))  # type: ignore[arg-type]


@pytest.mark.parametrize("option", [module._SO_PEERPIDFD, OPTION_WITHOUT_MEANING])
def test_peer_is_held_by_a_pidfd(
    start_connector: StartConnector, monkeypatch: pytest.MonkeyPatch, option: int
) -> None:
    """Also where the kernel lacks SO_PEERPIDFD, as before 6.5."""
    monkeypatch.setattr(module, "_SO_PEERPIDFD", option)
    connector = start_connector()
    pidfd = open_process(connector.client, connector.pid)
    try:
        assert f"Pid:\t{connector.pid}\n" in Path(f"/proc/self/fdinfo/{pidfd}").read_text()
        assert not os.get_inheritable(pidfd)
    finally:
        os.close(pidfd)


@pytest.mark.parametrize("option", [module._SO_PEERPIDFD, OPTION_WITHOUT_MEANING])
def test_peer_that_has_ended_is_not_there_or_known_to_have_ended(
    start_connector: StartConnector, monkeypatch: pytest.MonkeyPatch, option: int
) -> None:
    """Newer kernels hand out a pidfd of it even so (6.16)."""
    monkeypatch.setattr(module, "_SO_PEERPIDFD", option)
    connector = start_connector()
    connector.end()
    try:
        pidfd = open_process(connector.client, connector.pid)
    except ProcessLookupError:
        return
    try:
        assert has_ended(pidfd)
    finally:
        os.close(pidfd)


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (errno.ESRCH, ProcessLookupError),
        (errno.EINVAL, ProcessLookupError),
        (errno.ENODATA, ProcessLookupError),
        (errno.EMFILE, OSError),
        (errno.ENOMEM, OSError),
    ],
    ids=lambda value: errno.errorcode[value] if isinstance(value, int) else "",
)
def test_failure_to_hold_a_peer_is_no_end_of_it(error: int, raised: type[OSError]) -> None:
    """The first three are what kernels say of a peer that has ended."""
    with pytest.raises(raised) as failure:
        open_process(Connection(error), os.getpid())  # type: ignore[arg-type]
    assert isinstance(failure.value, ProcessLookupError) == (raised is ProcessLookupError)


@pytest.mark.parametrize("pid", [0, -1])
def test_peer_outside_of_our_pid_namespace_raises(
    monkeypatch: pytest.MonkeyPatch, pid: int
) -> None:
    """It has no number here, and 0 and -1 would mean others."""
    monkeypatch.setattr(module, "_SO_PEERPIDFD", OPTION_WITHOUT_MEANING)
    left, right = socket.socketpair()
    with left, right, pytest.raises(ProcessLookupError):
        open_process(left, pid)
