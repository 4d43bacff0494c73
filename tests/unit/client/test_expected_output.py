# SPDX-License-Identifier: Apache-2.0
"""What cowctl writes, against files that a person has read: tests/unit/client/expected/*.txt.

Each file has the arguments, the exit status, standard output and standard error of one case. With
COWD_UPDATE_EXPECTED=1 the files are written instead of compared: read the difference before you
commit it.
"""

import fcntl
import io
import os
import pty
import re
import struct
import termios
import threading
from dataclasses import replace
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from unicodedata import east_asian_width

import cowd
import pytest
from cowd import _proc
from cowd.cli import doctor, service
from cowd.cli.machine import Machine
from cowd.cli.main import main
from harness.schemas import verify_json
from unit.client.conftest import STATES
from unit.client.fake_processes import make_summary

EXPECTED = Path(__file__).parent / "expected"
MUST_UPDATE = os.environ.get("COWD_UPDATE_EXPECTED") == "1"
START = 0x7F0000000000
PAGE = 4096
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
LONG_PATH = b"/srv/application/releases/2026-11-22/lib/python3.11/site-packages/words-large.dat"

CASES = {
    # name: (columns of the terminal, None for a pipe; arguments)
    "query-80": (80, ["query", "7"]),
    "query-120": (120, ["query", "7"]),
    "query-40": (40, ["query", "7"]),
    "query-pipe": (None, ["query", "7"]),
    "query-range": (None, ["query", "7", f"{START + 0x2001:x}-{START + 0x100001:x}"]),
    "query-each": (80, ["query", "7", "--each", f"{START:x}+6"]),
    "query-json": (None, ["query", "7", "-J"]),
    "query-json-columns": (None, ["query", "7", "-J", "-o", "+size,letters", f"{START:x}+4"]),
    "query-raw": (None, ["query", "7", "-r"]),
    "query-columns": (80, ["query", "7", "-o", "address,pages,kpageflags,flags,attributes"]),
    "query-more-columns-80": (80, ["query", "7", "-o", "+flags"]),
    "query-noheadings": (None, ["query", "7", "-n", "-b"]),
    "query-color": (80, ["query", "7", "--color=always"]),
    "query-local-80": (80, ["query", "7", "--backend=local"]),
    "query-local-json": (None, ["query", "7", "--backend=local", "-J", f"{START:x}+4"]),
    "query-no-daemon": (None, ["query", "7", "--socket=/nowhere/x", f"{START:x}+4"]),
    "query-no-daemon-json": (None, ["query", "7", "--socket=/nowhere/x", "-J", f"{START:x}+4"]),
    "query-daemon-alone": (None, ["query", "7", "--socket=/nowhere/x", "--backend=daemon"]),
    "query-by-name": (80, ["query", "-C", "words", "--mapping", "heap"]),
    "query-several-by-name": (80, ["query", "-C", "gunicorn"]),
    "query-none-by-name": (80, ["query", "-C", "nothing"]),
    "maps-80": (80, ["maps", "7"]),
    "maps-120": (120, ["maps", "7"]),
    "maps-40": (40, ["maps", "7"]),
    "maps-pipe": (None, ["maps", "7"]),
    "maps-json": (None, ["maps", "7", "-J"]),
    "maps-raw": (None, ["maps", "7", "-r", "-o", "+BAR"]),
    "maps-columns": (None, ["maps", "7", "-b", "-o", "address,anon,swapped,zero,guard,unknown"]),
    "maps-sorted": (80, ["maps", "7", "--all", "--sort", "copied"]),
    "maps-local": (None, ["maps", "-C", "words", "--backend=local", "--mapping", "heap"]),
    "maps-no-daemon": (None, ["maps", "7", "--socket=/nowhere/x", "--mapping", "heap"]),
    "maps-no-mapping": (None, ["maps", "7", "--mapping", "nothing"]),
    "diff-80": (80, ["diff", "7", "8"]),
    "diff-120": (120, ["diff", "7", "8"]),
    "diff-40": (40, ["diff", "7", "8"]),
    "diff-pipe": (None, ["diff", "7", "8"]),
    "diff-json": (None, ["diff", "7", "8", "-J"]),
    "diff-all": (80, ["diff", "7", "8", "--all"]),
    "diff-each": (80, ["diff", "7", "8", "--each", f"{START + 0x1001:x}+4"]),
    "diff-totals-80": (80, ["diff", "7", "8", "--totals"]),
    "diff-totals-40": (40, ["diff", "7", "8", "--totals"]),
    "diff-totals-pipe": (None, ["diff", "7", "8", "--totals", "--all", "-o", "+by-second"]),
    "diff-totals-json": (None, ["diff", "7", "8", "--totals", "-J", "--mapping", "heap"]),
    "diff-alike": (80, ["diff", "7", "8", f"{START:x}+2"]),
    "diff-no-mapping": (None, ["diff", "7", "8", "--mapping", "nothing"]),
    "diff-no-daemon": (80, ["diff", "7", "8", "--socket=/nowhere/x"]),
    "diff-usage": (None, ["diff", "7"]),
    "family-80": (80, ["family", "7"]),
    "family-120": (120, ["family", "7"]),
    "family-40": (40, ["family", "7"]),
    "family-pipe": (None, ["family", "7"]),
    "family-json": (None, ["family", "7", "-J"]),
    "family-by-group-80": (80, ["family", "7", "--by-group"]),
    "family-by-group-pipe": (None, ["family", "7", "--by-group", "-n"]),
    "family-one-80": (80, ["family", "8"]),
    "family-none": (80, ["family", "9"]),
    "family-no-daemon": (None, ["family", "7", "--socket=/nowhere/x"]),
    "doctor-80": (80, ["doctor"]),
    "doctor-120": (120, ["doctor"]),
    "doctor-40": (40, ["doctor"]),
    "doctor-json": (None, ["doctor", "-J"]),
    "doctor-pipe": (None, ["doctor"]),
    "doctor-no-daemon-80": (80, ["doctor", "--socket=/nowhere/cowd.sock"]),
    "explain-80": (80, ["explain", "0x5828"]),
    "explain-json": (None, ["explain", "UlMab", "-J"]),
    "status-80": (80, ["status"]),
    "status-json": (None, ["status", "-J"]),
    "top-80": (80, ["top", "--count=1"]),
    "top-120": (120, ["top", "--count=1", "-o", "+rate,file,zero,private-file-resident"]),
    "top-40": (40, ["top", "--count=1"]),
    "top-color": (80, ["top", "--count=1", "--color=always"]),
    "top-pipe": (None, ["top", "--count=2", "--interval=0.01"]),
    "top-noheadings": (None, ["top", "--count=2", "--interval=0.01", "-nb", "--sort=pid"]),
    "top-json": (None, ["top", "--count=2", "--interval=0.01", "-J", "--lines=2"]),
    "top-json-columns": (None, ["top", "-J", "-o", "pid,rate"]),
    "top-pids": (80, ["top", "--count=1", "-p", "5", "-p", "6"]),
    "top-no-pid": (80, ["top", "--count=1", "--pid=6"]),
    "top-no-name": (80, ["top", "-C", "nothing"]),
    "top-no-user": (80, ["top", "-u", "nobody-of-that-name"]),
    "watch-80": (80, ["watch", "7", "--count=1"]),
    "watch-40": (40, ["watch", "7", "--count=1"]),
    "watch-color": (80, ["watch", "7", "--count=1", "--color=always"]),
    "watch-pipe": (None, ["watch", "7", "--count=2", "-o", "+time"]),
    "watch-raw": (None, ["watch", "7", "--count=1", "-rn"]),
    "watch-json": (None, ["watch", "7", "--count=2", "-J"]),
    "watch-range": (None, ["watch", "7", f"{START:x}+2", "--count=1"]),
    "watch-quiet": (None, ["watch", "7", "--mapping", "heap", "--count=2"]),
    "usage": (80, ["query", "7", "-C", "x"]),
}

MACHINE = Machine(
    uid=1000,
    has_proc=True,
    is_proc_own=True,
    proc_options="rw,nosuid,hidepid=invisible",
    pagemap_errno=0,
    is_dumpable=True,
    has_kpageflags=True,
    has_pagemap_scan=False,
    is_user_namespace_first=True,
    is_pid_namespace_first=False,
    container_marks=("docker (/.dockerenv)",),
)


@pytest.fixture
def run(monkeypatch):
    """Return a function that runs cowctl on a terminal, or into pipes, and tells what it wrote."""
    for variable in ("COLUMNS", "LINES", "NO_COLOR"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("TERM", "xterm")

    def run(columns, arguments):
        if columns is None:
            outputs = [io.TextIOWrapper(io.BytesIO(), "utf-8") for _ in range(2)]
            status = call(arguments, *outputs)
            for each in outputs:
                each.flush()
            return status, *(each.buffer.getvalue().decode() for each in outputs)
        with Terminal(columns) as out, Terminal(columns) as err:
            status = call(arguments, out.file, err.file)
        return status, out.text, err.text

    def call(arguments, out, err):
        with monkeypatch.context() as patch:
            for name, file in (("stdout", out), ("stderr", err)):
                patch.setattr(f"sys.{name}", file)
                patch.setattr(f"sys.__{name}__", file)  # whose size shutil asks for
            return main(arguments)

    return run


class Terminal:
    """A terminal of some width, and what has been written to it."""

    def __init__(self, columns):
        self._ours, theirs = pty.openpty()
        attributes = termios.tcgetattr(theirs)
        attributes[1] &= ~termios.OPOST  # no carriage returns
        termios.tcsetattr(theirs, termios.TCSANOW, attributes)
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, columns, 0, 0))
        self.file = open(theirs, "w", encoding="utf-8")  # noqa: SIM115
        self._written = b""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self):
        while True:
            try:
                part = os.read(self._ours, 4096)
            except OSError:  # EIO: nobody has it open any more
                return
            self._written += part

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.file.close()
        self._reader.join()
        os.close(self._ours)
        self.text = self._written.decode()


@pytest.fixture
def words(fake, mapping):
    """Give the process mappings of several kinds, with pages of every state."""
    fake.pages = "aaf.ssazz?Gaffff" + "a" * 8 + "f" * 24
    fake.mappings = [
        mapping(START, 5, LONG_PATH),
        mapping(START + 5 * PAGE, 1, "/tmp/写時複製.dat".encode()),
        mapping(START + 6 * PAGE, 5, b"[heap]", kind="anonymous"),
        mapping(START + 11 * PAGE, 5, b"/dev/shm/y", kind="shared"),
        mapping(START + 16 * PAGE, 232, b"/tmp/\x1b[31m\xff"),
    ]
    fake.maximum_page_count = 100
    fake.page_elsewhere = "."
    fake.compared = "==bc12=cc?.fff.f" + "p" * 8 + "f" * 24
    fake.other_start_time_ticks = fake.start_times[0]

    def count_pages(mapping):
        page_count = (mapping.end_address - mapping.start_address) // PAGE
        for state in fake._states(mapping.start_address, page_count):
            field = f"{cowd.PageState(STATES[state]).name.lower()}_page_count"
            setattr(mapping.page_counts, field, getattr(mapping.page_counts, field) + 1)

    fake.count_pages = count_pages
    return fake


@pytest.fixture
def families(monkeypatch):
    """Have process 7 several children, process 8 one, and process 9 none; without a daemon none.

    Those of process 7 are a large server's, and one has ended.
    """
    usual = cowd.family
    gone = cowd.NoSuchProcess("no child 5000315 of 7: it has ended", reason="NO_SUCH_PROCESS")
    children = {
        7: [make_child(5000312 + number, number + 1) for number in range(3)],
        8: [make_child(5000007, 0)],
        9: [],
    }

    def find(pid, *, address):
        if address:
            return usual(pid, address=address)
        parent = cowd.PageCounts(absent=5_000, file=8_000, anon=200_000, anon_swapped=12)
        skipped = [(5000315, gone)] if pid == 7 else []
        return cowd.Family(pid, 500, PAGE, parent, children[pid], skipped)

    monkeypatch.setattr("cowd.family", find)


def make_child(pid, busy):
    """Return a child that has written to the more, the busier it is."""
    group = cowd.MemoryGroup
    groups = {
        group.HEAP: cowd.Shares(
            shared=150_000 - 9_000 * busy,
            copied_by_child=8_000 * busy,
            copied_by_parent=700 * busy,
            both=300 * busy,
            own=2_000 * busy,
            neither=17,
        ),
        group.ANONYMOUS: cowd.Shares(shared=49_000, different=3 * busy, parent_only=9, unknown=1),
        group.LIBRARY: cowd.Shares(shared=5_800, copied_by_child=20 * busy, file_only=30),
        group.SHARED: cowd.Shares(file_only=44),
    }
    comparison = cowd.Comparison(7, pid, PAGE, 500, 900, ())
    counts = cowd.PageCounts(absent=17, file=5_000, anon=200_000 + 2_000 * busy)
    return cowd.Child(pid, 900, comparison, groups, counts)


@pytest.fixture
def people(tmp_path, monkeypatch):
    """Make a /proc in which one process is called words, and several gunicorn.

    Their pids are over PID_MAX_LIMIT, so that none is that of the test itself.
    """
    proc = tmp_path / "proc"
    monkeypatch.setattr(_proc, "_PROC", proc)
    for pid, uid, comm, command in (
        (5000007, 0, "words", "words"),
        (5000312, 0, "gunicorn", "gunicorn: master [shop]"),
        (5000313, 4_000_000_000, "gunicorn", "python3\0/usr/bin/gunicorn\0--preload\0shop:app"),
        (50000314, 4_000_000_000, "gunicorn", "gunicorn\0" + "--workers\0" * 20),
    ):
        (proc / str(pid)).mkdir(parents=True)
        for file, text in (
            ("comm", f"{comm}\n"),
            ("cmdline", f"{command}\0"),
            ("status", f"Name:\t{comm}\nState:\tS (sleeping)\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\n"),
        ):
            (proc / str(pid) / file).write_text(text)


@pytest.fixture
def place(words, monkeypatch):
    """Make all that doctor sees the same on every machine."""
    words.page_elsewhere = "a"
    os.chmod(words.path, 0o660)
    monkeypatch.setattr(service, "_name_owners", lambda *_: "root:cowd")
    monkeypatch.setattr(doctor, "read_machine", lambda: MACHINE)
    monkeypatch.setattr("cowd.__version__", "9.8.6")


@pytest.fixture
def local(words, monkeypatch):
    """Have the kernel alone answer what the fake daemon answers, without flags."""

    assert cowd.Local  # The library keeps what it loads late: the real one, in whatever order.

    class Local(cowd.Client):
        name = "local"

        def __init__(self):
            super().__init__(words.path)

        def stream_page_flags(self, *arguments, **options):
            for chunk in super().stream_page_flags(*arguments, **options):
                yield replace(chunk, masks=None, kpageflags=None)

    monkeypatch.setattr("cowd._local.Local", Local)


@pytest.fixture
def life(words, monkeypatch):
    """Have every look come two seconds after the one before, and find something new."""
    seconds = count(step=2.0)
    for module in ("top", "watch"):
        monkeypatch.setattr(f"cowd.cli.{module}.read_seconds", lambda: next(seconds))
        monkeypatch.setattr(f"cowd.cli.{module}.read_time", lambda: NOON)
    names = {3: ("root", "init\x1b"), 5: ("写", "gunicorn: worker"), 8: (None, None)}
    monkeypatch.setattr("cowd.cli.top.read_names", names.get)
    words.summaries[3] = make_summary(3, anon_page_count=5000)
    after = iter(["aaa.s", "aaaaa"])

    def copy(answer):
        if getattr(answer, "pid", None) == 5:
            answer.totals[0].anon_page_count += 300

    def live(*_):
        words.pages = next(after) + words.pages[5:]

    words.change_answer = copy
    monkeypatch.setattr("cowd.cli.watch._Ending.wait_until", live)


@pytest.mark.usefixtures("people", "place", "local", "families", "life")
@pytest.mark.parametrize("name", CASES)
def test_output_is_what_is_expected(run, words, monkeypatch, name):
    monkeypatch.chdir(os.path.dirname(words.path))
    monkeypatch.setenv("COWD_SOCKET", "cowd.sock")  # as long on every machine
    if not name.startswith("doctor"):
        words.page_elsewhere = "."
    columns, arguments = CASES[name]
    status, out, err = run(columns, arguments)
    verify_json(arguments, out)
    for line in (out + err).splitlines():
        assert columns is None or measure(line) <= columns
    text = (
        f"# SPDX-License-Identifier: Apache-2.0\n$ cowctl {' '.join(arguments)}\n"
        f"== exit status {status}\n== standard output\n{out}== standard error\n{err}"
    )
    file = EXPECTED / f"{name}.txt"
    if MUST_UPDATE:
        EXPECTED.mkdir(exist_ok=True)
        file.write_text(text)
    assert text == file.read_text(), "COWD_UPDATE_EXPECTED=1 rewrites the file"


def test_every_file_has_its_case():
    assert {file.stem for file in EXPECTED.iterdir()} == set(CASES)


def measure(line):
    """Return how many columns of a terminal a line takes."""
    return sum(2 if east_asian_width(char) in "WF" else 1 for char in ESCAPES.sub("", line))
