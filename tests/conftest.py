# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the tests that run a real daemon, and the rule that a skip can be forbidden.

`COWD_REQUIRE_ALL=1` turns every skip into a failure. The tests of the folders in NEED_ROOT are
skipped for anybody but root.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from harness import switches
from harness.author import AuthorsMethod
from harness.cowctl import SECONDS, Ended, RunCowctl, StartCowctl
from harness.daemon import ROOT, Daemon, StartDaemon
from harness.programs import (
    NOBODY,
    Caller,
    StartCaller,
    StartSubject,
    Subject,
    User,
    environment,
)

DISK = "/var/tmp"
"""Where /tmp may be a tmpfs, this is not (file-hierarchy(7))."""
MakeDirectory = Callable[[], Path]
NEED_ROOT = ("integration", "kernel", "security", "system")
REQUIRE_ALL = os.environ.get("COWD_REQUIRE_ALL") == "1"


def pytest_configure(config: pytest.Config) -> None:
    """Register the marks in use."""
    config.addinivalue_line("markers", "slow: takes ten seconds or more, waiting for a deadline")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs root for anybody else."""
    if os.geteuid() == 0:
        return
    skip = pytest.mark.skip(reason="needs root: it starts the daemon and makes its own processes")
    for item in items:
        if set(NEED_ROOT) & set(item.path.relative_to(ROOT).parts):
            item.add_marker(skip)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Turn a skip into a failure where everything is required."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if REQUIRE_ALL and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid}: skips are forbidden here: {report.longrepr}"


@pytest.hookimpl(hookwrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    """Turn the skip of a whole module into a failure where everything is required."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if REQUIRE_ALL and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"{collector.nodeid}: skips are forbidden here: {report.longrepr}"


@pytest.fixture(scope="session")
def reachable() -> None:
    """Fail, with what to do, where other users cannot run the interpreter or read the checkout."""
    command = NOBODY.command([sys.executable, "-c", "import cowproto, cowdaemon"])
    tried = subprocess.run(
        command, env=environment(), cwd="/", capture_output=True, text=True, check=False
    )
    if tried.returncode:
        pytest.fail(
            f"user nobody cannot run {sys.executable} on {ROOT}: use an interpreter outside of "
            f"closed homes and run the tests through tests/publicly\n{tried.stderr}"
        )


@pytest.fixture(scope="session")
def make_directory() -> Iterator[MakeDirectory]:
    """Return a function that makes a fresh directory on disk that every user may enter.

    Not below pytest's own, which pytest closes to others whenever another run of it starts.
    """
    with tempfile.TemporaryDirectory(prefix="cowd-test-", dir=DISK) as directory:
        Path(directory).chmod(0o755)

        def make() -> Path:
            made = Path(tempfile.mkdtemp(dir=directory))
            made.chmod(0o755)
            return made

        yield make


@pytest.fixture(scope="session")
def daemon(
    reachable: None,  # noqa: ARG001
    make_directory: MakeDirectory,
) -> Iterator[Daemon]:
    """Return a daemon for every test that leaves it as it is."""
    running = Daemon(make_directory())
    yield running
    running.stop()


@pytest.fixture
def start_daemon(
    reachable: None,  # noqa: ARG001
    make_directory: MakeDirectory,
) -> Iterator[StartDaemon]:
    """Return a function that starts a daemon of the test's own, with the arguments of Daemon."""
    with ExitStack() as stack:

        def start(**options: object) -> Daemon:
            started = Daemon(make_directory(), **options)  # type: ignore[arg-type]
            stack.callback(started.stop)
            return started

        yield start


@pytest.fixture
def start_caller(daemon: Daemon) -> Iterator[StartCaller]:
    """Return a function that starts a caller: of a user, of `daemon` unless told otherwise."""
    with ExitStack() as stack:

        def start(
            user: User = NOBODY, socket_path: Path | None = None, **options: object
        ) -> Caller:
            caller = Caller(user, socket_path or daemon.socket_path, **options)  # type: ignore[arg-type]
            stack.callback(caller.close)
            return caller

        yield start


@pytest.fixture(scope="session")
def nobody(daemon: Daemon) -> Iterator[Caller]:
    """Return a caller that is user nobody, one for all tests: it asks and changes nothing."""
    caller = Caller(NOBODY, daemon.socket_path)
    yield caller
    caller.close()


@pytest.fixture
def start_subject(
    reachable: None,  # noqa: ARG001
) -> Iterator[StartSubject]:
    """Return a function that starts a subject of a kind of subjects.py, as nobody by default."""
    with ExitStack() as stack:

        def start(kind: str, *arguments: object, user: User = NOBODY) -> Subject:
            subject = Subject(user, kind, *map(str, arguments))
            stack.callback(subject.close)
            if subject.unavailable:
                pytest.skip(subject.unavailable)
            return subject

        yield start


@pytest.fixture
def start_cowctl(daemon: Daemon) -> Iterator[StartCowctl]:
    """Return a function that starts cowctl with pipes for its output."""
    with ExitStack() as stack:

        def start(
            *arguments: str, user: User = NOBODY, socket_path: Path | None = None, **options: Any
        ) -> "subprocess.Popen[Any]":
            process = subprocess.Popen(
                user.command([sys.executable, "-m", "cowd.cli.main", *arguments]),
                env={**environment(), "COWD_SOCKET": str(socket_path or daemon.socket_path)},
                cwd="/",
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                **{"stdin": subprocess.DEVNULL, **options},
            )
            stack.callback(process.communicate)
            stack.callback(process.kill)
            return process

        yield start


@pytest.fixture
def run_cowctl(start_cowctl: StartCowctl) -> RunCowctl:
    """Return a function that runs cowctl to its end; JSON is checked against its schema."""
    from harness.schemas import verify_json  # The booted machines' tests have no jsonschema.

    def run(*arguments: str, **options: Any) -> Ended:
        process = start_cowctl(*arguments, **options)
        out, err = process.communicate(timeout=SECONDS)
        ended = Ended(process.returncode, out.decode(), err.decode())
        verify_json(arguments, ended.out)
        return ended

    return run


@pytest.fixture
def public_directory(make_directory: MakeDirectory) -> Path:
    """Return a fresh directory on disk where every user may make files."""
    directory = make_directory()
    directory.chmod(0o1777)
    return directory


@pytest.fixture
def setuid_cat(public_directory: Path) -> Path:
    """Return a program that runs as root for everybody, repeats its input and waits for more."""
    if os.statvfs(public_directory).f_flag & os.ST_NOSUID:
        pytest.skip(f"{public_directory} is mounted nosuid")
    program = public_directory / "cat"
    shutil.copy("/bin/cat", program)
    program.chmod(0o4755)
    return program


@pytest.fixture(scope="session")
def author(make_directory: MakeDirectory) -> AuthorsMethod:
    """Return the second source of raw flags."""
    try:
        return AuthorsMethod(make_directory())
    except FileNotFoundError:
        pytest.skip("no gcc: it compiles the second source")


@pytest.fixture
def tmpfs_directory() -> Iterator[Path]:
    """Return a directory on tmpfs where every user may make files."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        path = Path(directory)
        path.chmod(0o1777)
        yield path


@contextmanager
def available(switch: AbstractContextManager[Any]) -> Iterator[Any]:
    """Switch something on, or skip where the machine does not have it."""
    with ExitStack() as stack:
        try:
            value = stack.enter_context(switch)
        except switches.UnavailableError as reason:
            pytest.skip(str(reason))
        yield value


@pytest.fixture(scope="session")
def swap_file(make_directory: MakeDirectory) -> Iterator[Path]:
    """Return a file on disk that the kernel swaps to until the tests end."""
    path = make_directory() / "swap"
    with available(switches.swapping_to_file(path)):
        yield path


@pytest.fixture
def swap_space(
    swap_file: Path,  # noqa: ARG001
) -> Iterator[None]:
    """Have swap space that nobody takes away during the test."""
    with switches.locked(switches.SWAPS, exclusive=False):
        yield


@pytest.fixture
def swapped_directory(
    swap_space: None,  # noqa: ARG001
    public_directory: Path,
) -> Path:
    """Return a public directory, on a machine that has swap space."""
    return public_directory
