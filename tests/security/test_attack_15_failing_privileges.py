# SPDX-License-Identifier: Apache-2.0
"""Attack 15: have the system calls fail that take on and give up privileges.

Under another seccomp filter, a security module or some limit, capset, setfsuid or setgroups may
fail, or do nothing and say nothing: setfsuid always returns the same. Whoever went on as root would
answer about everybody's processes. So each of them is verified, and the process ends. Here the
kernel itself refuses them.
"""

import errno
import fcntl
from pathlib import Path
from typing import Any

import pytest
from conftest import MakeDirectory
from harness.daemon import Daemon, StartDaemon
from harness.outcomes import DENIED
from harness.programs import GAMES, NOBODY, ROOT_USER, StartCaller, StartSubject

MEMBER = NOBODY._replace(groups=(4711,))
ATTEMPTS = 3
LOST = ("UNAVAILABLE", "")
"""The connection closed: the worker is gone."""
OPENER_LOST = ("UNAVAILABLE", "OPENER_LOST")
REFUSING = f"""
import sys
sys.path.append({str(Path(__file__).parent)!r})
import refused_calls
"""

failures = pytest.mark.parametrize("error", [errno.EPERM, 0], ids=["fails", "does-nothing"])


@failures
@pytest.mark.parametrize(
    ("call", "moment"),
    [
        ("setgroups", "becoming"),
        ("setfsgid", "becoming"),
        ("setfsuid", "becoming"),
        ("capset", "becoming"),
        ("capset", "raising"),
        ("capset", "dropping"),
    ],
)
def test_opener(
    start_daemon: StartDaemon,
    start_caller: StartCaller,
    start_subject: StartSubject,
    call: str,
    moment: str,
    error: int,
) -> None:
    """Its caller gets no answer, also about what is its own; the log says why; nobody is left.

    Seen to fail, for what does nothing, without the look at the ids and groups that came of it, or
    at the capabilities. For what fails as well; where it says so, which setgroups and capset do,
    that had to be passed over, too.
    """
    refused = f"refused_calls.refuse_to_openers({MEMBER.uid}, {call!r}, {error}, {moment!r})"
    daemon = start_daemon(change=REFUSING + refused)
    mine, of_root = start_subject("anonymous"), start_subject("anonymous", user=ROOT_USER)
    theirs = start_subject("anonymous", user=GAMES)
    caller = start_caller(MEMBER, daemon.socket_path)
    other = start_caller(GAMES, daemon.socket_path)
    for _ in range(ATTEMPTS):
        outcome = caller.refused_page_flags(of_root.pid, of_root.address)
        assert outcome in (LOST, OPENER_LOST, DENIED)
        outcome = caller.refused_page_flags(mine.pid, mine.address)
        assert outcome in (LOST, OPENER_LOST)
        assert other.get_page_flags(theirs.pid, theirs.address).state[0]
    caller.close()
    daemon.settled_tree(openers=1, workers=1)  # the other caller's
    assert f"refused {call} to an opener" in daemon.log()
    assert "PrivilegeError" in daemon.log()


@failures
@pytest.mark.parametrize("call", ["capset", "setgroups", "setresgid", "setresuid"])
def test_daemon_does_not_start(make_directory: MakeDirectory, call: str, error: int) -> None:
    """Neither a broker that keeps capabilities, nor a zygote that keeps root's ids or groups.

    Seen to fail, for what does nothing, without the look at what came of it; for what fails, with
    its failure passed over as well.
    """
    log = fail_to_start(
        make_directory(),
        change=f"{REFUSING}refused_calls.refuse({call!r}, {error}, 'the daemon')",
        prefix=("setpriv", "--groups=4711", "--"),
    )
    assert f"refused {call} to the daemon" in log


@pytest.mark.parametrize("lacking", ["setuid", "setgid", "sys_admin"])
def test_daemon_without_a_capability(make_directory: MakeDirectory, lacking: str) -> None:
    """As under a CapabilityBoundingSet= that is too small.

    Seen to fail for SETUID and SETGID as the test before, for SYS_ADMIN without the try of pagemap.
    """
    prefix = ("setpriv", f"--bounding-set=-{lacking}", "--")
    log = fail_to_start(make_directory(), prefix=prefix)
    assert "Traceback" not in log  # but a sentence of the zygote's


def fail_to_start(directory: Path, **options: Any) -> str:
    """Return the log of a daemon that does not start, and leaves nothing."""
    with pytest.raises(AssertionError, match=r"not ready \(exit status 1\)"):
        Daemon(directory, **options).kill()
    verify_nothing_is_left(directory)
    log = (directory / "log").read_text()
    assert log.splitlines()[-1].startswith("cowd: ")
    return log


def verify_nothing_is_left(directory: Path) -> None:
    """Assert that a daemon left no process that could write to its log, and no file."""
    alive = is_open(directory / "log")
    assert not alive
    assert {path.name for path in directory.iterdir()} == {"cowd.toml", "log", "notify", "tmp"}
    assert not any((directory / "tmp").iterdir())


def is_open(path: Path) -> bool:
    """Tell whether any process has a file open: then nobody is granted a lease to write it.

    Not by looking through /proc/PID/fd, which hangs with a process that hangs in exec.
    """
    with path.open("rb") as file:
        try:
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        except BlockingIOError:
            return True
    return False
