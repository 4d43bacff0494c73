# SPDX-License-Identifier: Apache-2.0
"""cowctl as a person runs it: as user nobody, about live processes, with each backend."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from harness.daemon import Daemon
from harness.programs import (
    GAMES,
    NOBODY,
    PAGE_BYTES,
    Page,
    StartSubject,
    Subject,
    User,
    environment,
    parse_pages,
)

SECONDS = 60.0
"""For a command to end: generous, other tests share the machine."""
QUICK_SECONDS = 5.0
"""For Ctrl-C to end one: far below its timeout of 30 s for a call."""
BACKENDS = pytest.mark.parametrize("backend", ["daemon", "local"])

PIPE_BYTES = 65_536
"""What a pipe holds before its writer must wait (pipe(7))."""
LONG_RANGE = "10000-7ffffffff000"
"""All that a process may map on a machine of 64 bits: minutes of reading by either backend."""

RunCowctl = Callable[..., "Ended"]
StartCowctl = Callable[..., "subprocess.Popen[bytes]"]


class Ended(NamedTuple):
    """How a command ended, and what it wrote."""

    status: int
    out: str
    err: str


@pytest.fixture
def start_cowctl(daemon: Daemon) -> Iterator[StartCowctl]:
    """Return a function that starts cowctl with pipes for its output."""
    with ExitStack() as stack:

        def start(
            *arguments: str, user: User = NOBODY, socket_path: Path | None = None
        ) -> "subprocess.Popen[bytes]":
            process = subprocess.Popen(
                user.command([sys.executable, "-m", "cowd.cli.main", *arguments]),
                env={**environment(), "COWD_SOCKET": str(socket_path or daemon.socket_path)},
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            stack.callback(process.communicate)
            stack.callback(process.kill)
            return process

        yield start


@pytest.fixture
def run_cowctl(start_cowctl: StartCowctl) -> RunCowctl:
    """Return a function that runs cowctl to its end."""

    def run(*arguments: str, **options: Any) -> Ended:
        process = start_cowctl(*arguments, **options)
        out, err = process.communicate(timeout=SECONDS)
        return Ended(process.returncode, out.decode(), err.decode())

    return run


@pytest.fixture
def neighbours(start_subject: StartSubject, public_directory: Path) -> Subject:
    """Return a process that has mappings side by side."""
    return start_subject("neighbours", public_directory)


def read_runs(ended: Ended) -> list[dict[str, Any]]:
    """Return the runs of an answer in JSON."""
    assert ended.status == 0, ended
    runs: list[dict[str, Any]] = json.loads(ended.out)["runs"]
    return runs


def spread(runs: Sequence[dict[str, Any]]) -> list[tuple[int, str, bool | None]]:
    """Return address, state and copied of each page of `runs`."""
    return [
        (int(run["address"], 16) + number * PAGE_BYTES, run["state"], run["copied"])
        for run in runs
        for number in range(run["page_count"])
    ]


def expect(pages: Sequence[Page]) -> list[tuple[int, str, bool | None]]:
    """Return what `spread` should: what is known of the pages by construction."""
    return [(page.address, page.states[0].lower(), page.copied) for page in pages]


# Ranges


@BACKENDS
def test_a_range_across_mappings_and_holes(
    run_cowctl: RunCowctl, neighbours: Subject, backend: str
) -> None:
    pages = parse_pages(neighbours.description)
    start = pages[0].address
    for range_text, wanted in (
        (f"{start:x}+12", pages),
        (f"{start + 3 * PAGE_BYTES:#x}-{start + 11 * PAGE_BYTES:#x}", pages[3:11]),
        (f"{start + 8 * PAGE_BYTES:x}+2", pages[8:10]),
        (f"{start + 7 * PAGE_BYTES:x}", pages[7:8]),
    ):
        ended = run_cowctl("query", str(neighbours.pid), range_text, "-J", "--backend", backend)
        assert ended.err == ""
        assert spread(read_runs(ended)) == expect(wanted)


@BACKENDS
def test_rows_are_folded_as_far_as_they_can_be_and_not_across_mappings(
    run_cowctl: RunCowctl, neighbours: Subject, backend: str
) -> None:
    arguments = [
        "query",
        str(neighbours.pid),
        f"{neighbours.description['pages'][0]['address']:x}+12",
    ]
    folded = read_runs(run_cowctl(*arguments, "-J", "--backend", backend))
    each = read_runs(run_cowctl(*arguments, "-J", "--each", "--backend", backend))
    assert spread(folded) == spread(each)
    assert [run["page_count"] for run in each] == [1] * 12
    alike = [{**run, "address": None, "page_count": None} for run in folded]
    assert all(one != other for one, other in pairwise(alike))
    if backend == "local":  # flags may differ between pages, such as lru
        assert [run["page_count"] for run in folded] == [2, 2, 2, 2, 2, 1, 1]
    places = [run["mapping"] for run in folded for _ in range(run["page_count"])]
    assert [len(list(same)) for _, same in groupby(places)] == [4, 4, 2, 2]
    assert places[8] is None


@BACKENDS
def test_a_pointer_inside_a_page_is_rounded_with_a_note(
    run_cowctl: RunCowctl, neighbours: Subject, backend: str
) -> None:
    pages = parse_pages(neighbours.description)
    inside = pages[1].address + 123
    down = f"cowctl: note: {inside:#x} is inside a page: rounded down to {pages[1].address:#x}\n"
    for range_text, count, up in (
        (f"{inside:x}", 1, ""),
        (f"{inside:#x}+2", 2, ""),
        (
            f"{inside:x}-{pages[3].address + 1:x}",
            3,
            f"cowctl: note: {pages[3].address + 1:#x} is inside a page: "
            f"rounded up to {pages[4].address:#x}\n",
        ),
    ):
        ended = run_cowctl("query", str(neighbours.pid), range_text, "-J", "--backend", backend)
        assert spread(read_runs(ended)) == expect(pages[1 : 1 + count])
        assert ended.err == down + up


@BACKENDS
def test_a_range_past_what_a_process_can_have_is_1(
    run_cowctl: RunCowctl, neighbours: Subject, backend: str
) -> None:
    ended = run_cowctl("query", str(neighbours.pid), "fffffffffffff000", "--backend", backend)
    assert (ended.status, ended.out) == (1, "")
    assert f"keep to the mappings of /proc/{neighbours.pid}/maps" in ended.err


@BACKENDS
def test_both_backends_show_every_private_mapping(
    run_cowctl: RunCowctl, neighbours: Subject, backend: str
) -> None:
    ended = run_cowctl("query", str(neighbours.pid), "-J", "--backend", backend)
    assert set(expect(parse_pages(neighbours.description)[:8])) <= set(spread(read_runs(ended)))
    told = json.loads(ended.out)
    assert told["backend"] == backend
    assert (told["masks"] is None) == (backend == "local")
    known = [run for run in told["runs"] if run["kpageflags"] is not None]
    assert bool(known) == (backend == "daemon")


# Who answers


def test_auto_without_a_daemon_asks_the_kernel_with_a_note(
    run_cowctl: RunCowctl, neighbours: Subject, public_directory: Path
) -> None:
    nowhere = public_directory / "nobody-listens-here"
    ended = run_cowctl("query", str(neighbours.pid), "-J", socket_path=nowhere)
    told = json.loads(ended.out)
    assert (ended.status, told["backend"], told["masks"]) == (0, "local", None)
    assert {(run["kpageflags"], run["flags"]) for run in told["runs"]} == {(None, None)}
    assert ended.err == (
        f"cowctl: note: cannot connect to cowd at {nowhere}: No such file or directory\n"
        "cowctl: note: asking the kernel alone, which tells no kernel flags\n"
    )


def test_the_daemon_alone_without_a_daemon_is_3(
    run_cowctl: RunCowctl, neighbours: Subject, public_directory: Path
) -> None:
    ended = run_cowctl(
        "query", str(neighbours.pid), "--backend=daemon", socket_path=public_directory / "x"
    )
    assert (ended.status, ended.out) == (3, "")
    assert "systemctl start cowd.socket" in ended.err


@pytest.mark.parametrize("backend", ["daemon", "local", "auto"])
def test_a_process_of_another_user_is_4_with_the_kernels_refusal(
    run_cowctl: RunCowctl, start_subject: StartSubject, backend: str
) -> None:
    theirs = start_subject("anonymous", user=GAMES)
    ended = run_cowctl("query", str(theirs.pid), "--backend", backend)
    assert (ended.status, ended.out) == (4, "")
    [line] = ended.err.splitlines()  # once, whoever has been asked
    assert f"the kernel does not let you inspect process {theirs.pid}" in line
    assert "dumpable" in line


@pytest.mark.parametrize("backend", ["daemon", "local", "auto"])
def test_no_such_process_is_1(run_cowctl: RunCowctl, backend: str) -> None:
    ended = run_cowctl("query", str(2**31 - 1), "--backend", backend)
    assert ended == Ended(
        1, "", "cowctl: no process 2147483647: it has ended, or is hidden from you\n"
    )


# Names


@BACKENDS
def test_a_process_is_found_by_name(
    run_cowctl: RunCowctl, neighbours: Subject, public_directory: Path, backend: str
) -> None:
    del neighbours
    program = public_directory / f"a-program-with-a-long-name-{os.getpid()}"
    program.write_bytes(Path("/bin/cat").read_bytes())
    program.chmod(0o755)
    with subprocess.Popen(
        NOBODY.command([str(program)]), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write(b"running\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"running\n"  # it is executed, not about to be
        ended = run_cowctl("query", "-C", program.name, "-J", "--backend", backend)
        assert json.loads(ended.out)["pid"] == process.pid
        process.stdin.close()


# Ending early


@pytest.fixture
def silent_socket(public_directory: Path) -> Iterator[socket.socket]:
    """Return the listening socket of a daemon that takes connections and never says a word."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(public_directory / "silent.sock"))
        (public_directory / "silent.sock").chmod(0o666)
        listener.listen()
        listener.settimeout(SECONDS)
        yield listener


def interrupt(process: "subprocess.Popen[bytes]") -> Ended:
    """Send what Ctrl-C sends, and return how the process ended."""
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=QUICK_SECONDS)
    return Ended(process.returncode, out.decode(), err.decode())


@pytest.mark.parametrize("command", ["query", "status", "doctor"])
def test_ctrl_c_while_the_daemon_does_not_answer_is_130_and_quiet(
    start_cowctl: StartCowctl, neighbours: Subject, silent_socket: socket.socket, command: str
) -> None:
    path = Path(silent_socket.getsockname())
    arguments = [str(neighbours.pid)] if command == "query" else []
    process = start_cowctl(command, *arguments, socket_path=path)
    with ExitStack() as stack:
        # The first connection of doctor is only to see whether there is anybody.
        for _ in range(2 if command == "doctor" else 1):
            connection = stack.enter_context(silent_socket.accept()[0])
            connection.settimeout(SECONDS)
        assert connection.recv(1)  # its greeting: it waits for ours
        assert interrupt(process) == Ended(130, "", "")


@BACKENDS
def test_ctrl_c_in_a_long_range_is_130_and_quiet(
    start_cowctl: StartCowctl, neighbours: Subject, backend: str
) -> None:
    process = start_cowctl("query", str(neighbours.pid), LONG_RANGE, "--backend", backend)
    # It holds the process's pagemap, or a connection to the daemon, from its first question on.
    await_descriptor(process, "/pagemap" if backend == "local" else "socket:")
    assert interrupt(process) == Ended(130, "", "")


def await_descriptor(process: "subprocess.Popen[bytes]", part: str) -> None:
    """Return when the process has a file open with `part` in its name."""
    directory = Path(f"/proc/{process.pid}/fd")
    while process.poll() is None:  # nothing to wait on: the kernel tells nobody of opens
        for entry in directory.iterdir():
            with suppress(FileNotFoundError):
                if part in os.readlink(entry):
                    return
    raise AssertionError(f"{process.args!r} ended: {process.communicate()}")


@BACKENDS
def test_a_closed_pipe_is_quiet(
    start_cowctl: StartCowctl, start_subject: StartSubject, backend: str
) -> None:
    large = start_subject("large")
    start = large.description["pages"][0]["address"]
    count = 4000
    process = start_cowctl(
        "query", str(large.pid), f"{start:x}+{count}", "--each", "--backend", backend
    )
    assert process.stdout
    assert process.stderr
    first = process.stdout.readline()
    assert first.startswith(b"ADDRESS")
    process.stdout.close()
    assert len(first) * count > PIPE_BYTES  # so it has not written all before
    assert process.wait(SECONDS) == 0
    assert process.stderr.read() == b""


# Doctor


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
    ended = Ended(tried.returncode, tried.stdout, tried.stderr)
    [check] = find_failed(ended, "caller")
    assert "another user namespace" in check["found"]
    results = {each["check"]: each["result"] for each in json.loads(ended.out)["checks"]}
    assert (results["service"], results["user-namespace"]) == ("ok", "warning")


def test_doctor_does_not_wait_for_a_daemon_that_never_answers(
    run_cowctl: RunCowctl, silent_socket: socket.socket
) -> None:
    path = Path(silent_socket.getsockname())
    [check] = find_failed(run_cowctl("doctor", "-J", socket_path=path), "service")
    assert "journalctl -u cowd" in check["next_step"]


# What a command loads

SAY_MODULES = """
import sys
from cowd.cli.main import main
status = main()
print(*sys.modules, file=sys.stderr)
sys.exit(status)
"""


@BACKENDS
def test_a_query_of_four_pages_loads_neither_numpy_nor_rich(
    neighbours: Subject, daemon: Daemon, backend: str
) -> None:
    start = neighbours.description["pages"][0]["address"]
    query = ["query", str(neighbours.pid), f"{start:x}+4", "--backend", backend]
    tried = subprocess.run(
        NOBODY.command([sys.executable, "-c", SAY_MODULES, *query]),
        env={**environment(), "COWD_SOCKET": str(daemon.socket_path)},
        cwd="/",
        capture_output=True,
        text=True,
        check=True,
        timeout=SECONDS,
    )
    loaded = {name.partition(".")[0] for name in tried.stderr.split()}
    assert "click" in loaded
    assert ("grpc" in loaded) == (backend == "daemon")
    assert not loaded & {"numpy", "rich"}
