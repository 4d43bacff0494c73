# SPDX-License-Identifier: Apache-2.0
"""How the daemon starts, by hand and by systemd's protocol, and how it ends."""

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import MakeDirectory
from cowdaemon.limits import WORKER_IDLE_SECONDS
from cowproto.v1 import pageflags_pb2
from harness.daemon import ROOT, START_SECONDS, Daemon, NotStartedError, StartDaemon
from harness.processes import Departure
from harness.programs import NOBODY, Caller, StartCaller, StartSubject, Subject, environment

CALL_SECONDS = 0.5
"""For a call to get from a client to the opener, which takes a few milliseconds."""
SLACK_SECONDS = 3.0
ZYGOTE_SAID_WHY = "cowd: the zygote did not start: what it wrote above says why"
PIDS_ALONE = 'mount -t proc -o subset=pid proc /proc && exec "$@"'
"""As ProcSubset=pid in a unit."""


def ask(caller: Caller, subject: Subject) -> int:
    """Return the state of the subject's first page."""
    address = subject.description["pages"][0]["address"]
    return caller.get_page_flags(subject.pid, address).state[0]


class ClosedDaemon(Daemon):
    """A daemon whose code lies where root alone can read, as in a checkout below /root."""

    def environment(self) -> dict[str, str]:
        closed = self.directory / "closed"
        closed.mkdir(mode=0o700)
        shutil.copytree(ROOT / "daemon", closed / "daemon")
        path = os.pathsep.join([str(closed / "daemon"), str(ROOT / "proto")])
        return {**super().environment(), "PYTHONPATH": path}


def test_code_that_the_user_of_the_workers_cannot_read(
    make_directory: MakeDirectory, start_caller: StartCaller, start_subject: StartSubject
) -> None:
    """All that they need is there before they lose their rights: they read no file."""
    daemon = ClosedDaemon(make_directory())
    try:
        caller = start_caller(socket_path=daemon.socket_path)
        assert ask(caller, start_subject("anonymous")) == pageflags_pb2.PAGE_STATE_ANON
    finally:
        daemon.stop()


def test_start_and_stop_leave_nothing(
    start_daemon: StartDaemon, start_caller: StartCaller, start_subject: StartSubject
) -> None:
    daemon = start_daemon()
    mode = daemon.socket_path.stat().st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o666
    caller = start_caller(NOBODY, daemon.socket_path)
    assert ask(caller, start_subject("anonymous"))
    daemon.stop()  # verifies it
    assert "Traceback" not in daemon.log()


def test_stop_lets_a_call_in_flight_finish(
    start_daemon: StartDaemon, start_caller: StartCaller, start_subject: StartSubject
) -> None:
    daemon = start_daemon()
    known, asked = start_subject("anonymous"), start_subject("anonymous")
    caller = start_caller(NOBODY, daemon.socket_path)
    assert ask(caller, known)
    (opener,) = daemon.tree().openers
    os.kill(opener, signal.SIGSTOP)
    address = asked.description["pages"][0]["address"]
    request = pageflags_pb2.GetPageFlagsRequest(pid=asked.pid, address=address, count=1)
    caller.begin("GetPageFlags", request)
    time.sleep(CALL_SECONDS)  # nothing outside shows that the worker now waits for its opener
    os.kill(daemon.pid, signal.SIGTERM)
    assert daemon.stays(CALL_SECONDS)  # which is longer than what has been answered takes
    os.kill(opener, signal.SIGCONT)
    response = pageflags_pb2.GetPageFlagsResponse.FromString(caller.finish())
    assert list(response.state) == [pageflags_pb2.PAGE_STATE_ANON]
    daemon.stop()


def test_service_manager_that_is_away_ends_nobody(
    start_daemon: StartDaemon, start_caller: StartCaller, start_subject: StartSubject
) -> None:
    """What systemd does not hear, because it executes itself anew, must not end the daemon."""
    daemon = start_daemon()
    daemon.close_notifications()
    subject = start_subject("anonymous")
    for _ in range(3):
        assert ask(start_caller(NOBODY, daemon.socket_path), subject)


def test_stop_with_an_idle_client_is_quick(
    start_daemon: StartDaemon, start_caller: StartCaller, start_subject: StartSubject
) -> None:
    """A connection without a call does not hold the daemon up for limits.DRAIN_SECONDS."""
    daemon = start_daemon()
    assert ask(start_caller(NOBODY, daemon.socket_path), start_subject("anonymous"))
    started = time.monotonic()
    daemon.stop()
    assert time.monotonic() - started < SLACK_SECONDS


@pytest.mark.slow
def test_idle_worker_ends_with_its_opener(
    start_daemon: StartDaemon, start_subject: StartSubject
) -> None:
    daemon = start_daemon()
    subject = start_subject("anonymous")
    caller = Caller(NOBODY, daemon.socket_path)
    assert ask(caller, subject)
    tree = daemon.tree()
    with Departure([*tree.workers, *tree.openers]) as departure:
        caller.close()
        assert len(departure.wait(WORKER_IDLE_SECONDS / 2)) == 2
        assert departure.wait(WORKER_IDLE_SECONDS / 2 + SLACK_SECONDS) == []
    daemon.settled_tree(openers=0, workers=0)
    caller = Caller(NOBODY, daemon.socket_path)
    assert ask(caller, subject)
    caller.close()


def test_listener_of_systemd_is_taken_and_left_alone(
    start_daemon: StartDaemon,
    start_caller: StartCaller,
    start_subject: StartSubject,
    public_directory: Path,
) -> None:
    path = public_directory / "handed-over.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        path.chmod(0o666)
        listener.listen()
        daemon = start_daemon(listener=listener, socket_path=path)
        subject = start_subject("anonymous")
        assert ask(start_caller(NOBODY, path), subject)
        daemon.stop()
        assert path.exists()  # systemd's, which goes on listening
        start_daemon(listener=listener, socket_path=path)
        assert ask(start_caller(NOBODY, path), subject)


def test_who_waits_for_a_daemon_that_cannot_run_is_turned_away(
    start_daemon: StartDaemon, handed_over: socket.socket, start_caller: StartCaller
) -> None:
    """Or systemd would start it again for them, and again. Seen to fail without turn_away()."""
    path = Path(handed_over.getsockname())
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(os.fspath(path))
        with pytest.raises(NotStartedError, match="workers must be") as failure:
            start_daemon(listener=handed_over, socket_path=path, config="[limits]\nworkers = 0\n")
        assert failure.value.exit_status == 1
        client.settimeout(SLACK_SECONDS)
        assert client.recv(1) == b""
    start_daemon(listener=handed_over, socket_path=path)
    assert start_caller(NOBODY, path).get_server_info()


def test_defect_is_told_from_what_an_administrator_has_to_change(
    make_directory: MakeDirectory,
) -> None:
    """By an exit status of its own, after which the unit has systemd start cowd again."""
    change = "import cowdaemon.main\ncowdaemon.main.read_settings = lambda path: 1 // 0\n"
    with pytest.raises(NotStartedError, match="ZeroDivisionError") as failure:
        Daemon(make_directory(), change=change)
    assert failure.value.exit_status == 70


def run_cowd(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a command that ends by itself."""
    return subprocess.run(
        command,
        env=environment(),
        cwd="/",
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
        check=False,
    )


def test_not_root_is_told_so(public_directory: Path) -> None:
    path = public_directory / "cowd.sock"
    command = [sys.executable, "-m", "cowdaemon.main", "--socket", str(path)]
    ended = run_cowd(*NOBODY.command(command))
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert ended.stderr.startswith("cowd: ")
    assert "root" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert not path.exists()


def test_unknown_user_is_told_so(public_directory: Path) -> None:
    path = public_directory / "cowd.sock"
    command = [sys.executable, "-m", "cowdaemon.main", "--socket", str(path), "--user", "nosuch"]
    ended = run_cowd(*command)
    assert ended.returncode == 1
    assert "nosuch" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_second_daemon_on_one_socket_is_refused(
    start_daemon: StartDaemon, start_caller: StartCaller, start_subject: StartSubject
) -> None:
    daemon = start_daemon()
    command = [sys.executable, "-m", "cowdaemon.main", "--user", "daemon"]
    ended = run_cowd(*command, "--socket", str(daemon.socket_path))
    assert ended.returncode == 1
    assert str(daemon.socket_path) in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert ask(start_caller(NOBODY, daemon.socket_path), start_subject("anonymous"))


@pytest.mark.parametrize(
    ("prefix", "why"),
    [
        (
            ["unshare", "--mount", "/bin/sh", "-c", PIDS_ALONE, "sh"],
            "cowd: /proc/kpageflags is missing: ",
        ),
        (["unshare", "--user", "--map-root-user"], "cowd: /proc/self/pagemap shows no frame "),
        (["setpriv", "--bounding-set=-sys_admin"], "cowd: /proc/self/pagemap shows no frame "),
    ],
    ids=["proc subset", "user namespace", "no SYS_ADMIN"],
)
def test_kernel_that_does_not_show_it_what_it_needs(
    make_directory: MakeDirectory, prefix: list[str], why: str
) -> None:
    """It ends at once, leaves nothing, and says what to do."""
    directory = make_directory()
    command = [sys.executable, "-m", "cowdaemon.main", "--user", "daemon"]
    ended = run_cowd(*prefix, *command, "--socket", str(directory / "cowd.sock"))
    assert ended.returncode == 1
    assert ended.stdout == ""
    said, conclusion = ended.stderr.splitlines()
    assert said.startswith(why)
    assert conclusion == ZYGOTE_SAID_WHY
    assert list(directory.iterdir()) == []
