# SPDX-License-Identifier: Apache-2.0
"""cowctl top, watch and plot: user nobody looks at a process that does what it is told."""

import json
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness.cowctl import SECONDS, RunCowctl, StartCowctl
from harness.daemon import Daemon
from harness.programs import GAMES, NOBODY, PAGE_BYTES, environment
from harness.puppets import Puppet
from harness.schemas import verify_json
from harness.terminals import ALTERNATE_SCREEN, NORMAL_SCREEN, Terminal

PAGES = 64
BACKENDS = pytest.mark.parametrize("backend", ["daemon", "local"])
StartTop = Callable[..., Terminal]


@pytest.fixture
def puppet() -> Iterator[Puppet]:
    """Return a process of nobody."""
    started = Puppet()
    started.map_pages(None, 1)  # It has its name and its user now.
    yield started
    started.close()


@pytest.fixture
def start_top(daemon: Daemon, puppet: Puppet) -> StartTop:
    """Return a function that starts cowctl top on a terminal, about the puppet."""

    def start(*arguments: str, **size: int) -> Terminal:
        command = [sys.executable, "-m", "cowd.cli.main", "top", "--pid", str(puppet.pid)]
        variables = {**environment(), "COWD_SOCKET": str(daemon.socket_path)}
        return Terminal([*command, *arguments], NOBODY, variables, **size)

    return start


def read_line(process: "subprocess.Popen[bytes]", command: str) -> dict[str, Any]:
    """Return the next object that a command writes."""
    assert process.stdout
    readable, _, _ = select.select([process.stdout], [], [], SECONDS)
    assert readable, "nothing was written"
    line = process.stdout.readline().decode()
    verify_json([command, "-J"], line)
    answer: dict[str, Any] = json.loads(line)
    return answer


def end(process: "subprocess.Popen[bytes]") -> tuple[int, str, str]:
    """Return how a command has ended, what it had still to say, and its messages."""
    out, err = process.communicate(timeout=SECONDS)
    return process.returncode, out.decode(), err.decode()


def count_copies(pid: int) -> int:
    """Return how many pages of private mappings of files are copies, by the kernel's own sums."""
    copied_bytes, is_file = 0, False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if mapping := re.match(r"[0-9a-f]+-[0-9a-f]+ ..(.)(.) \S+ \S+ ([0-9]+)", line):
            is_file = mapping[2] == "p" and mapping[3] != "0"
        elif is_file and line.startswith(("Anonymous:", "Swap:")):
            copied_bytes += int(line.split()[1]) * 1024
    return copied_bytes // PAGE_BYTES


# watch


@BACKENDS
def test_watch_sees_each_copy_and_ends_with_the_process(
    start_cowctl: StartCowctl, puppet: Puppet, public_directory: Path, backend: str
) -> None:
    """Seen to fail with changes against the first look, and without the end."""
    pid, address = puppet.map_pages(str(public_directory), PAGES)
    where = [str(pid), f"{address:x}+{PAGES}"]
    options = [f"--backend={backend}", "--interval=0.05"]
    process = start_cowctl("watch", "-J", *where, *options)
    first = read_line(process, "watch")
    assert (first["pid"], first["changes"], first["copied_in_all_page_count"]) == (pid, [], 0)
    seen: dict[int, tuple[str, bool]] = {}
    told = 0
    for start, count in ((3, 2), (10, 1), (PAGES - 1, 1)):
        assert puppet.do("store", start, count)
        wanted = set(range(start, start + count))
        while not wanted <= {page for page, (_, copied) in seen.items() if copied}:
            look = read_line(process, "watch")
            told += look["copied_page_count"]
            for change in look["changes"]:
                page = (int(change["address"], 16) - address) // PAGE_BYTES
                for number in range(page, page + change["page_count"]):
                    seen[number] = change["to"], change["copied"]
    copied = {page for page, (state, is_copy) in seen.items() if is_copy and state == "anon"}
    assert copied == {3, 4, 10, PAGES - 1}
    assert told == 4
    puppet.kill()
    status, _, err = end(process)
    assert (status, err) == (0, f"cowctl: note: process {pid} has ended\n")


def test_watch_is_quiet_while_nothing_changes(
    run_cowctl: RunCowctl, puppet: Puppet, public_directory: Path
) -> None:
    """Seen to fail with a line a look."""
    pid, address = puppet.map_pages(str(public_directory), PAGES, populate=True)
    ended = run_cowctl("watch", str(pid), f"{address:x}+4", "--count=5", "--interval=0.01")
    assert ended == (0, "", "")


def test_watch_tells_what_was_dropped(
    start_cowctl: StartCowctl, puppet: Puppet, public_directory: Path
) -> None:
    pid, address = puppet.map_pages(str(public_directory), PAGES)
    puppet.do("store", 0, PAGES)
    process = start_cowctl("watch", "-J", str(pid), f"{address:x}+{PAGES}", "--interval=0.05")
    assert read_line(process, "watch")["copied_in_all_page_count"] == PAGES
    puppet.clear()
    dropped = read_line(process, "watch")
    assert dropped["copied_in_all_page_count"] == dropped["copied_page_count"] == 0
    assert [(each["from"], each["to"]) for each in dropped["changes"]] == [("anon", None)]
    process.send_signal(signal.SIGINT)
    assert end(process)[0] == 130


def test_watch_of_what_is_not_there_fails(run_cowctl: RunCowctl, puppet: Puppet) -> None:
    assert run_cowctl("watch", "4194304", "--count=1").status == 1
    assert run_cowctl("watch", str(puppet.pid), "--count=1", user=GAMES).status == 4
    ended = run_cowctl("watch", str(puppet.pid), "--mapping=nothing", "--count=1")
    assert ended.status == 1
    assert "has no mapping" in ended.err


# top


@BACKENDS
def test_top_counts_the_copies_that_the_kernel_counts(
    start_cowctl: StartCowctl, puppet: Puppet, public_directory: Path, backend: str
) -> None:
    """Against smaps, with the process stopped. Seen to fail with the heap counted as copied."""
    pid = puppet.map_pages(str(public_directory), PAGES).pid
    options = ["-J", f"--pid={pid}", f"--backend={backend}", "--interval=0.5"]
    process = start_cowctl("top", "--count=100", *options)
    rows = [read_line(process, "top")["processes"][0]]
    assert rows[0]["copied_since_page_count"] is None
    assert (rows[0]["pid"], rows[0]["user"]) == (pid, "nobody")
    puppet.do("store", 5, 20)
    os.kill(pid, signal.SIGSTOP)
    try:
        os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)
        truth = count_copies(pid)
        while rows[-1]["copied_page_count"] != truth:
            assert len(rows) < 20, rows
            rows.append(read_line(process, "top")["processes"][0])
    finally:
        os.kill(pid, signal.SIGCONT)
    assert truth >= rows[0]["copied_page_count"] + 20
    assert sum(row["copied_since_page_count"] for row in rows[1:]) == (
        truth - rows[0]["copied_page_count"]
    )
    process.send_signal(signal.SIGINT)
    assert end(process)[0] == 130


def test_top_knows_processes_by_name_and_user(run_cowctl: RunCowctl, puppet: Puppet) -> None:
    name = Path(f"/proc/{puppet.pid}/comm").read_text().strip()
    for options in (["-C", name], ["-u", "nobody"], ["-C", name, "-u", str(NOBODY.uid)], []):
        ended = run_cowctl("top", "-J", *options)
        assert ended.status == 0, ended
        verify_json(["top", "-J"], ended.out)
        assert puppet.pid in [each["pid"] for each in json.loads(ended.out)["processes"]]
    assert run_cowctl("top", "-C", name, "-u", "games").status == 1
    assert run_cowctl("top", "--pid", str(puppet.pid), user=GAMES).status == 4


def test_top_shows_one_look_in_the_place_of_the_other(start_top: StartTop) -> None:
    with start_top("--interval=0.05") as terminal:
        terminal.read_until(re.escape(ALTERNATE_SCREEN))
        for _ in range(3):
            shown = terminal.read_until(r"\x1b\[H(.|\n)*?nobody")
            assert NORMAL_SCREEN not in shown
            assert "PID" in shown
        terminal.press("q")
        assert terminal.wait() == 0
        assert terminal.written.endswith(NORMAL_SCREEN)
        assert terminal.attributes == terminal.attributes_before


def test_top_is_drawn_anew_when_the_terminal_has_another_size(start_top: StartTop) -> None:
    """Seen to fail without the handler of SIGWINCH."""
    with start_top("--interval=60") as terminal:
        terminal.read_until("nobody")
        terminal.resize(30, 10)
        terminal.read_until(r"\x1b\[H[^\n]{0,40}…")


@pytest.mark.parametrize(
    ("ending", "status"),
    [("\x03", 0), (signal.SIGTERM, -signal.SIGTERM), (signal.SIGHUP, -signal.SIGHUP)],
    ids=["Ctrl-C", "SIGTERM", "SIGHUP"],
)
def test_top_restores_the_screen_however_it_ends(
    start_top: StartTop, ending: str | signal.Signals, status: int
) -> None:
    """Seen to fail without the handler of SIGTERM, and without the old attributes."""
    with start_top("--interval=60") as terminal:
        terminal.read_until("nobody")
        assert terminal.attributes != terminal.attributes_before
        if isinstance(ending, str):
            terminal.press(ending)
        else:
            terminal.process.send_signal(ending)
        assert terminal.wait() == status
        assert terminal.written.count(ALTERNATE_SCREEN) == 1
        assert NORMAL_SCREEN in terminal.written.split("nobody")[-1]
        assert terminal.attributes == terminal.attributes_before


def test_top_leaves_the_terminal_to_the_shell_while_it_is_stopped(start_top: StartTop) -> None:
    """Seen to fail without the handler of SIGTSTP."""
    with start_top("--interval=60") as terminal:
        terminal.read_until("nobody")
        terminal.process.send_signal(signal.SIGTSTP)
        terminal.read_until(re.escape(NORMAL_SCREEN))
        os.waitid(os.P_PID, terminal.process.pid, os.WSTOPPED | os.WNOWAIT)
        assert terminal.attributes == terminal.attributes_before
        terminal.process.send_signal(signal.SIGCONT)
        terminal.read_until(re.escape(ALTERNATE_SCREEN) + r"(.|\n)*nobody")
        terminal.press("q")
        assert terminal.wait() == 0


def test_the_last_of_several_looks_stays_on_the_terminal(start_top: StartTop) -> None:
    with start_top("--interval=0.05", "--count=2") as terminal:
        assert terminal.wait() == 0
        assert "nobody" in terminal.written.rpartition(NORMAL_SCREEN)[2]


def test_top_without_a_daemon_does_not_touch_the_screen(start_top: StartTop) -> None:
    with start_top("--interval=0.05", "--backend=daemon", "--socket=/nowhere") as terminal:
        assert terminal.wait() == 3
        assert ALTERNATE_SCREEN not in terminal.written


def test_top_goes_on_when_a_process_has_ended(start_top: StartTop, puppet: Puppet) -> None:
    with start_top("--interval=0.05") as terminal:
        terminal.read_until("nobody")
        puppet.kill()
        terminal.read_until(r"\x1b\[H[^\n]* 0 processes")
        terminal.press("q")
        assert terminal.wait() == 0


# plot


@BACKENDS
def test_a_plot_has_the_pages_that_were_copied(
    run_cowctl: RunCowctl, puppet: Puppet, public_directory: Path, backend: str
) -> None:
    pytest.importorskip("matplotlib", reason="no matplotlib: it draws the pictures")
    pid, address = puppet.map_pages(str(public_directory), PAGES)
    puppet.do("store", 7, 3)
    maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
    [line] = [each for each in maps if each.startswith(f"{address:x}-")]
    name = line.removesuffix(" (deleted)").rpartition("/")[2]
    picture = public_directory / "map.html"
    options = [f"--backend={backend}", "--mapping", name]
    ended = run_cowctl("plot", str(pid), "-o", str(picture), *options)
    assert ended == (0, "", "")
    text = picture.read_text()
    assert f"{address:x}-{address + PAGES * PAGE_BYTES:x} rw-p" in text
    assert "copied: 3 pages, 12K\n" in text
    assert picture.stat().st_uid == NOBODY.uid
