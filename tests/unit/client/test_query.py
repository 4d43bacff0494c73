# SPDX-License-Identifier: Apache-2.0
"""`cowctl query` from its arguments to what it writes."""

import json
import os

import pytest
from cowd.cli.main import main
from cowdaemon.errors import CowdError, Reason
from harness.schemas import verify_json

START = 0x7F0000000000
PAGE = 4096


@pytest.fixture
def query(capsys):
    """Return a function that runs the command and returns its status, lines and messages."""

    def run(*arguments):
        status = main(["query", "7", *arguments])
        written = capsys.readouterr()
        verify_json(arguments, written.out)
        return status, written.out.splitlines(), written.err.splitlines()

    return run


@pytest.fixture
def several(fake, mapping):
    """Give the process mappings of every kind."""
    fake.pages = "aaf.aaaaz"
    fake.mappings = [
        mapping(START, 4, b"/lib/x.so"),
        mapping(START + 4 * PAGE, 2, b"/dev/shm/y", kind="shared"),
        mapping(START + 6 * PAGE, 3, b"[heap]", kind="anonymous"),
        mapping(START + 10 * PAGE, 1, b"[vvar]", kind="special"),
    ]
    return fake


@pytest.mark.usefixtures("several")
def test_every_private_mapping_is_shown_without_a_range(query):
    assert query() == (
        0,
        [
            "ADDRESS        PAGES SIZE STATE  COPIED LETTERS MAPPING",
            "0x7f0000000000     2   8K anon   yes    UlMab   /lib/x.so",
            "0x7f0000002000     1   4K file   no     UM      /lib/x.so",
            "0x7f0000003000     1   4K absent no     -       /lib/x.so",
            "0x7f0000006000     2   8K anon   -      UlMab   [heap]",
            "0x7f0000008000     1   4K zero   -      Mz      [heap]",
        ],
        [],
    )


@pytest.mark.usefixtures("several")
def test_json_is_the_documented_schema(query):
    status, lines, messages = query("-J", f"{START:x}+3")
    assert (status, messages) == (0, [])
    assert json.loads("\n".join(lines)) == {
        "schema": "cowd.query/1",
        "pid": 7,
        "start_time_ticks": 500,
        "page_size_bytes": 4096,
        "backend": "daemon",
        "masks": {"private_flags_mask": "0x2012e797d", "shared_flags_mask": "0x14a5808"},
        "runs": [
            {
                "address": "0x7f0000000000",
                "page_count": 2,
                "state": "anon",
                "copied": True,
                "kpageflags": "0x5828",
                "flags": ["uptodate", "lru", "mmap", "anonymous", "swapbacked"],
                "attributes": ["exclusive"],
                "mapping": "/lib/x.so",
            },
            {
                "address": "0x7f0000002000",
                "page_count": 1,
                "state": "file",
                "copied": False,
                "kpageflags": "0x808",
                "flags": ["uptodate", "mmap"],
                "attributes": [],
                "mapping": "/lib/x.so",
            },
        ],
    }


@pytest.mark.usefixtures("several")
def test_a_range_goes_across_mappings_and_outside_them(query):
    status, lines, _ = query("-J", f"{START + 3 * PAGE:x}-{START + 12 * PAGE:x}")
    assert status == 0
    runs = json.loads("\n".join(lines))["runs"]
    assert [(run["page_count"], run["state"], run["copied"], run["mapping"]) for run in runs] == [
        (1, "absent", False, "/lib/x.so"),
        (2, "anon", None, "/dev/shm/y"),
        (2, "anon", None, "[heap]"),
        (1, "zero", None, "[heap]"),
        (1, "absent", None, None),
        (1, "absent", None, "[vvar]"),
        (1, "absent", None, None),
    ]
    assert runs[0]["kpageflags"] is None
    assert runs[0]["flags"] is None


@pytest.mark.usefixtures("several")
def test_one_address_is_one_page_and_is_rounded_down_with_a_note(query):
    status, lines, messages = query(f"{START + 1:x}", "-n", "-o", "address,pages")
    assert (status, lines) == (0, ["0x7f0000000000 1"])
    assert messages == [
        "cowctl: note: 0x7f0000000001 is inside a page: rounded down to 0x7f0000000000"
    ]


@pytest.mark.usefixtures("several")
def test_each_page_can_have_its_row(query):
    assert query("--each", "-no", "pages", f"{START:x}+4")[1] == ["1"] * 4


def test_rows_go_across_the_answers_of_one_call(several, query):
    several.maximum_page_count = 1
    assert query(f"{START:x}+4", "-nro", "pages") == (0, ["2", "1", "1"], [])
    assert several.asked == [(START, 4)]


@pytest.mark.usefixtures("several")
def test_mappings_are_chosen_by_text(query):
    assert query("--mapping", "shm", "-nro", "address,copied")[1] == ["0x7f0000004000 -"]
    assert query("--mapping", "shm", f"{START:x}+5", "-nro", "pages")[1] == ["1"]


@pytest.mark.usefixtures("several")
@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("--mapping", "nothing"), "whose name has 'nothing' in it"),
        (("--mapping", "heap", f"{START:x}"), "in this range whose name has 'heap' in it"),
    ],
)
def test_no_such_mapping_is_a_failure(query, arguments, what):
    message = f"cowctl: process 7 has no mapping {what}: see /proc/7/maps"
    assert query(*arguments) == (1, [], [message])


def test_a_process_without_private_mappings_is_a_failure(fake, query, mapping):
    fake.mappings = [mapping(START, 1, kind="shared")]
    message = "cowctl: process 7 has no mapping that is private: see /proc/7/maps"
    assert query() == (1, [], [message])


def test_the_vsyscall_page_is_left_out(fake, query, mapping):
    fake.mappings = [
        mapping(START, 1, b"/lib/sys.so"),
        mapping(0xFFFFFFFFFF600000, 1, b"[vsyscall]", kind="special"),
    ]
    assert query("--mapping", "sys", "-nro", "mapping") == (0, ["/lib/sys.so"], [])
    assert fake.asked == [(START, 1)]
    status, lines, messages = query("--mapping", "vsys")
    assert (status, lines) == (1, [])
    assert "but [vsyscall], whose pages the kernel does not tell of" in messages[0]
    assert len(fake.asked) == 1


def test_a_hostile_path_steers_nothing(fake, query, mapping):
    fake.mappings = [mapping(START, 1, b"/tmp/\x1b]0;owned\x07\n\xe2\x80\xae\xff")]
    assert query("-nro", "mapping")[1] == [r"/tmp/\x1b]0;owned\x07\x0a\u202e\xff"]
    lines = query("-J")[1]
    assert "\x1b" not in "".join(lines)
    path = json.loads("".join(lines))["runs"][0]["mapping"]
    assert path == "/tmp/\x1b]0;owned\x07\n\u202e\\xff"


@pytest.mark.usefixtures("several")
def test_a_terminal_gets_the_map_and_its_legend(query, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    lines = query("--color", "always")[1]
    assert lines[0] == (
        "|\x1b[1;31mCC\x1b[0m\x1b[32mf\x1b[0m\x1b[2m.\x1b[0m\x1b[33maa\x1b[0m\x1b[34mz\x1b[0m|"
    )
    for part in ("copied", "anonymous", "zero page", "file", "absent"):
        assert part in lines[1]
    assert lines[2] == ""


def test_a_pid_that_is_reused_meanwhile_is_an_error(several, query):
    several.start_times = [500, 600]
    several.listing_count = 9
    status, lines, messages = query()
    assert (status, lines) == (1, [])
    assert messages == ["cowctl: the pid now belongs to another process"]


def test_mappings_that_change_meanwhile_are_noted(several, query, mapping):
    several.mappings_after_reading = [mapping(START, 3)]
    status, _, messages = query(f"{START:x}")
    assert status == 0
    assert len(messages) == 1
    assert "changed its mappings" in messages[0]


def test_a_refusal_of_the_daemon_alone_is_noted(fake, capsys):
    fake.failure = CowdError(Reason.ACCESS_DENIED, pid=7)
    assert main(["query", str(os.getpid()), "--mapping", "stack", "-no", "copied"]) == 0
    written = capsys.readouterr()
    assert written.out
    refusal, note = written.err.splitlines()
    assert refusal.startswith("cowctl: note: the kernel does not let you inspect process 7:")
    assert note == "cowctl: note: asking the kernel alone, which tells no kernel flags"


@pytest.mark.usefixtures("several")
def test_more_rows_than_anybody_reads_are_refused(query, monkeypatch):
    monkeypatch.setattr("cowd.cli.query._MOST_RUNS", 5)
    assert query()[0] == 0
    status, lines, messages = query("--each")
    assert (status, lines) == (1, [])
    assert messages == [
        "cowctl: process 7 has more than 5 rows to show: ask for less, with a RANGE or --mapping"
    ]


@pytest.mark.usefixtures("several")
def test_neighbouring_mappings_are_asked_about_at_once(several, query):
    several.listing_count = 10
    assert query(f"{START:x}-{START + 9 * PAGE:x}")[0] == 0
    assert several.asked == [(START, 9)]


def test_a_pid_that_is_reused_before_the_pages_are_read_is_noticed(fake, query):
    fake.start_times = [500, 501]
    status, lines, messages = query("--backend=daemon")
    assert (status, lines) == (1, [])
    assert messages == ["cowctl: the pid now belongs to another process"]
