# SPDX-License-Identifier: Apache-2.0
"""The wheel as a user has it: installed alone, run by somebody ordinary, checked by mypy.

Needs the package index, as `make setup` does. What the README begins with is run as it stands.
"""

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from conftest import MakeDirectory
from harness.daemon import ROOT, Daemon
from harness.programs import NOBODY

pytestmark = pytest.mark.pypi

INSTALL_SECONDS = 300
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
def python(make_directory: MakeDirectory) -> Path:
    """Return the interpreter of a new environment that has cowd's wheel and what it asks for."""
    directory = make_directory()
    build(["wheel", "--no-deps", "--wheel-dir", str(directory), str(ROOT)])
    [wheel] = directory.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", directory / "venv"], check=True)
    interpreter = directory / "venv" / "bin" / "python"
    build(["install", str(wheel)], interpreter)
    return interpreter


def build(arguments: Sequence[str], interpreter: Path = Path(sys.executable)) -> None:
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
