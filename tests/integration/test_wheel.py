# SPDX-License-Identifier: Apache-2.0
"""The wheel as a user has it: installed alone, run by somebody ordinary, checked by mypy.

And what it and the source distribution hold.

Needs the package index, as `make setup` does. What the README begins with is run as it stands.
"""

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from conftest import MakeDirectory
from harness.daemon import ROOT, Daemon, StartDaemon
from harness.programs import NOBODY

pytestmark = pytest.mark.pypi

INSTALL_SECONDS = 300
CONTRACT = "proto/cowd/v1/pageflags.proto"
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
SMALL_PROGRAM = """
import mmap

import cowd
import numpy as np
from numpy.typing import NDArray

words = np.memmap("words.dat", mode="c")
copied: NDArray[np.bool_] = cowd.copied(words)
pages = cowd.pages(words, backend="local")
words_of_flags: NDArray[np.uint64] | None = pages.kpageflags
for run in pages.runs():
    address: int = run.address
    is_copied: bool | None = run.copied
print(pages.summary().copied_page_count, int(pages.copied.sum()))
tracker = cowd.Tracker(mmap.mmap(-1, mmap.PAGESIZE))
piece: slice = tracker.span.slice_of(0)


def ask(backend: cowd.Backend, pid: int) -> list[cowd.PageState]:
    mapping = backend.list_mappings(pid).mappings[0]
    parts = backend.iter_page_flags(pid, [(mapping.start_address, 1)])
    return [cowd.PageState(state) for part in parts for state in part.states]


with cowd.Client(timeout_seconds=1) as client:
    try:
        states = ask(client, 1)
    except cowd.AccessDenied as error:
        reason: str | None = error.reason
    except cowd.Error:
        states = ask(cowd.Local(), 1)
"""


@pytest.fixture(scope="module")
def wheel(make_directory: MakeDirectory) -> Path:
    """Return the wheel built of the checkout."""
    return build_wheel(ROOT, make_directory())


@pytest.fixture(scope="module")
def sdist(make_directory: MakeDirectory) -> Path:
    """Return the source distribution of the checkout."""
    directory = make_directory()
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", directory],
        cwd=ROOT,
        check=True,
        timeout=INSTALL_SECONDS,
    )
    [archive] = directory.iterdir()
    return archive


@pytest.fixture(scope="module")
def python(wheel: Path, make_directory: MakeDirectory) -> Path:
    """Return the interpreter of a new environment that has cowd's wheel and what it asks for.

    Nothing is compiled for it.
    """
    directory = make_directory()
    subprocess.run([sys.executable, "-m", "venv", directory], check=True)
    interpreter = directory / "bin" / "python"
    run_pip(["install", "--only-binary", ":all:", str(wheel)], interpreter)
    return interpreter


@pytest.fixture(scope="module")
def commands(wheel: Path, python: Path) -> Path:
    """Return the directory with the commands of the same environment, which has the daemon's extra.

    That one is compiled against libsystemd.
    """
    run_pip(["install", f"{wheel}[daemon]"], python)
    return python.parent


def build_wheel(source: Path, directory: Path) -> Path:
    """Build the wheel of a checkout or a source distribution in an empty directory."""
    run_pip(["wheel", "--no-deps", "--wheel-dir", str(directory), str(source)])
    [made] = directory.glob("*.whl")
    return made


def run_pip(arguments: Sequence[str], interpreter: Path = Path(sys.executable)) -> None:
    """Run pip."""
    subprocess.run(
        [interpreter, "-m", "pip", *arguments, "--quiet", "--disable-pip-version-check"],
        check=True,
        timeout=INSTALL_SECONDS,
    )


def read_beginning() -> tuple[str, str, str]:
    """Return the README's first program, and what it prints without the daemon and with it."""
    blocks = re.findall(
        r"^```(\w*)\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL
    )
    (language, program), (_, alone), (_, with_daemon) = blocks[:3]
    assert language == "python"
    return program, alone, with_daemon


def run_beginning(python: Path, directory: Path, socket_path: Path) -> str:
    """Run the README's first program as user nobody; return what it prints."""
    words = directory / "words.dat"
    words.write_bytes(os.urandom(4 * PAGE_BYTES))
    words.chmod(0o644)
    done = subprocess.run(
        NOBODY.command([str(python), "-W", "error", "-c", read_beginning()[0]]),
        env={"PATH": os.defpath, "COWD_SOCKET": str(socket_path)},
        cwd=directory,
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout


def test_the_readme_begins_with_five_lines() -> None:
    program, *_ = read_beginning()
    assert len([line for line in program.splitlines() if line]) == 5


def test_what_the_readme_begins_with_needs_no_daemon(python: Path, public_directory: Path) -> None:
    absent = public_directory / "cowd.sock"
    printed = run_beginning(python, public_directory, absent)
    usual = printed.replace(str(absent), "/run/cowd/cowd.sock")
    _, alone, _ = read_beginning()
    assert usual.split() == alone.split()  # its last sentence is folded


def test_with_the_daemon_the_same_lines_give_the_flags(
    python: Path, public_directory: Path, daemon: Daemon
) -> None:
    printed = run_beginning(python, public_directory, daemon.socket_path)
    _, _, with_daemon = read_beginning()
    # LRU comes a moment after the first store.
    assert printed.replace("UMab", "UlMab") == with_daemon


def test_mypy_is_strict_with_a_program_that_uses_the_library(python: Path, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(SMALL_PROGRAM)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--strict", "--warn-unreachable", "program.py"),
            *("--cache-dir", os.devnull, "--python-executable", str(python)),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=INSTALL_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "Success: no issues found in 1 source file" in done.stdout


def test_the_daemon_runs_from_the_wheel(commands: Path, start_daemon: StartDaemon) -> None:
    daemon = start_daemon(installed=commands / "cowd")
    done = subprocess.run(
        NOBODY.command([str(commands / "cowctl"), "demo"]),
        env={"PATH": os.defpath, "COWD_SOCKET": str(daemon.socket_path)},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "8 of 8 answers are right." in done.stdout


def read_sdist(archive: Path) -> dict[str, bytes]:
    """Return the files of a source distribution, by path below its only directory."""
    with tarfile.open(archive) as opened:
        members = [member for member in opened if member.isfile()]
        assert {member.name.split("/")[0] for member in members} == {
            archive.name[: -len(".tar.gz")]
        }
        return {
            member.name.partition("/")[2]: extracted.read()
            for member in members
            if (extracted := opened.extractfile(member))
        }


def list_checkout() -> set[str]:
    """Return the paths of all that git has, and of what it would take: not of what was built."""
    listed = subprocess.run(
        [
            *("git", "-c", f"safe.directory={ROOT}"),  # root may run this on another's checkout
            *("ls-files", "--cached", "--others", "--exclude-standard", "-z"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return {path for path in listed.stdout.split("\0") if path and (ROOT / path).exists()}


def test_the_sdist_is_the_checkout(sdist: Path) -> None:
    """Tests, packaging and all; but for what judges submissions to this very repository."""
    files = read_sdist(sdist)
    assert files.pop("PKG-INFO")
    expected = {path for path in list_checkout() if not path.startswith(".ci/")}
    assert set(files) == expected
    assert {"LICENSE", "packaging/debian/control", "tests/conftest.py"} <= expected
    changed = [path for path in files if files[path] != (ROOT / path).read_bytes()]
    assert not changed


def read_wheel(wheel: Path) -> dict[str, bytes]:
    """Return the files of a wheel, by path."""
    with zipfile.ZipFile(wheel) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def test_the_sdist_builds_the_same_wheel(
    sdist: Path, wheel: Path, make_directory: MakeDirectory
) -> None:
    assert read_wheel(build_wheel(sdist, make_directory())) == read_wheel(wheel)


def test_the_wheel_holds_all_that_is_ours_and_nothing_else(wheel: Path) -> None:
    files = read_wheel(wheel)
    name = "-".join(wheel.name.split("-")[:2])
    modules = {
        path.partition("/")[2]
        for path in list_checkout()
        if path.startswith(("client/cowd/", "daemon/cowdaemon/", "proto/cowproto/"))
    }
    assert {"cowd/py.typed", "cowproto/py.typed", "cowproto/v1/pageflags_pb2_grpc.py"} <= modules
    metadata = {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE"}
    assert set(files) == {
        *modules,
        *(f"{name}.dist-info/{file}" for file in metadata),
        f"{name}.data/data/share/cowd/{CONTRACT}",
    }
    assert files[f"{name}.dist-info/licenses/LICENSE"] == (ROOT / "LICENSE").read_bytes()
    assert files[f"{name}.data/data/share/cowd/{CONTRACT}"] == (ROOT / CONTRACT).read_bytes()
