# SPDX-License-Identifier: Apache-2.0
"""Attack 9: connect to the gRPC server inside of somebody else's worker.

Whoever reached it would be taken for that worker's caller. All workers run as one user, so no mode
of a file keeps one from another's: the server's socket has no name that leads there, and workers
are closed to each other in /proc.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from harness.daemon import Daemon
from harness.processes import Tree, read_listening_sockets, read_socket_inodes
from harness.programs import DAEMON, GAMES, NOBODY, ROOT_USER, StartCaller, User

WORKER = DAEMON._replace(
    name="worker", options=("--bounding-set=-all", "--inh-caps=-all", "--no-new-privs")
)
"""Whom another worker runs as, and with what."""
ADMITTED = ""
_CONNECT = """
import errno, json, socket, sys
outcomes = []
for address in json.load(sys.stdin):
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(address)
        except OSError as error:
            outcomes.append(errno.errorcode[error.errno])
        else:
            outcomes.append("")
print(json.dumps(outcomes))
"""


def connect_as(user: User, addresses: list[str]) -> dict[str, str]:
    """Return for each address the name of the error with which a connection fails, or ADMITTED."""
    tried = subprocess.run(
        user.command([sys.executable, "-I", "-c", _CONNECT]),
        input=json.dumps(addresses),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        cwd="/",
    )
    return dict(zip(addresses, json.loads(tried.stdout), strict=True))


@pytest.fixture
def tree(daemon: Daemon, start_caller: StartCaller) -> Tree:
    """Return the processes of a daemon that serves callers of two users."""
    for user in (NOBODY, GAMES):
        assert start_caller(user).get_server_info()
    tree = daemon.tree()
    assert len(tree.workers) >= 2
    return tree


def list_names(daemon: Daemon, worker: int) -> list[str]:
    """Return the names that a worker's inner listener has, had, or might have."""
    rooms = daemon.socket_path.with_name(f"{daemon.socket_path.name}.workers")
    listening = read_listening_sockets()
    names = [listening[inode] for inode in read_socket_inodes(worker) & set(listening)]
    assert names
    paths = [*names, *(str(room / Path(name).name) for room in rooms.iterdir() for name in names)]
    paths += [
        f"/proc/{worker}/{way}/{Path(name).name}" for way in ("cwd", "root") for name in names
    ]
    abstract = [*(name.removeprefix("@") for name in names), *paths, str(worker)]
    return [*paths, *(f"\0{name}" for name in abstract)]


def list_descriptors(worker: int) -> list[str]:
    """Return the ways to a worker's descriptors, and from there to the name that it bound."""
    numbers = os.listdir(f"/proc/{worker}/fd")
    tasks = [
        f"/proc/{worker}",
        f"/proc/{worker}/task/{worker}",
        f"/proc/{worker}/root/proc/{worker}",
    ]
    paths = [f"{task}/fd/{number}" for task in tasks for number in numbers]
    return [*paths, *(f"{path}/inner" for path in paths)]


@pytest.mark.parametrize("user", [NOBODY, DAEMON, WORKER, ROOT_USER], ids=lambda user: user.name)
def test_name_of_a_workers_listener_leads_nobody_there(
    daemon: Daemon, tree: Tree, user: User
) -> None:
    """As /proc/net/unix shows it, in the worker's room, or abstract; not even root.

    Seen to fail for everybody with an abstract name; for root with a socket that is not unlinked;
    for the workers' uid with that and rooms that everybody may enter, one of which is enough.
    """
    for worker in tree.workers:
        outcomes = connect_as(user, list_names(daemon, worker))
        assert ADMITTED not in outcomes.values()


@pytest.mark.parametrize("user", [NOBODY, DAEMON, WORKER], ids=lambda user: user.name)
def test_descriptor_of_a_workers_listener_is_closed_to_all_but_root(tree: Tree, user: User) -> None:
    """Seen to fail for the worker's uid with workers that are dumpable."""
    for worker in tree.workers:
        outcomes = connect_as(user, list_descriptors(worker))
        assert set(outcomes.values()) == {"EACCES"}


def test_full_root_gets_there_by_descriptor(tree: Tree) -> None:
    """Not a defence: one of the ways above leads to the listener, if it is open."""
    for worker in tree.workers:
        assert ADMITTED in connect_as(ROOT_USER, list_descriptors(worker)).values()


def test_workers_cannot_be_inspected_by_their_own_user(tree: Tree) -> None:
    """Seen to fail with a zygote, and so workers, that is dumpable."""
    for pid in (*tree.zygotes, *tree.workers):
        ended = subprocess.run(
            WORKER.command(["ls", f"/proc/{pid}/fd"]), capture_output=True, text=True, check=False
        )
        assert ended.returncode != 0
        assert "Permission denied" in ended.stderr


def test_nothing_listens_elsewhere(tree: Tree) -> None:
    """A worker has one listener, and no socket that a network leads to.

    Seen to fail with a worker whose server binds 127.0.0.1, too.
    """
    listening = set(read_listening_sockets())
    of_networks = {
        int(line.split()[9])
        for name in ("tcp", "tcp6", "udp", "udp6")
        if (table := Path(f"/proc/net/{name}")).exists()
        for line in table.read_text().splitlines()[1:]
    }
    for worker in tree.workers:
        sockets = read_socket_inodes(worker)
        assert len(sockets & listening) == 1
        assert not sockets & of_networks
