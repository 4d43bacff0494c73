# SPDX-License-Identifier: Apache-2.0
"""Who connected, read from real connections of real processes."""

import errno
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from cowdaemon.broker import peers as module
from cowdaemon.broker.namespaces import can_place_by_pidfd, place_by_pidfd
from cowdaemon.broker.peers import (
    has_ended,
    open_peer,
    read_capabilities,
    read_groups,
    read_peer_ids,
    read_status,
)
from cowdaemon.system.privileges import Capability
from cowdaemon.system.processes import fork_child
from cowdaemon.errors import Reason
from harness.programs import NOBODY

GROUPS = tuple(range(70_000, 70_300))
"""More than Python's getsockopt() has room for."""
SECONDS = 10.0
OPTION_WITHOUT_MEANING = 30_000

# Connects, says so, and stays until its input ends.
CONNECT = """
import socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.connect(sys.argv[1])
print("connected", flush=True)
sys.stdin.read()
"""

pytestmark = [
    pytest.mark.usefixtures("nothing_is_left"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: to be another user")


class Peer:
    """A process that has connected, and our end of its connection."""

    def __init__(self, process: subprocess.Popen[bytes], client: socket.socket) -> None:
        self.process = process
        self.pid = process.pid
        self.client = client

    def end(self) -> None:
        """Let it end, and reap it."""
        self.process.communicate()


StartPeer = Callable[..., Peer]


@pytest.fixture
def start_peer(tmp_path: Path) -> Iterator[StartPeer]:
    """Return a function that starts a process which connects, by a command that runs it."""
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(folder.stat().st_mode | 0o711)
    with ExitStack() as stack:
        listening = stack.enter_context(socket.socket(socket.AF_UNIX))
        listening.bind(os.fspath(tmp_path / "sock"))
        (tmp_path / "sock").chmod(0o666)
        listening.listen()
        listening.settimeout(SECONDS)

        def start(*command: str) -> Peer:
            process = subprocess.Popen(
                [*command, sys.executable, "-I", "-c", CONNECT, str(tmp_path / "sock")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                cwd="/",
            )
            stack.enter_context(process)
            assert process.stdout
            assert process.stdout.readline() == b"connected\n"
            peer = Peer(process, stack.enter_context(listening.accept()[0]))
            stack.callback(process.kill)
            return peer

        yield start


def test_ids_are_those_of_who_connected(start_peer: StartPeer) -> None:
    peer = start_peer()
    assert read_peer_ids(peer.client) == (peer.pid, os.geteuid(), os.getegid())
    peer.end()
    assert read_peer_ids(peer.client) == (peer.pid, os.geteuid(), os.getegid())


def test_own_groups_are_told_in_ascending_order(start_peer: StartPeer) -> None:
    assert read_groups(start_peer().client) == tuple(sorted(os.getgroups()))


@needs_root
@pytest.mark.parametrize("groups", [(), (7,), (9, 8), GROUPS[::-1]], ids=len)
def test_ids_and_groups_of_another_user(start_peer: StartPeer, groups: tuple[int, ...]) -> None:
    option = f"--groups={','.join(map(str, groups))}" if groups else "--clear-groups"
    peer = start_peer("setpriv", f"--reuid={NOBODY.uid}", "--regid=12345", option)
    assert read_peer_ids(peer.client) == (peer.pid, NOBODY.uid, 12345)
    assert read_groups(peer.client) == tuple(sorted(groups))
    peer.end()
    assert read_groups(peer.client) == tuple(sorted(groups))


@needs_root
def test_saved_ids_are_no_authority(start_peer: StartPeer) -> None:
    """The effective ones are, as at a setuid program's start."""
    peer = start_peer("setpriv", f"--ruid={NOBODY.uid}", "--euid=12345", "--clear-groups")
    assert read_peer_ids(peer.client)[1] == 12345


def test_groups_of_what_is_no_unix_socket_raise() -> None:
    with socket.socket(socket.AF_INET) as other, pytest.raises(OSError, match="SO_PEERGROUPS"):
        read_groups(other)


@pytest.mark.parametrize("option", [module._SO_PEERPIDFD, OPTION_WITHOUT_MEANING])
def test_peer_is_held_by_a_pidfd(
    start_peer: StartPeer, monkeypatch: pytest.MonkeyPatch, option: int
) -> None:
    """Also where the kernel lacks SO_PEERPIDFD, as before 6.5."""
    monkeypatch.setattr(module, "_SO_PEERPIDFD", option)
    peer = start_peer()
    pidfd = open_peer(peer.client, peer.pid)
    try:
        assert f"Pid:\t{peer.pid}\n" in Path(f"/proc/self/fdinfo/{pidfd}").read_text()
        assert not os.get_inheritable(pidfd)
    finally:
        os.close(pidfd)


@pytest.mark.parametrize("option", [module._SO_PEERPIDFD, OPTION_WITHOUT_MEANING])
def test_peer_that_has_ended_has_no_place(
    start_peer: StartPeer, monkeypatch: pytest.MonkeyPatch, option: int
) -> None:
    """Newer kernels hand out a pidfd of it even so (6.16): then its namespaces are gone."""
    monkeypatch.setattr(module, "_SO_PEERPIDFD", option)
    peer = start_peer()
    peer.end()
    try:
        pidfd = open_peer(peer.client, peer.pid)
    except ProcessLookupError:
        return
    try:
        assert has_ended(pidfd)
        assert not can_place_by_pidfd() or place_by_pidfd(pidfd) is Reason.CALLER_GONE
        with pytest.raises((ProcessLookupError, FileNotFoundError)):
            read_capabilities(peer.pid, pidfd)
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

    class Connection:
        def getsockopt(self, *_: int) -> bytes:
            raise OSError(error, os.strerror(error))

    with pytest.raises(raised) as failure:
        open_peer(Connection(), os.getpid())  # type: ignore[arg-type]
    assert isinstance(failure.value, ProcessLookupError) == (raised is ProcessLookupError)


@pytest.mark.parametrize("pid", [0, -1])
def test_peer_outside_of_our_pid_namespace_raises(
    monkeypatch: pytest.MonkeyPatch, pid: int
) -> None:
    """It has no number here, and 0 and -1 would mean others."""
    monkeypatch.setattr(module, "_SO_PEERPIDFD", OPTION_WITHOUT_MEANING)
    left, right = socket.socketpair()
    with left, right, pytest.raises(ProcessLookupError):
        open_peer(left, pid)


KEPT = Capability.SYS_PTRACE | Capability.DAC_READ_SEARCH


@needs_root
@pytest.mark.parametrize(
    ("drop", "expected"),
    [
        ([], KEPT),
        (["--bounding-set=-sys_ptrace"], Capability.DAC_READ_SEARCH),
        (["--bounding-set=-dac_read_search"], Capability.SYS_PTRACE),
        (["--bounding-set=-all"], Capability(0)),
    ],
    ids=["all", "no SYS_PTRACE", "no DAC_READ_SEARCH", "none"],
)
def test_capabilities_of_root_that_count(
    start_placed: Callable[..., Any], drop: list[str], expected: Capability
) -> None:
    own = Capability(int(read_status(os.getpid())["CapEff"], 16))
    command = ["setpriv", *drop] if drop else []
    placed = start_placed(*command)
    assert read_capabilities(placed.pid, placed.pidfd) == expected & own


@needs_root
def test_capabilities_of_a_peer_that_is_root_no_more_are_not_read(
    start_placed: Callable[..., Any],
) -> None:
    placed = start_placed(*NOBODY.command([]))
    with pytest.raises(ProcessLookupError):
        read_capabilities(placed.pid, placed.pidfd)


def test_capabilities_of_a_peer_that_has_ended_are_not_read() -> None:
    """Whatever has its number by now: what is read then may be another's."""
    ended = fork_child("cowd-test", lambda: None, keep=[])
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
    assert has_ended(ended.pidfd)
    with pytest.raises(ProcessLookupError):
        read_capabilities(os.getpid(), ended.pidfd)
    ended.reap()


def test_process_that_lives_has_not_ended(start_placed: Callable[..., Any]) -> None:
    assert not has_ended(start_placed().pidfd)


def test_status_of_a_process_whose_name_may_be_anything() -> None:
    """It is the first line of its status, with what would break lines escaped."""
    name = b"a:\tb\nUid:\t"
    comm = Path("/proc/self/comm")
    before = comm.read_bytes()
    try:
        comm.write_bytes(name)
        status = read_status(os.getpid())
    finally:
        comm.write_bytes(before.rstrip(b"\n"))
    assert status["Uid"].split()[1] == str(os.geteuid())
