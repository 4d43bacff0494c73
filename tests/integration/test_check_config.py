# SPDX-License-Identifier: Apache-2.0
"""`cowd --check-config` says what the daemon would do with its settings, to anybody."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from harness.daemon import StartDaemon
from harness.programs import NOBODY, ROOT_USER, User, environment

SECONDS = 30.0


def check(config: Path, user: User) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "cowdaemon.main", "--check-config", "--config", str(config)]
    return subprocess.run(
        user.command(command),
        env=environment(),
        cwd="/",
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


@pytest.fixture
def config(public_directory: Path) -> Path:
    path = public_directory / "cowd.toml"
    path.write_text('[[grant]]\ngroup = "root"\ndetail = "summary"\n[limits]\nworkers = 9\n')
    path.chmod(0o644)
    return path


@pytest.mark.parametrize("user", [ROOT_USER, NOBODY], ids=lambda user: user.name)
def test_all_that_holds_is_printed(config: Path, user: User) -> None:
    checked = check(config, user)
    assert (checked.returncode, checked.stderr) == (0, "")
    printed = tomllib.loads(checked.stdout)
    assert printed["grant"] == [{"group": "root", "detail": "summary", "nice": 0}]
    assert (printed["limits"]["workers"], printed["limits"]["connections"]) == (9, 1024)


@pytest.mark.parametrize("user", [ROOT_USER, NOBODY], ids=lambda user: user.name)
def test_what_is_wrong_is_one_line(config: Path, user: User) -> None:
    config.write_text("[limits]\nworker = 9\n")
    checked = check(config, user)
    assert (checked.returncode, checked.stdout) == (1, "")
    told = f"cowd: {config}:2: 'worker' is not known here: did you mean workers?\n"
    assert checked.stderr == told


def test_file_that_is_closed_to_the_caller(config: Path) -> None:
    config.chmod(0o600)
    checked = check(config, NOBODY)
    assert (checked.returncode, checked.stdout) == (1, "")
    assert checked.stderr == f"cowd: {config}: Permission denied\n"
    assert check(config, ROOT_USER).returncode == 0


def test_what_is_printed_starts_a_daemon(config: Path, start_daemon: StartDaemon) -> None:
    start_daemon(config=check(config, NOBODY).stdout)
