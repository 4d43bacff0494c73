# SPDX-License-Identifier: Apache-2.0
"""The examples in other languages, built and run as user nobody: what they say, how they fail.

Nothing here depends on Python's packages. Needs what `make setup` installs for the examples.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from harness.daemon import ROOT, Daemon
from harness.kernel_flags import mask_flags
from harness.programs import ANSWER_SECONDS, NOBODY, PAGE_BYTES, StartSubject, environment

pytestmark = pytest.mark.once

MakeDirectory = Callable[[], Path]
"""The fixture make_directory."""
EXAMPLES = ROOT / "client" / "examples"
NODE_PACKAGES = ROOT / ".node" / "node_modules"
BUILD_SECONDS = 300.0
"""gRPC's headers take their time on a small machine."""
COPY_FLAGS = mask_flags("anonymous", "swapbacked")
ORIGINAL_STATES = {"PAGE_STATE_FILE", "PAGE_STATE_ABSENT"}
"""A read fault maps neighbours, too: the untouched page may be either."""


class Medium(NamedTuple):
    """Where a file lies. Uncopied pages on tmpfs have the flag "swapbacked" as well."""

    name: str
    directory: Path


class Page(NamedTuple):
    """One line of a table of pages."""

    number: int
    state: str
    copied: str
    flags: int


@pytest.fixture(params=["disk", "tmpfs"])
def medium(request: pytest.FixtureRequest) -> Medium:
    """Return a directory of each kind where every user may make files."""
    fixture = {"disk": "public_directory", "tmpfs": "tmpfs_directory"}[request.param]
    return Medium(request.param, request.getfixturevalue(fixture))


@pytest.fixture
def four_pages(medium: Medium) -> Path:
    """Return a file of four pages that every user may read and nobody but root may write."""
    path = medium.directory / "four-pages"
    path.write_bytes(b"original".ljust(4 * PAGE_BYTES))
    path.chmod(0o644)
    return path


@pytest.fixture(scope="session")
def c_program(make_directory: MakeDirectory) -> Path:
    """Return the program without cowd, compiled by user nobody."""
    require_commands("gcc")
    program = make_open(make_directory) / "copied"
    warnings = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"]
    build("gcc", "-O2", *warnings, "-o", str(program), str(EXAMPLES / "copied.c"))
    return program


@pytest.fixture(scope="session")
def cpp_program(make_directory: MakeDirectory) -> Path:
    """Return the C++ client, built by user nobody as its Makefile says, and without a warning."""
    require_commands("g++", "make", "protoc", "grpc_cpp_plugin", "pkg-config")
    directory = make_open(make_directory)
    flags = "CXXFLAGS=-O0 -Wall -Wextra -Werror -std=c++17"
    build("make", "--jobs=2", "-C", str(EXAMPLES / "cpp"), f"BUILD={directory}", flags)
    return directory / "copied"


@pytest.fixture(scope="session")
def node_program(make_directory: MakeDirectory) -> Path:
    """Return the Node client, in a tree like the checkout's that has Node's packages, too."""
    require_commands("node")
    if not NODE_PACKAGES.is_dir():
        pytest.skip("the Node example's packages are not there: make setup installs them")
    tree = make_directory()
    shutil.copytree(ROOT / "proto" / "cowd", tree / "proto" / "cowd")
    shutil.copytree(EXAMPLES, tree / "client" / "examples", ignore=lambda *_: ["node_modules"])
    folder = tree / "client" / "examples" / "node"
    (folder / "node_modules").symlink_to(NODE_PACKAGES)
    return folder / "copied.mjs"


def require_commands(*commands: str) -> None:
    """Skip a test on a machine that lacks one of `commands`."""
    for command in commands:
        if not shutil.which(command, path=os.defpath):
            pytest.skip(f"no {command}: make setup installs it")


def make_open(make_directory: MakeDirectory) -> Path:
    """Return a fresh directory where every user may make files."""
    directory = make_directory()
    directory.chmod(0o1777)
    return directory


def build(*command: str) -> None:
    """Run `command` as user nobody."""
    built = run(command, seconds=BUILD_SECONDS)
    assert built.returncode == 0, built.stdout + built.stderr


def run(
    command: Sequence[object],
    variables: Mapping[str, object] | None = None,
    prefix: Sequence[str] = (),
    seconds: float = ANSWER_SECONDS,
) -> subprocess.CompletedProcess[str]:
    """Run `command` as user nobody; `prefix` is run as root and runs it."""
    return subprocess.run(
        [*prefix, *NOBODY.command([str(word) for word in command])],
        env=environment() | {name: str(value) for name, value in (variables or {}).items()},
        stdin=subprocess.DEVNULL,
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds,
    )


def ask(daemon: Daemon, *command: object) -> list[str]:
    """Return the lines that `command` prints as a client of `daemon`."""
    done = run(command, {"COWD_SOCKET": f"unix:{daemon.socket_path}"})
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def parse_pages(lines: list[str]) -> list[Page]:
    """Return the pages of a table whose first line is its heading."""
    assert lines[0].split() == ["PAGE", "STATE", "COPIED", "FLAGS"]
    rows = [line.split() for line in lines[1:]]
    assert all(re.fullmatch("0x[0-9a-f]+", flags) for *_, flags in rows)
    return [Page(int(page), state, copied, int(flags, 16)) for page, state, copied, flags in rows]


def verify_authors_pages(pages: list[Page], medium: Medium) -> None:
    """Verify what is known of four pages where 0 and 2 were written, 3 was read, 1 left alone."""
    assert [page.number for page in pages] == [0, 1, 2, 3]
    assert [page.copied for page in pages] == ["yes", "no", "yes", "no"]
    for copy in (pages[0], pages[2]):
        assert copy.state == "PAGE_STATE_ANON"
        assert copy.flags & COPY_FLAGS == COPY_FLAGS
    assert pages[1].state in ORIGINAL_STATES
    assert pages[3].state == "PAGE_STATE_FILE"
    assert pages[3].flags & mask_flags("mmap")
    expected = mask_flags("swapbacked") if medium.name == "tmpfs" else 0
    assert pages[3].flags & COPY_FLAGS == expected


def test_c_program_needs_no_daemon(c_program: Path, four_pages: Path) -> None:
    done = run([c_program, four_pages])
    assert (done.returncode, done.stderr) == (0, "")
    rows = [line.split() for line in done.stdout.splitlines()]
    assert rows == [["PAGE", "COPIED"], ["0", "yes"], ["1", "no"], ["2", "yes"], ["3", "no"]]


def test_cpp_client(daemon: Daemon, cpp_program: Path, medium: Medium, four_pages: Path) -> None:
    verify_authors_pages(parse_pages(ask(daemon, cpp_program, four_pages)), medium)
    assert four_pages.read_bytes() == b"original".ljust(4 * PAGE_BYTES)


def test_node_client(daemon: Daemon, node_program: Path, medium: Medium, four_pages: Path) -> None:
    heading, *table = ask(daemon, "node", node_program, four_pages)
    assert heading.endswith(f" rw-p {four_pages}")
    verify_authors_pages(parse_pages(table), medium)
    assert four_pages.read_bytes() == b"original".ljust(4 * PAGE_BYTES)


def test_node_client_page_by_page(
    daemon: Daemon, node_program: Path, medium: Medium, start_subject: StartSubject
) -> None:
    kind = {"disk": "file", "tmpfs": "tmpfs"}[medium.name]
    subject = start_subject(kind, medium.directory)
    heading, *table = ask(daemon, "node", node_program, subject.pid, medium.directory)
    address = subject.description["pages"][0]["address"]
    assert heading.startswith(f"{address:#x} rw-p {medium.directory}/subject-")
    verify_authors_pages(parse_pages(table), medium)


def test_node_client_counts_what_smaps_counts(
    daemon: Daemon, node_program: Path, medium: Medium, start_subject: StartSubject
) -> None:
    subject = start_subject({"disk": "file", "tmpfs": "tmpfs"}[medium.name], medium.directory)
    heading, *lines = ask(daemon, "node", node_program, subject.pid)
    assert heading.split() == ["ADDRESS", "PERM", "PAGES", "COPIED", "PATH"]
    counts = {
        int(address, 16): (int(pages), int(copied))
        for address, _, pages, copied, _ in (line.split(maxsplit=4) for line in lines)
    }
    assert counts == count_by_smaps(subject.pid)
    assert counts[subject.description["pages"][0]["address"]] == (4, 2)


def count_by_smaps(pid: int) -> dict[int, tuple[int, int]]:
    """Return, by address, how many pages a process's private file mappings have, and copied ones.

    smaps(5) has no word for copies, but whatever is anonymous or swapped there is one.
    """
    counts = {}
    mapping = r"^(\w+)-(\w+) ...p \w+ \w+:\w+ (\d+) .*\n((?:\w+:.*\n)+)"
    for start, end, inode, text in re.findall(
        mapping, Path(f"/proc/{pid}/smaps").read_text(), re.MULTILINE
    ):
        if inode != "0":
            sizes = dict(re.findall(r"^(\w+): +(\d+) kB$", text, re.MULTILINE))
            copied_bytes = 1024 * (int(sizes["Anonymous"]) + int(sizes["Swap"]))
            size_bytes = int(end, 16) - int(start, 16)
            counts[int(start, 16)] = (size_bytes // PAGE_BYTES, copied_bytes // PAGE_BYTES)
    return counts


def test_node_client_counts_swapped_copies(
    daemon: Daemon, node_program: Path, swapped_directory: Path, start_subject: StartSubject
) -> None:
    subject = start_subject("swapped", swapped_directory)
    _, *table = ask(daemon, "node", node_program, subject.pid, "/subject-")
    pages = parse_pages(table)
    assert [(page.state, page.copied) for page in pages] == [("PAGE_STATE_ANON_SWAPPED", "yes")] * 2


def test_node_client_asks_about_itself(daemon: Daemon, node_program: Path) -> None:
    """The dynamic linker writes to every program's data before the program starts."""
    lines = ask(daemon, "node", node_program)
    copied = sum(
        int(line.split()[3]) for line in lines if re.search(r" rw-p .*/libc\.so\.6$", line)
    )
    assert copied > 0


def test_cpp_client_of_an_unreachable_daemon(cpp_program: Path, public_directory: Path) -> None:
    command = [cpp_program, cpp_program]  # any file will do
    verify_unreachable(command, public_directory / "nobody-listens-here")


def test_node_client_of_an_unreachable_daemon(node_program: Path, public_directory: Path) -> None:
    verify_unreachable(["node", node_program], public_directory / "nobody-listens-here")


def verify_unreachable(command: Sequence[object], socket_path: Path) -> None:
    """Verify that `command` says what it could not reach, and what to do."""
    done = run(command, {"COWD_SOCKET": socket_path})
    assert (done.returncode, done.stdout) == (1, "")
    first, last = done.stderr.splitlines()
    assert first.startswith(f"copied: cannot reach cowd at unix:{socket_path}: UNAVAILABLE: ")
    assert last == "Is the daemon running? Another socket is named by COWD_SOCKET."


def test_cpp_client_tells_the_reason_of_a_refusal(daemon: Daemon, cpp_program: Path) -> None:
    """It asks about itself alone, so what is refused is the caller as a whole."""
    done = run(
        [cpp_program, cpp_program],
        {"COWD_SOCKET": daemon.socket_path},
        prefix=["unshare", "--pid", "--fork"],
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("copied: PERMISSION_DENIED (FOREIGN_PID_NAMESPACE): you are in ")


def test_node_client_tells_the_reason_of_a_refusal(daemon: Daemon, node_program: Path) -> None:
    done = run(["node", node_program, os.getpid()], {"COWD_SOCKET": daemon.socket_path})
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("copied: PERMISSION_DENIED (ACCESS_DENIED): ")


def test_short_file(
    c_program: Path, cpp_program: Path, node_program: Path, public_directory: Path
) -> None:
    """Touching a page past the end of the file would be the end of the program."""
    short = public_directory / "short"
    short.write_bytes(b"x" * 3 * PAGE_BYTES)
    for program in ([c_program], [cpp_program], ["node", node_program]):
        done = run([*program, short])
        assert (done.returncode, done.stdout) == (1, "")
        assert "four pages" in done.stderr
