# SPDX-License-Identifier: Apache-2.0
"""`cowctl doctor` as user nobody: with a daemon, without one, and with one that is of no use."""

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from harness.cowctl import SAY_MODULES, SECONDS, Ended, RunCowctl, run_code
from harness.daemon import Daemon
from harness.programs import GAMES, NOBODY, environment
from harness.schemas import verify_json


def test_doctor_with_a_daemon(run_cowctl: RunCowctl, daemon: Daemon) -> None:
    ended = run_cowctl("doctor", "-J")
    told = json.loads(ended.out)
    assert (ended.status, ended.err, told["failed_count"]) == (0, "", 0), ended
    found = {check["check"]: check for check in told["checks"]}
    assert told["socket"] == str(daemon.socket_path)
    for name in ("socket", "service", "version", "caller", "page-daemon", "page-local"):
        assert found[name]["result"] == "ok"
    assert "as cowd says" in found["page-local"]["found"]


def test_doctor_without_a_daemon(run_cowctl: RunCowctl, public_directory: Path) -> None:
    ended = run_cowctl("doctor", "-J", socket_path=public_directory / "x")
    told = json.loads(ended.out)
    results = {check["check"]: check["result"] for check in told["checks"]}
    assert (ended.status, ended.err) == (1, "")
    assert (results["socket"], results["service"]) == ("failed", "failed")
    assert (results["pagemap"], results["page-local"]) == ("ok", "ok")


def test_doctor_where_the_socket_is_closed_to_the_caller(
    run_cowctl: RunCowctl, public_directory: Path
) -> None:
    path = public_directory / "closed.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        path.chmod(0o600)
        listener.listen()
        [check] = find_failed(run_cowctl("doctor", "-J", socket_path=path), "connection")
        assert "root:root 0600" in check["found"]
        assert run_cowctl("doctor", socket_path=path, user=GAMES).status == 1
    closed = public_directory / "closed"
    closed.mkdir(mode=0o700)
    [check] = find_failed(run_cowctl("doctor", "-J", socket_path=closed / "x"), "socket")
    assert "closed to you" in check["found"]


def find_failed(ended: Ended, name: str) -> list[dict[str, Any]]:
    """Return the check of that name, if it failed."""
    assert ended.status == 1, ended
    checks = json.loads(ended.out)["checks"]
    return [each for each in checks if (each["check"], each["result"]) == (name, "failed")]


def test_doctor_of_a_caller_that_the_daemon_refuses(daemon: Daemon) -> None:
    command = ["unshare", "--user", sys.executable, "-m", "cowd.cli.main", "doctor", "-J"]
    tried = subprocess.run(
        NOBODY.command(command),
        env={**environment(), "COWD_SOCKET": str(daemon.socket_path)},
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
    )
    verify_json(command, tried.stdout)
    ended = Ended(tried.returncode, tried.stdout, tried.stderr)
    [check] = find_failed(ended, "caller")
    assert "another user namespace" in check["found"]
    results = {each["check"]: each["result"] for each in json.loads(ended.out)["checks"]}
    assert (results["service"], results["user-namespace"]) == ("ok", "warning")


def test_doctor_that_is_not_dumpable(daemon: Daemon) -> None:
    forbid = "import ctypes; ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)"  # PR_SET_DUMPABLE
    ended = run_code(daemon, f"{forbid}{SAY_MODULES}", "doctor", "-J")
    [check] = find_failed(ended, "pagemap")
    assert "not dumpable" in check["found"]
    for name in ("page-daemon", "page-local"):
        [check] = find_failed(ended, name)
        assert "PR_SET_DUMPABLE" in check["found"]


def test_doctor_does_not_wait_for_a_daemon_that_never_answers(
    run_cowctl: RunCowctl, silent_socket: socket.socket
) -> None:
    path = Path(silent_socket.getsockname())
    [check] = find_failed(run_cowctl("doctor", "-J", socket_path=path), "service")
    assert "journalctl -u cowd" in check["next_step"]
