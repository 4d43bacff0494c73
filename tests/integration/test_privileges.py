# SPDX-License-Identifier: Apache-2.0
"""What each process of the daemon may do, as the kernel shows it in /proc.

Who can reach the listeners inside of the workers: tests/security/test_attack_09_*.
"""

import os
import pwd
from pathlib import Path

import pytest
from harness.daemon import Daemon
from harness.processes import Tree, read_listening_sockets, read_socket_inodes, read_status
from harness.programs import DAEMON, GAMES, NOBODY, ROOT_USER, StartCaller

CAPABILITY_BITS = {
    "CAP_DAC_READ_SEARCH": 2,
    "CAP_SETGID": 6,
    "CAP_SETUID": 7,
    "CAP_SYS_PTRACE": 19,
    "CAP_SYS_ADMIN": 21,
}
ALLOWED = sum(1 << bit for bit in CAPABILITY_BITS.values())
SYS_ADMIN = 1 << CAPABILITY_BITS["CAP_SYS_ADMIN"]


@pytest.fixture
def tree(daemon: Daemon, start_caller: StartCaller) -> Tree:
    """Return the processes of a daemon that serves callers of three users."""
    for user in (NOBODY, GAMES, ROOT_USER):
        assert start_caller(user).get_server_info().caller.uid == user.uid
    tree = daemon.tree()
    assert len(tree.zygotes) == 1
    assert len(tree.openers) >= 3
    assert len(tree.workers) >= 3
    return tree


def capabilities_of(pid: int, kind: str) -> int:
    """Return one capability set: "Eff", "Prm", "Inh" or "Amb"."""
    return int(read_status(pid)[f"Cap{kind}"], 16)


def ids_of(pid: int, kind: str) -> list[int]:
    """Return real, effective, saved and file-system ids: of "Uid" or "Gid"."""
    return list(map(int, read_status(pid)[kind].split()))


def test_broker_holds_what_it_needs(tree: Tree) -> None:
    assert ids_of(tree.broker, "Uid") == [0] * 4
    assert capabilities_of(tree.broker, "Prm") & ~ALLOWED == 0
    assert capabilities_of(tree.broker, "Eff") & ~ALLOWED == 0


def test_openers_have_their_callers_ids_and_no_effective_capability(tree: Tree) -> None:
    callers = set()
    for pid in tree.openers:
        *real, file_system = ids_of(pid, "Uid")
        assert real == [0] * 3
        callers.add((file_system, ids_of(pid, "Gid")[3]))
        if file_system:
            assert capabilities_of(pid, "Eff") == 0
            assert capabilities_of(pid, "Prm") == SYS_ADMIN
        assert capabilities_of(pid, "Eff") & SYS_ADMIN == 0
        assert len(os.listdir(f"/proc/{pid}/task")) == 1
    assert callers >= {(user.uid, user.gid) for user in (NOBODY, GAMES, ROOT_USER)}


def test_zygote_and_workers_have_no_privilege(tree: Tree) -> None:
    for pid in (*tree.zygotes, *tree.workers):
        status = read_status(pid)
        assert ids_of(pid, "Uid") == [DAEMON.uid] * 4
        assert ids_of(pid, "Gid") == [pwd.getpwuid(DAEMON.uid).pw_gid] * 4
        assert status["Groups"] == ""
        assert status["NoNewPrivs"] == "1"
        for kind in ("Eff", "Prm", "Inh", "Amb"):
            assert capabilities_of(pid, kind) == 0
        # The files of a process that is not dumpable belong to root.
        assert Path(f"/proc/{pid}/fd").stat().st_uid == 0
    assert len(os.listdir(f"/proc/{tree.zygotes[0]}/task")) == 1


def test_only_the_broker_holds_the_public_listener(daemon: Daemon, tree: Tree) -> None:
    listening = read_listening_sockets()
    (public,) = [inode for inode, path in listening.items() if path == str(daemon.socket_path)]
    assert public in read_socket_inodes(tree.broker)
    for pid in (*tree.zygotes, *tree.openers):
        assert not read_socket_inodes(pid) & set(listening)
    for pid in tree.workers:
        assert public not in read_socket_inodes(pid)


def test_openers_and_zygote_hold_no_client_connection(tree: Tree) -> None:
    for pid in tree.openers:
        assert len(read_socket_inodes(pid)) == 1  # to its worker
    assert len(read_socket_inodes(tree.zygotes[0])) == 1  # to the broker
