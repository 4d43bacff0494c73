# SPDX-License-Identifier: Apache-2.0
"""What the broker makes of its limits, and of a kernel that does not tell a pidfd's namespaces.

Real daemons, configured with what is to be tried: small limits, short times.
"""

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import pytest
from cowdaemon.limits import WORKER_IDLE_SECONDS
from harness.daemon import Daemon, StartDaemon
from harness.older_kernels import WITHOUT_PLACEMENT
from harness.processes import Departure, read_children, read_status
from harness.programs import GAMES, NOBODY, Caller, CallError, User

SECONDS = 10.0
SOON_SECONDS = WORKER_IDLE_SECONDS / 2
"""For what must not wait until a worker's time is up."""
SERVED, REFUSED, ALL = 2, 1, 4
"""Connections: served and refused for one uid, and in all."""
IDLE_SECONDS = 1

SMALL = f"""
[limits]
connections = {ALL}
connections_per_uid = {SERVED}
workers = 2
workers_per_uid = 1
"""
FEW_REFUSED = f"""
from cowdaemon import limits
limits.REFUSED_CONNECTIONS_PER_UID = {REFUSED}
"""
"""What no configuration says."""

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it starts the daemon")


@pytest.fixture
def start_sound(start_daemon: StartDaemon) -> Iterator[StartDaemon]:
    """Return a function that starts a daemon which must not raise anything unforeseen."""
    started = []

    def start(**options: str) -> Daemon:
        started.append(start_daemon(**options))
        return started[-1]

    yield start
    for daemon in started:
        daemon.stop()
        assert "Traceback" not in daemon.log()


@pytest.fixture
def small(start_sound: StartDaemon) -> Daemon:
    """A daemon of small limits."""
    return start_sound(config=SMALL, change=FEW_REFUSED)


@pytest.fixture
def short_lived(start_sound: StartDaemon) -> Daemon:
    """A daemon whose workers end soon."""
    return start_sound(config=f"[limits]\nworker_idle_seconds = {IDLE_SECONDS}\n")


@pytest.fixture
def older(start_sound: StartDaemon) -> Daemon:
    """A daemon on a kernel that lacks what came with 6.5 and 6.11."""
    return start_sound(change=WITHOUT_PLACEMENT)


StartClient = Callable[..., Caller]


@pytest.fixture
def call_as() -> Iterator[StartClient]:
    """Return a function that starts a caller: of a daemon, as a user."""
    with ExitStack() as stack:

        def start(daemon: Daemon, user: User = NOBODY, **options: list[str]) -> Caller:
            caller = Caller(user, daemon.socket_path, **options)
            stack.callback(caller.close)
            return caller

        yield start


def served(caller: Caller) -> tuple[int, int]:
    """Return whom the daemon takes a caller for."""
    credential = caller.get_server_info().caller
    return credential.uid, credential.gid


def refused(caller: Caller) -> str:
    """Return the reason why a caller is refused, whatever it asks."""
    with pytest.raises(CallError) as failure:
        caller.get_server_info()
    return failure.value.outcome[1]


def own_page(caller: Caller) -> int:
    """Return the state of a page that the caller has written."""
    page = caller.create("anonymous")["pages"][0]
    return caller.get_page_flags(caller.pid, page["address"]).state[0]


def test_callers_are_placed_without_the_ioctls(older: Daemon, call_as: StartClient) -> None:
    caller = call_as(older)
    assert own_page(caller)
    assert served(caller) == (NOBODY.uid, NOBODY.gid)
    assert own_page(call_as(older, GAMES))
    # Nobody is left who looked.
    assert "cowd-placement" not in [child.name for child in read_children(older.pid)]


def test_connections_that_come_at_once_are_placed_each_for_itself(
    older: Daemon, call_as: StartClient
) -> None:
    callers = [call_as(older, user) for user in (NOBODY, GAMES, NOBODY, GAMES)]
    callers.append(call_as(older, suffix=["unshare", "--user"]))
    for caller in callers:
        caller.begin("GetServerInfo", b"")
    for caller in callers[:-1]:
        assert caller.finish()
    with pytest.raises(CallError) as failure:
        callers[-1].finish()
    assert failure.value.outcome[1] == "FOREIGN_USER_NAMESPACE"


def is_closed(connection: socket.socket) -> bool:
    """Wait for the server to speak first, as it does on HTTP/2, or to close."""
    connection.settimeout(SECONDS)
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


@pytest.fixture
def connect() -> Iterator[Callable[[Daemon], socket.socket]]:
    """Return a function that connects, as root."""
    with ExitStack() as stack:

        def connect(daemon: Daemon) -> socket.socket:
            connection = stack.enter_context(socket.socket(socket.AF_UNIX))
            connection.connect(os.fspath(daemon.socket_path))
            return connection

        yield connect


def wait_until_served(daemon: Daemon, user: User, *refusals: str) -> None:
    """Connect anew until it is answered: the daemon has then heard of what closed before."""
    started = time.monotonic()
    while True:
        with closing(Caller(user, daemon.socket_path)) as caller:
            try:
                assert served(caller) == (user.uid, user.gid)
                return
            except CallError as failure:
                refusal = failure.outcome[1]
        assert refusal in refusals
        assert time.monotonic() < started + SOON_SECONDS


def read_refusals(daemon: Daemon) -> list[tuple[int, str]]:
    """Return of which uids what was put on record."""
    return [(record["COWD_CALLER_UID"], record["COWD_REASON"]) for record in daemon.read_records()]


def test_connections_of_one_uid_are_bounded(small: Daemon, call_as: StartClient) -> None:
    """The next ones read why, and those after them are closed; another user is served."""
    callers = [call_as(small) for _ in range(SERVED + REFUSED + 1)]
    for caller in callers[:SERVED]:
        assert served(caller) == (NOBODY.uid, NOBODY.gid)
    assert refused(callers[SERVED]) == "TOO_MANY_CONNECTIONS"
    with pytest.raises(CallError) as failure:
        callers[-1].get_server_info()
    assert failure.value.outcome == ("UNAVAILABLE", "")
    assert served(call_as(small, GAMES)) == (GAMES.uid, GAMES.gid)
    assert set(read_refusals(small)) == {(NOBODY.uid, "TOO_MANY_CONNECTIONS")}


def test_connections_are_bounded_in_all(
    small: Daemon, connect: Callable[[Daemon], socket.socket], call_as: StartClient
) -> None:
    """What comes after them is closed, even if it is the first of its uid."""
    callers = [call_as(small, user) for user in (NOBODY, NOBODY, GAMES, GAMES)]
    assert len(callers) == ALL
    for caller in callers:
        assert served(caller)
    assert is_closed(connect(small))
    assert read_refusals(small) == [(os.getuid(), "TOO_MANY_CONNECTIONS")]


def test_connection_that_closes_makes_room(small: Daemon, call_as: StartClient) -> None:
    with closing(Caller(NOBODY, small.socket_path)) as first:
        assert served(first)
        assert served(call_as(small))
        with closing(Caller(NOBODY, small.socket_path)) as third:
            assert refused(third) == "TOO_MANY_CONNECTIONS"
    wait_until_served(small, NOBODY, "TOO_MANY_CONNECTIONS")


def test_connection_that_has_been_placed_counts_once(start_sound: StartDaemon) -> None:
    """Not as one that is being placed as well, and not when it has closed."""
    daemon = start_sound(config=SMALL, change=FEW_REFUSED + WITHOUT_PLACEMENT)
    for _ in range(ALL + 1):
        wait_until_served(daemon, NOBODY, "TOO_MANY_CONNECTIONS", "")


def test_refused_connections_take_nobodys_place(small: Daemon, call_as: StartClient) -> None:
    """While they stay open, a connection that closes makes room for one that is served."""
    with closing(Caller(NOBODY, small.socket_path)) as first:
        assert served(first)
        assert served(call_as(small))
        held = call_as(small)
        assert refused(held) == "TOO_MANY_CONNECTIONS"
    wait_until_served(small, NOBODY, "")  # closed without a word, as there is one that is refused
    assert refused(held) == "TOO_MANY_CONNECTIONS"


def test_idle_worker_makes_room_for_another_of_its_uid(small: Daemon) -> None:
    """It ends at once, not when its time is up."""
    with closing(Caller(NOBODY, small.socket_path)) as caller:
        assert served(caller)
        tree = small.tree()
    with Departure([*tree.workers, *tree.openers]) as departure:
        wait_until_served(small, NOBODY._replace(gid=4711), "TOO_MANY_CREDENTIALS")
        assert departure.wait(SOON_SECONDS) == []


def read_served(daemon: Daemon) -> list[int]:
    """Return the uids that there are openers for, each as long as its worker."""
    return sorted(int(read_status(pid)["Uid"].split()[3]) for pid in daemon.tree().openers)


def test_worker_that_has_been_idle_longest_makes_room(small: Daemon) -> None:
    """Which is not the one that was made first."""
    for user in NOBODY, GAMES, NOBODY:
        with closing(Caller(user, small.socket_path)) as caller:
            assert served(caller)
    assert read_served(small) == [GAMES.uid, NOBODY.uid]
    another = User("another", 4711, 4711)
    wait_until_served(small, another)
    small.settled_tree(openers=2, workers=2)
    assert read_served(small) == [another.uid, NOBODY.uid]


def test_credential_without_room_is_told_so(small: Daemon, call_as: StartClient) -> None:
    """The worker of the uid, and then all workers, have connections: none is ended for it."""
    first, second = call_as(small), call_as(small, GAMES)
    assert served(first)
    assert refused(call_as(small, NOBODY._replace(gid=4711))) == "TOO_MANY_CREDENTIALS"
    assert served(second)
    assert refused(call_as(small, User("another", 4711, 4711))) == "TOO_MANY_CREDENTIALS"
    assert served(first)
    assert served(second)
    reason = "TOO_MANY_CREDENTIALS"
    assert read_refusals(small) == [(NOBODY.uid, reason), (4711, reason)]


def test_idle_worker_ends_with_its_opener_and_a_busy_one_does_not(
    short_lived: Daemon, call_as: StartClient
) -> None:
    busy = call_as(short_lived, GAMES)
    assert served(busy)
    before = short_lived.tree().pids
    with closing(Caller(NOBODY, short_lived.socket_path)) as idle:
        assert served(idle)
        of_idle = set(short_lived.tree().pids) - set(before)
    assert len(of_idle) == 2
    with Departure(of_idle) as departure, Departure(before) as of_busy:
        assert departure.wait(SECONDS) == []
        assert of_busy.wait(0) == sorted(before)
    assert served(busy)


def test_refusing_worker_is_one_for_all_and_ends_too(short_lived: Daemon) -> None:
    callers = [
        Caller(user, short_lived.socket_path, suffix=["unshare", "--user"])
        for user in (NOBODY, GAMES)
    ]
    with ExitStack() as stack:
        for caller in callers:
            stack.callback(caller.close)
            assert refused(caller) == "FOREIGN_USER_NAMESPACE"
        assert read_refusals(short_lived) == [
            (user.uid, "FOREIGN_USER_NAMESPACE") for user in (NOBODY, GAMES)
        ]
        tree = short_lived.tree()
        assert tree.openers == ()
        (refusing,) = tree.workers
        departure = stack.enter_context(Departure([refusing]))
        for caller in callers:
            caller.close()
        assert departure.wait(SECONDS) == []
