# SPDX-License-Identifier: Apache-2.0
"""Attack 16: ask about a process that hangs in exec, or be one.

Every open of such a process's pagemap, or of its namespaces in /proc, waits for the lock that exec
holds, before any permission is looked at. An unprivileged user can bring this about with a FUSE
file system of their own. It costs whoever asks about it, or has connected as such a process, their
deadline, and nobody else anything.
"""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cowdaemon.limits import OPENER_SECONDS, PLACEMENT_SECONDS
from cowproto.v1 import pageflags_pb2
from harness.connectors import CAT, Connector, broker_stopped
from harness.cowctl import RunCowctl
from harness.daemon import StartDaemon
from harness.older_kernels import WITHOUT_PLACEMENT
from harness.outcomes import CALLER_GONE, TIMED_OUT
from harness.processes import read_children
from harness.programs import (
    GAMES,
    NOBODY,
    ROOT_USER,
    Caller,
    CallError,
    StartCaller,
    StartSubject,
    Subject,
    User,
)
from security.silent_file_system import SilentFileSystem

SLACK_SECONDS = 2.0
"""On top of a deadline, for a machine that is busy with other things."""
ORDINARY_SECONDS = 0.5
"""A call that nothing holds up takes a few milliseconds; held up, OPENER_SECONDS."""
OTHER_CALLS = 50


def measure(caller: Caller, start: Callable[[], Subject]) -> float:
    """Return the longest that a call of somebody else takes, about known and new processes."""
    latencies, subject = [], start()
    for number in range(OTHER_CALLS):
        if number % 10 == 0:
            subject = start()
        started = time.monotonic()
        caller.get_page_flags(subject.pid, subject.address)
        latencies.append(time.monotonic() - started)
    return max(latencies)


def test_hanging_target(
    start_daemon: StartDaemon,
    start_caller: StartCaller,
    start_subject: StartSubject,
    silent_file_system: SilentFileSystem,
) -> None:
    """Seen to fail without the opener's alarm, and with openers that wait for each other."""
    daemon = start_daemon()
    mine = start_subject("anonymous")
    caller = start_caller(socket_path=daemon.socket_path)
    other = start_caller(GAMES, daemon.socket_path)
    caller.get_page_flags(mine.pid, mine.address)
    other.get_server_info()
    before = daemon.settled_tree(openers=2, workers=2)

    hanging = start_subject("hanging-exec", silent_file_system.file)
    assert silent_file_system.flushed.wait(SLACK_SECONDS)
    request = pageflags_pb2.GetPageFlagsRequest(pid=hanging.pid, address=0x1000, count=1)
    caller.begin("GetPageFlags", request)
    latency = measure(other, lambda: start_subject("anonymous", user=GAMES))
    with pytest.raises(CallError) as failure:
        caller.finish()
    assert failure.value.outcome == TIMED_OUT
    assert failure.value.seconds < OPENER_SECONDS + SLACK_SECONDS
    assert failure.value.seconds > OPENER_SECONDS / 2
    assert latency < ORDINARY_SECONDS

    # The next call of the same user works: about one it knows, and about a new one.
    fresh = start_subject("anonymous")
    for subject in (mine, fresh):
        assert caller.get_page_flags(subject.pid, subject.address).state[0]
    after = daemon.settled_tree(openers=2, workers=2)
    assert len(set(after.openers) & set(before.openers)) == 1  # the other one was replaced
    assert set(after.workers) == set(before.workers)


@pytest.mark.parametrize("user", [NOBODY, ROOT_USER], ids=lambda user: user.name)
@pytest.mark.parametrize("change", ["", WITHOUT_PLACEMENT], ids=["this-kernel", "older-kernel"])
def test_hanging_peer(
    start_daemon: StartDaemon,
    start_caller: StartCaller,
    start_subject: StartSubject,
    silent_file_system: SilentFileSystem,
    public_directory: Path,
    change: str,
    user: User,
) -> None:
    """A newer kernel tells where it lives without waiting; on an older one it is not placed.

    Seen to fail, on the older one, with a placement in the broker, and without its alarm.
    """
    daemon = start_daemon(change=change)
    mine = start_subject("anonymous", user=user)
    other = start_caller(GAMES, daemon.socket_path)
    other.get_server_info()
    with broker_stopped(daemon):
        relay_path = public_directory / "relay"
        peer = Connector(user, daemon.socket_path, relay_path, CAT, held=silent_file_system.file)
        assert silent_file_system.flushed.wait(SLACK_SECONDS)
    try:
        request = pageflags_pb2.GetPageFlagsRequest(pid=mine.pid, address=mine.address, count=1)
        peer.begin("GetPageFlags", request)
        latency = measure(other, lambda: start_subject("anonymous", user=GAMES))
        try:
            _, seconds = peer.finish_timed()
            outcome = None
        except CallError as failure:
            outcome, seconds = failure.outcome, failure.seconds
    finally:
        silent_file_system.close()  # it cannot be killed before
        peer.kill()
    assert latency < ORDINARY_SECONDS
    assert outcome == (CALLER_GONE if change else None)
    assert seconds < (PLACEMENT_SECONDS + SLACK_SECONDS if change else ORDINARY_SECONDS)
    children = {child.name for child in read_children(daemon.pid)}
    assert children == {"cowd-zygote", "cowd-opener"}


@pytest.mark.parametrize("backend", ["local", "auto"])
def test_hanging_target_without_a_daemon(
    backend: str,
    start_subject: StartSubject,
    silent_file_system: SilentFileSystem,
    run_cowctl: RunCowctl,
) -> None:
    """Who asks the kernel alone has a deadline as well. Seen to fail without it."""
    hanging = start_subject("hanging-exec", silent_file_system.file)
    assert silent_file_system.flushed.wait(SLACK_SECONDS)
    started = time.monotonic()
    status, out, err = run_cowctl(
        "query", str(hanging.pid), f"--backend={backend}", socket_path=Path("/nowhere")
    )
    assert time.monotonic() - started < OPENER_SECONDS + SLACK_SECONDS
    assert (status, out) == (1, "")
    assert "it hangs in exec or exit. Ask again when it has moved on" in err


def test_hanging_process_is_found_by_its_name(
    start_subject: StartSubject, silent_file_system: SilentFileSystem, run_cowctl: RunCowctl
) -> None:
    """Whoever has any name cannot keep others from asking about it.

    Seen to fail with a search that reads stat, which waits as well.
    """
    hanging = start_subject("hanging-exec", silent_file_system.file)
    assert silent_file_system.flushed.wait(SLACK_SECONDS)
    name = Path(f"/proc/{hanging.pid}/comm").read_text().strip()
    status, _, err = run_cowctl("query", "-C", name)
    assert status == 1
    assert (
        "it hangs in exec or exit" in err or f" {hanging.pid} " in err
    )  # alone, or one of several
