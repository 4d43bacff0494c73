# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the tests that install our packages on real machines: containers with systemd.

What is asked in there, ordinary users ask. `machine` is one of each release for all tests that put
back what they change; who does more boots one. A test that fails shows the journal.
"""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from harness.daemon import ROOT
from system.machine import PACKAGES, Machine
from system.trees import RELEASES, Release, held_trees

DEB = ROOT / "build" / "deb"
TOOLS = ("mmdebstrap", "nsenter", "setpriv", "systemd-nspawn", "unshare")
MOUNT = "mount -t tmpfs tmpfs /mnt && mount --make-rprivate / && test -e /proc/kpageflags"
USERS = ("alice", "bob")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Function) -> Iterator[None]:
    """Show what the machine's journal has of cowd with a failure."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if report.failed and report.when == "call":
        for name in {"bare_machine", "machine", "monitored"} & set(item.funcargs):
            log = item.funcargs[name].log()
            report.sections.append((f"journal of the {name.replace('_', ' ')}", log))


@pytest.fixture(scope="session")
def packages() -> list[Path]:
    """Return the packages under test."""
    built = sorted(DEB.glob("*.deb"))
    if not built:
        pytest.fail(f"there are no packages in {DEB}: make deb")
    return built


@pytest.fixture(scope="session")
def rights() -> None:
    """Skip where machines cannot be booted."""
    missing = [tool for tool in TOOLS if not shutil.which(tool)]
    if missing:
        pytest.skip(f"machines need {', '.join(missing)}: `make test-system` installs them")
    tried = subprocess.run(
        ["unshare", "--mount", "sh", "-c", MOUNT], capture_output=True, text=True, check=False
    )
    if tried.returncode:
        pytest.skip(f"machines cannot be booted without root's own rights: {tried.stderr}")


@pytest.fixture(scope="session")
def trees(
    rights: None,  # noqa: ARG001
    packages: list[Path],
    request: pytest.FixtureRequest,
) -> Iterator[dict[Release, Path]]:
    """Return what machines boot."""
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with ExitStack() as stack:
        with capture.global_and_fixture_disabled():  # making them takes a while
            made = stack.enter_context(held_trees(packages))
        yield made


@pytest.fixture(scope="session", params=RELEASES, ids=str)
def release(request: pytest.FixtureRequest) -> Release:
    """Return the release under test."""
    wanted: Release = request.param
    return wanted


@contextmanager
def booted(release: Release, trees: dict[Release, Path]) -> Iterator[Machine]:
    """Have a machine with two users, and nothing of ours."""
    machine = Machine(release, trees[release], DEB)
    try:
        for user in USERS:
            machine.run("useradd", "--create-home", user)
        yield machine
    finally:
        machine.stop()


@pytest.fixture
def bare_machine(release: Release, trees: dict[Release, Path]) -> Iterator[Machine]:
    """Return a machine for one test, without our packages."""
    with booted(release, trees) as machine:
        yield machine


@pytest.fixture(scope="session")
def installed_machine(release: Release, trees: dict[Release, Path]) -> Iterator[Machine]:
    """Return a machine with our packages, for all tests of a release."""
    with booted(release, trees) as machine:
        install(machine)
        yield machine


@pytest.fixture
def machine(installed_machine: Machine) -> Machine:
    """Return the machine with our packages, with a cowd that has just been started.

    So none has started too often when the next test starts one (StartLimitBurst=).
    """
    installed_machine.run("systemctl", "reset-failed", "cowd.service", "cowd.socket")
    installed_machine.run("systemctl", "restart", "cowd.socket", "cowd.service")
    return installed_machine


def install(machine: Machine) -> None:
    """Install our packages, and nothing that they do not need."""
    command = "apt install --yes --no-install-recommends ./*.deb"
    machine.run("sh", "-c", f"cd {PACKAGES} && {command}")
