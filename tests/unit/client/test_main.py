# SPDX-License-Identifier: Apache-2.0
"""`cowctl` itself: exit statuses, messages, help; and the small commands."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from cowdaemon.errors import CowdError, Reason

START = 0x7F0000000000


@pytest.mark.parametrize(
    ("reason", "status"),
    [
        (Reason.NO_SUCH_PROCESS, 1),
        (Reason.INTERNAL_ERROR, 1),
        (Reason.PROCESS_GONE, 1),
        (Reason.OPENER_LOST, 3),
        (Reason.ACCESS_DENIED, 4),
        (Reason.FOREIGN_USER_NAMESPACE, 4),
    ],
)
def test_exit_status_and_the_daemons_sentence(fake, run, monkeypatch, reason, status):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    fake.failure = CowdError(reason, pid=7)
    assert run("query", "7", "--backend=daemon") == (
        status,
        "",
        f"cowctl: {reason.sentence.format(pid=7)}\n",
    )


def test_who_is_denied_a_process_is_told_as_whom_to_ask(fake, run, monkeypatch):
    """Root is told nothing. Seen to fail without the next step, and with one for root."""
    fake.failure = CowdError(Reason.ACCESS_DENIED, pid=7)
    steps = {}
    for uid in 0, 1000:
        monkeypatch.setattr(os, "geteuid", lambda uid=uid: uid)
        status, _, err = run("maps", "7", "--backend=daemon")
        assert status == 4
        steps[uid] = err.splitlines()[1:]
    hint = "cowctl: ask as the user that it runs as (sudo -u USER cowctl ...), or as root"
    assert steps == {0: [], 1000: [hint]}


@pytest.mark.parametrize("command", [["query", "7", "--backend=daemon"], ["status"], ["demo"]])
def test_an_unreachable_daemon_is_3_with_a_next_step(run, socket_path, command):
    status, out, err = run(*command, "--socket", socket_path)
    assert (status, out) == (3, "")
    first, second = err.splitlines()
    assert first == f"cowctl: cannot connect to cowd at {socket_path}: No such file or directory"
    assert "systemctl start cowd.socket" in second
    assert "COWD_SOCKET" in second


def test_the_socket_may_be_named_before_the_command_or_after_it(fake, run, monkeypatch, tmp_path):
    monkeypatch.setenv("COWD_SOCKET", str(tmp_path / "nobody-listens-here"))
    assert run("--socket", fake.path, "status")[0] == 0
    assert run("status", "--socket", fake.path)[0] == 0
    assert run("--socket", str(tmp_path / "nor-here"), "status", "--socket", fake.path)[0] == 0
    assert run("status")[0] == 3


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["query"],
        ["query", "0"],
        ["query", "x"],
        ["query", "7", "xyz"],
        ["query", "7", "2000-1000"],
        ["query", "7", "--each=1"],
        ["query", "7", "-J", "-r"],
        ["query", "7", "-o", "x"],
        ["query", "7", "--color", "x"],
        ["explain"],
        ["explain", "uptodat"],
        ["status", "extra"],
    ],
)
def test_wrong_usage_is_2_before_anything_is_asked(fake, run, arguments):
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith("cowctl: ")
    assert "--help`" in err
    assert fake.asked == []


@pytest.mark.usefixtures("fake")
def test_a_range_past_the_end_of_all_addresses_is_wrong_usage(run):
    status, _, err = run("query", "7", "ffffffffffffffff+2")
    assert status == 2
    assert "past 2^64" in err


def test_messages_cannot_steer_the_terminal(run):
    status, _, err = run("status", "--socket", "/x\x1b[31m\u202e")
    assert status == 3
    assert err.startswith(r"cowctl: cannot connect to cowd at /x\x1b[31m\u202e:")


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["query", "--help"], ["--version"]])
def test_help_goes_to_standard_output(run, arguments):
    status, out, err = run(*arguments)
    assert (status, err) == (0, "")
    assert out


@pytest.mark.parametrize("command", ["query", "status", "doctor", "explain", "demo", "completion"])
def test_every_command_has_help_with_columns_and_examples(run, command):
    out = run(command, "--help")[1]
    assert ("Columns:" in out) == (command != "completion")
    assert f"cowctl {command}" in out.partition("Examples:")[2]
    assert all(len(line) <= 80 for line in out.splitlines())
    described = [line for line in run("--help")[1].splitlines() if line.startswith(f"  {command} ")]
    assert len(described) == 1
    assert not described[0].endswith("...")


def test_help_says_how_a_process_is_named(run):
    out = run("query", "--help")[1]
    assert out.splitlines()[0] == "Usage: cowctl query [OPTIONS] {PID | -C NAME} [RANGE]"
    assert "-C redis-server" in out.partition("Examples:")[2]


def test_status(fake, run):
    status, out, err = run("status")
    assert (status, err) == (0, "")
    assert out.splitlines() == [
        f"SOCKET        {fake.path}",
        "SERVING       yes",
        "VERSION       9.8.7",
        "CALLER        uid=1000 gid=100 groups=4,27",
        "PAGE-SIZE     4K",
        "MAX-PAGES     8",
        "MAX-MAPPINGS  2",
        "MAX-CALLS     4",
        "MASKS         private_flags_mask=0x2012e797d shared_flags_mask=0x14a5808",
        "KERNEL        soft_dirty=no guard_regions=no markers=yes pagemap_scan=yes "
        "page_copiers=yes",
        "GRANTED       summary",
        "CONFINEMENT   seccomp=yes landlock_abi=7",
    ]
    assert run("status", "-bno", "version,page-size")[1] == "9.8.7\n4096\n"
    assert run("status", "-ro", "version,caller")[1] == (
        "VERSION 9.8.7\nCALLER uid=1000\\x20gid=100\\x20groups=4,27\n"
    )


def test_status_as_json(fake, run):
    told = json.loads(run("status", "-J")[1])
    assert told == {
        "schema": "cowd.status/1",
        "socket": fake.path,
        "serving": True,
        "version": "9.8.7",
        "caller": {"uid": 1000, "gid": 100, "groups": [4, 27]},
        "page_size_bytes": 4096,
        "maximum_page_count": 8,
        "maximum_mapping_count": 2,
        "maximum_concurrent_call_count": 4,
        "masks": {"private_flags_mask": "0x2012e797d", "shared_flags_mask": "0x14a5808"},
        "kernel_features": {
            "soft_dirty": False,
            "guard_regions": False,
            "markers": True,
            "pagemap_scan": True,
            "page_copiers": True,
        },
        "granted": "summary",
        "confinement": {"seccomp": True, "landlock_abi": 7},
    }


def test_a_daemon_that_is_not_well_is_shown_and_is_1(fake, run):
    fake.serving = False
    status, out, _ = run("status", "-o", "serving")
    assert (status, out) == (1, "SERVING  no\n")


def test_explain(run):
    assert run("explain", "0x4000000004020") == (
        0,
        "BIT LETTER NAME       MEANING\n"
        "  5 l      lru        in a list for reclaim\n"
        " 14 b      swapbacked backed by swap, as all tmpfs pages are, copied or not\n"
        " 50 -      bit_50     not known to this version of cowctl\n",
        "",
    )
    assert run("explain", "0")[0] == 0


def test_explanations_fit_a_terminal(run):
    out = run("explain", hex(2**64 - 1))[1]
    assert all(len(line) <= 80 for line in out.splitlines())


def test_explain_as_json(run):
    told = json.loads(run("explain", "lb", "-J")[1])
    assert (told["schema"], told["kpageflags"]) == ("cowd.explain/1", "0x4020")
    assert told["flags"][0] == {
        "bit": 5,
        "letter": "l",
        "name": "lru",
        "meaning": "in a list for reclaim",
    }


@pytest.fixture
def start(monkeypatch):
    """Return a function that starts cowctl as a process."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    started = []

    def start(*arguments, **options):
        process = subprocess.Popen(
            [sys.executable, "-m", "cowd.cli.main", *arguments],
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_closed_pipe_is_quiet(fake, start):
    fake.pages = "fa" * 20_000
    fake.maximum_page_count = 65_536
    process = start("query", "7", f"{START:x}+40000")
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(30) == 0
    assert process.stderr.read() == b""


@pytest.mark.parametrize("arguments", [["explain", "1"], ["explain", hex(2**64 - 1)], ["--help"]])
def test_output_that_cannot_be_written_is_1(start, arguments):
    with open("/dev/full", "w") as full:
        process = start(*arguments, stdout=full)
    assert process.communicate(timeout=30)[1] == (
        b"cowctl: cannot write: No space left on device\n"
    )
    assert process.returncode == 1


def test_closed_standard_output_is_1(start):
    process = start("explain", "1", stdout=None, preexec_fn=lambda: os.close(1))
    assert process.communicate(timeout=30)[1] == (
        b"cowctl: cannot write: standard output is closed\n"
    )
    assert process.returncode == 1


def test_closed_standard_error_keeps_messages_out_of_the_data(start):
    process = start("explain", "nonsense", stderr=None, preexec_fn=lambda: os.close(2))
    assert process.communicate(timeout=30)[0] == b""
    assert process.returncode == 2


def test_interruption_is_130(fake, start):
    fake.delay_seconds = 0.05
    fake.maximum_page_count = 1
    process = start("query", "7", f"{START:x}+1000")
    while not fake.asked:
        time.sleep(0.01)  # Nothing to wait on: the server runs in threads of this process.
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, b"", b"")
