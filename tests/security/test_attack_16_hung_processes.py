# SPDX-License-Identifier: Apache-2.0
"""A process that hangs in exec costs whoever asks about it their deadline, and nobody else.

Every open of such a process's pagemap waits for the lock that exec holds, before any permission is
looked at. An unprivileged user can bring this about with a FUSE file system of their own.
"""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cowdaemon.limits import OPENER_SECONDS
from cowproto.v1 import pageflags_pb2
from harness.cowctl import RunCowctl
from harness.daemon import StartDaemon
from harness.programs import GAMES, CallError, StartCaller, StartSubject
from security.silent_file_system import SilentFileSystem

SLACK_SECONDS = 2.0
"""On top of a deadline, for a machine that is busy with other things."""
ORDINARY_SECONDS = 0.5
"""A call that nothing holds up takes a few milliseconds; held up, OPENER_SECONDS."""
OTHER_CALLS = 50


@pytest.fixture
def silent_file_system(public_directory: Path) -> Iterator[SilentFileSystem]:
    """Return a file system whose file hangs whoever closes it."""
    mount_point = public_directory / "mount"
    mount_point.mkdir()
    try:
        file_system = SilentFileSystem(mount_point)
    except OSError as error:
        pytest.skip(f"no FUSE here: {error}")
    with file_system:
        yield file_system
    assert not any(mount_point.iterdir())
    assert str(mount_point) not in Path("/proc/self/mounts").read_text()


def test_hanging_target(
    start_daemon: StartDaemon,
    start_caller: StartCaller,
    start_subject: StartSubject,
    silent_file_system: SilentFileSystem,
) -> None:
    daemon = start_daemon()
    mine = start_subject("anonymous")
    theirs = start_subject("anonymous", user=GAMES)
    caller = start_caller(socket_path=daemon.socket_path)
    other = start_caller(GAMES, daemon.socket_path)
    address = mine.description["pages"][0]["address"]
    their_address = theirs.description["pages"][0]["address"]
    caller.get_page_flags(mine.pid, address)
    other.get_page_flags(theirs.pid, their_address)
    before = daemon.settled_tree(openers=2, workers=2)

    hanging = start_subject("hanging-exec", silent_file_system.file)
    assert silent_file_system.flushed.wait(SLACK_SECONDS)
    request = pageflags_pb2.GetPageFlagsRequest(pid=hanging.pid, address=0x1000, count=1)
    caller.begin("GetPageFlags", request)
    latencies = []
    for number in range(OTHER_CALLS):
        fresh = start_subject("anonymous", user=GAMES) if number % 10 == 0 else theirs
        started = time.monotonic()
        other.get_page_flags(fresh.pid, fresh.description["pages"][0]["address"])
        latencies.append(time.monotonic() - started)
    with pytest.raises(CallError) as failure:
        caller.finish()
    assert failure.value.outcome == ("DEADLINE_EXCEEDED", "OPEN_TIMED_OUT")
    assert failure.value.seconds < OPENER_SECONDS + SLACK_SECONDS
    assert failure.value.seconds > OPENER_SECONDS / 2
    assert max(latencies) < ORDINARY_SECONDS

    # The next call of the same user works: about one it knows, and about a new one.
    fresh = start_subject("anonymous")
    for subject in (mine, fresh):
        asked = subject.description["pages"][0]["address"]
        assert caller.get_page_flags(subject.pid, asked).state[0]
    after = daemon.settled_tree(openers=2, workers=2)
    assert len(set(after.openers) & set(before.openers)) == 1  # the other one was replaced
    assert set(after.workers) == set(before.workers)


@pytest.mark.parametrize("backend", ["local", "auto"])
def test_hanging_target_without_a_daemon(
    backend: str,
    start_subject: StartSubject,
    silent_file_system: SilentFileSystem,
    run_cowctl: RunCowctl,
) -> None:
    """Who asks the kernel alone has a deadline as well."""
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
    """Whoever has any name cannot keep others from asking about it."""
    hanging = start_subject("hanging-exec", silent_file_system.file)
    assert silent_file_system.flushed.wait(SLACK_SECONDS)
    name = Path(f"/proc/{hanging.pid}/comm").read_text().strip()
    status, _, err = run_cowctl("query", "-C", name)
    assert status == 1
    assert (
        "it hangs in exec or exit" in err or f" {hanging.pid} " in err
    )  # alone, or one of several
