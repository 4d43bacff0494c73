# SPDX-License-Identifier: Apache-2.0
"""`cowctl diff` from its arguments to what it writes; see the expected outputs, too."""

import json

import pytest
from cowd.cli.main import main

START = 0x7F0000000000
PAGE = 4096


@pytest.fixture
def diff(capsys):
    """Return a function that runs the command and returns its status, lines and messages."""

    def run(*arguments):
        status = main(["diff", "7", "8", *arguments])
        written = capsys.readouterr()
        return status, written.out.splitlines(), written.err.splitlines()

    return run


@pytest.fixture
def pair(fake, mapping):
    """Give both processes mappings side by side, and one at a distance."""
    fake.compared = "=cc=pb.1.?.."
    fake.mappings = [
        mapping(START, 2, b"/lib/x.so"),
        mapping(START + 2 * PAGE, 4, b"[heap]", kind="anonymous"),
        mapping(START + 7 * PAGE, 3, b"/lib/y.so"),
        mapping(0xFFFFFFFFFF600000, 1, b"[vsyscall]", kind="special"),
    ]
    fake.other_start_time_ticks = fake.start_times[0]
    return fake


@pytest.mark.usefixtures("pair")
def test_what_differs_is_shown(diff):
    """Seen to fail with what is the same, and with runs that go on across mappings."""
    assert diff() == (
        0,
        [
            "ADDRESS        PAGES SIZE COMPARISON STATE OTHER        COPIED-BY MAPPING",
            "0x7f0000001000     1   4K different  file  anon         second    /lib/x.so",
            "0x7f0000002000     1   4K different  file  anon         second    [heap]",
            "0x7f0000004000     1   4K different  anon  file         first     [heap]",
            "0x7f0000005000     1   4K different  anon  anon         both      [heap]",
            "0x7f0000007000     1   4K only_first anon  absent       -         /lib/y.so",
            "0x7f0000009000     1   4K unknown    anon  anon_swapped -         /lib/y.so",
        ],
        [],
    )


@pytest.mark.usefixtures("pair")
def test_all_is_all_that_is_mapped_but_vsyscall(diff, fake):
    rows = diff("--all", "-nro", "pages,comparison")[1]
    assert sum(int(row.split()[0]) for row in rows) == 9
    assert fake.asked == [(START, 6), (START + 7 * PAGE, 3)]


@pytest.mark.usefixtures("pair")
@pytest.mark.parametrize(
    ("arguments", "asked", "addresses"),
    [
        ([f"{START + PAGE:x}+2"], [(START + PAGE, 2)], [1, 2]),
        ([f"{START:x}-{START + 8 * PAGE:x}", "--mapping", "lib"], None, [1, 7]),
        (["--mapping", "heap"], [(START + 2 * PAGE, 4)], [2, 4, 5]),
    ],
)
def test_a_part_is_chosen(diff, fake, arguments, asked, addresses):
    status, rows, _ = diff(*arguments, "-nro", "address")
    assert (status, rows) == (0, [f"{START + number * PAGE:#x}" for number in addresses])
    assert fake.asked == (asked or [(START, 2), (START + 7 * PAGE, 1)])


@pytest.mark.usefixtures("pair")
def test_totals_are_those_of_the_runs(diff):
    """Seen to fail with totals of the runs that are shown."""
    by_page = json.loads("".join(diff("-J")[1]))
    counted = json.loads("".join(diff("-J", "--totals")[1]))
    assert counted["runs"] == []
    assert counted["mappings"] == by_page["mappings"]
    sorts = ["same", "different", "only_first", "only_second", "neither", "unknown"]
    for each in counted["mappings"]:
        assert sum(each[f"{sort}_page_count"] for sort in sorts) == each["page_count"]
    heap = counted["mappings"][1]
    assert (heap["different_page_count"], heap["same_page_count"]) == (3, 1)
    copiers = ["first", "second", "both"]
    assert [heap[f"copied_by_{copier}_page_count"] for copier in copiers] == [1, 1, 1]


@pytest.mark.usefixtures("pair")
def test_totals_are_a_table_of_their_own(diff):
    """Seen to fail with the columns of the pages."""
    status, rows, _ = diff("--totals", "-nro", "different,by-first,mapping")
    assert (status, rows) == (0, ["4K 0 /lib/x.so", "12K 4K [heap]", "0 0 /lib/y.so"])
    status, rows, messages = diff("--totals", "-o", "copied-by")
    assert (status, rows) == (2, [])
    assert "there are ADDRESS, SIZE, SAME, DIFFERENT" in messages[0]


@pytest.mark.usefixtures("pair")
@pytest.mark.parametrize(
    ("compared", "argument"), [("cccccc.ppp", "--each"), ("=c=c=c.=", "--all")]
)
def test_more_rows_than_anybody_reads_are_refused(diff, monkeypatch, compared, argument, fake):
    """Seen to fail with --each, whose rows were counted as runs; and with --all alone refused."""
    fake.compared = compared
    monkeypatch.setattr("cowd.cli.pairs._MOST_RUNS", 4)
    status, lines, _ = diff("-n")
    assert (status, len(lines)) == (0, 3)
    status, lines, messages = diff(argument)
    assert (status, lines) == (1, [])
    assert messages == [
        "cowctl: there are more than 4 rows to show: ask for less, with a RANGE, --mapping or "
        "--totals"
    ]


@pytest.mark.usefixtures("pair")
@pytest.mark.parametrize("arguments", [[], ["--totals"]])
def test_a_pid_that_is_reused_meanwhile_is_an_error(diff, fake, arguments):
    """Seen to fail without the start time of the second process in the request."""
    fake.other_start_time_ticks += 1
    status, lines, messages = diff(*arguments)
    assert (status, lines) == (1, [])
    assert len(messages) == 1


@pytest.mark.usefixtures("pair")
def test_mappings_that_change_meanwhile_are_noted(diff, fake, mapping):
    """Seen to fail with the mappings of the first process alone looked at."""
    after = [mapping(START, 1), *fake.mappings[1:]]
    fake.change_answer = lambda _: setattr(fake, "mappings", after)
    status, _, messages = diff()
    assert status == 0
    assert [message.split(": ")[2] for message in messages] == [
        f"process {pid} changed its mappings while they were read" for pid in (7, 8)
    ]


@pytest.mark.usefixtures("pair")
@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--mapping", "nothing"], "have no mapping whose name has 'nothing' in it"),
        (["10000"], "have no mapping in this range"),
        (["--mapping", "vsys"], "have no mapping whose name has 'vsys' in it"),
    ],
)
def test_nothing_to_compare_is_a_failure(diff, arguments, what):
    status, lines, messages = diff(*arguments)
    assert (status, lines) == (1, [])
    assert messages == [f"cowctl: processes 7 and 8 {what}: see /proc/7/maps and /proc/8/maps"]


@pytest.mark.parametrize(
    "arguments", [["x", "8"], ["7"], ["7", "0"], ["7", "8", "nowhere"], ["7", "8", "1", "2"]]
)
def test_wrong_usage_is_2(run, arguments):
    status, out, err = run("diff", *arguments)
    assert (status, out) == (2, "")
    assert err.endswith("cowctl: try `cowctl diff --help`\n")
