# SPDX-License-Identifier: Apache-2.0
"""cowctl as a person runs it: as user nobody, about live processes, with each backend."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import pytest
from harness.cowctl import SAY_MODULES, SECONDS, Ended, RunCowctl, StartCowctl, run_code
from harness.daemon import Daemon
from harness.programs import (
    GAMES,
    NOBODY,
    PAGE_BYTES,
    Page,
    StartSubject,
    Subject,
    parse_pages,
)

QUICK_SECONDS = 5.0
"""For Ctrl-C to end one: far below its timeout of 30 s for a call."""
BACKENDS = pytest.mark.parametrize("backend", ["daemon", "local"])

PIPE_BYTES = 65_536
"""What a pipe holds before its writer must wait (pipe(7))."""
LONG_RANGE = "10000-7ffffffff000"
"""All that a process may map on a machine of 64 bits: minutes of reading by either backend."""


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


RESERVE = """
import mmap
PRIVATE_ANONYMOUS_NORESERVE = 0x4022
memory = mmap.mmap(-1, 1 << 40, PRIVATE_ANONYMOUS_NORESERVE)
memory.madvise(mmap.MADV_NOHUGEPAGE)
memory[0] = memory[1 << 39] = 1
print(flush=True)
input()
"""


@BACKENDS
def test_reserved_memory_costs_next_to_nothing(run_cowctl: RunCowctl, backend: str) -> None:
    """A tebibyte with two pages in it. One by one, its pages take either backend a second."""
    program = [sys.executable, "-c", RESERVE]
    with subprocess.Popen(
        NOBODY.command(program), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin
        assert process.stdout
        assert process.stdout.readline() == b"\n"
        runs = read_runs(run_cowctl("query", str(process.pid), "-J", "--backend", backend))
        process.stdin.close()
    page_counts = [run["page_count"] for run in runs]
    half = (1 << 39) // PAGE_BYTES
    first = page_counts.index(half - 1) - 1
    around = [(run["page_count"], run["state"]) for run in runs[first : first + 4]]
    assert around == [(1, "anon"), (half - 1, "absent")] * 2


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
    line, next_step = ended.err.splitlines()  # once, whoever has been asked
    assert f"the kernel does not let you inspect process {theirs.pid}" in line
    assert "dumpable" in line
    assert "or as root" in next_step


@pytest.mark.parametrize("backend", ["daemon", "local", "auto"])
def test_no_such_process_is_1(run_cowctl: RunCowctl, backend: str) -> None:
    ended = run_cowctl("query", str(2**31 - 1), "--backend", backend)
    assert ended == Ended(
        1, "", "cowctl: no process 2147483647: it has ended, or is hidden from you\n"
    )


# JSON


@pytest.mark.parametrize("command", ["status", "demo", "doctor"])
def test_json_is_as_its_schema_says(run_cowctl: RunCowctl, command: str) -> None:
    """Queries are above: run_cowctl checks whatever is JSON.

    Seen to fail with a key more in each.
    """
    ended = run_cowctl(command, "--json")
    assert (ended.status, ended.err) == (0, "")
    assert json.loads(ended.out)["schema"] == f"cowd.{command}/1"


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


def interrupt(process: "subprocess.Popen[bytes]") -> Ended:
    """Send what Ctrl-C sends, and return how the process ended."""
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=QUICK_SECONDS)
    return Ended(process.returncode, out.decode(), err.decode())


@pytest.mark.parametrize("command", ["query", "maps", "diff", "family", "status", "doctor"])
def test_ctrl_c_while_the_daemon_does_not_answer_is_130_and_quiet(
    start_cowctl: StartCowctl, neighbours: Subject, silent_socket: socket.socket, command: str
) -> None:
    path = Path(silent_socket.getsockname())
    pids = {"query": 1, "maps": 1, "diff": 2, "family": 1}.get(command, 0)
    arguments = [str(pid) for pid in (neighbours.pid, os.getpid())[:pids]]
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
    # It has the process's pagemap open, or a connection to the daemon, from its first question on.
    if backend == "daemon":
        await_text(process, read_libraries, "cygrpc")  # setpriv may have a socket before, for names
    await_text(process, read_descriptors, "/pagemap" if backend == "local" else "socket:")
    assert interrupt(process) == Ended(130, "", "")


def await_text(process: "subprocess.Popen[bytes]", read: Callable[[int], str], wanted: str) -> None:
    """Return when `read` of the process has a text in it: nothing tells of that, so look again."""
    while wanted not in read(process.pid):
        assert process.poll() is None, f"{process.args!r} ended: {process.communicate()}"


def read_libraries(pid: int) -> str:
    """Return the files that a process has mapped."""
    return Path(f"/proc/{pid}/maps").read_text(errors="backslashreplace")


def read_descriptors(pid: int) -> str:
    """Return what the descriptors of a process are of."""
    names = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            names.append(os.readlink(entry))
    return " ".join(names)


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


# What a command loads


@BACKENDS
def test_a_query_of_four_pages_loads_neither_numpy_nor_rich(
    neighbours: Subject, daemon: Daemon, backend: str
) -> None:
    start = neighbours.description["pages"][0]["address"]
    query = ["query", str(neighbours.pid), f"{start:x}+4", "--backend", backend]
    ended = run_code(daemon, SAY_MODULES, *query)
    assert ended.status == 0
    loaded = {name.partition(".")[0] for name in ended.err.split()}
    assert "click" in loaded
    assert ("grpc" in loaded) == (backend == "daemon")
    assert not loaded & {"numpy", "rich"}
