# SPDX-License-Identifier: Apache-2.0
"""What Tab completes after cowctl: what the shells' scripts ask, and what they are answered.

`tests/integration/test_completion.py` presses Tab in the shells themselves.
"""

import os
import subprocess
import sys

import click
import pytest
from cowd import _proc
from cowd._kpageflags import FLAG_DESCRIPTIONS
from cowd.cli.main import main
from cowd.cli.options import COMPLETION_VARIABLE
from harness.commands import COMMANDS, list_options

SHELLS = ("bash", "zsh", "fish")


def get_columns(name):
    """Return the columns of a command, if it has some."""
    return getattr(COMMANDS[name].command, "columns", ())


@pytest.fixture
def complete(monkeypatch, capsys):
    """Return a function that tells what a line of words is completed to, with help texts."""

    def complete(line, shell="fish"):
        words = line.split(" ")
        number = len(words) - 1
        monkeypatch.setenv("COMP_WORDS", line)
        monkeypatch.setenv("COMP_CWORD", words[-1] if shell == "fish" else str(number))
        monkeypatch.setenv(COMPLETION_VARIABLE, f"{shell}_complete")
        assert main([]) == 0
        written = capsys.readouterr()
        assert written.err == ""
        return parse(shell, written.out)

    return complete


def parse(shell, text):
    """Return what a script makes of an answer: help texts by words."""
    lines = text.rstrip("\n").splitlines()
    if shell == "zsh":
        kinds, words, texts = lines[::3], lines[1::3], lines[2::3]
        assert not set(kinds) - {"plain"}
        return {word: "" if text == "_" else text for word, text in zip(words, texts, strict=True)}
    found = {}
    for line in lines:
        kind, _, rest = line.partition(",")
        word, _, help_text = rest.partition("\t")
        assert kind == "plain"
        found[word] = help_text
    return found


@pytest.mark.parametrize("shell", SHELLS)
def test_commands_are_completed(complete, shell):
    found = complete("cowctl ", shell)
    assert set(found) == set(COMMANDS) - {"cowctl"}
    assert shell == "bash" or found["status"].startswith("Show whether the daemon is there")
    assert set(complete("cowctl exp", shell)) == {"explain"}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_completed(complete, name):
    line = "cowctl -" if name == "cowctl" else f"cowctl {name} -"
    found = complete(line)
    options = {text: each.help for each in list_options(name) for text in each.opts}
    assert {"--help", "-h"} <= set(options)
    assert found == options


@pytest.mark.parametrize("name", COMMANDS)
def test_every_choice_is_completed(complete, name):
    choices = 0
    for each in COMMANDS[name].command.params:
        if isinstance(each.type, click.Choice):
            option = f"{max(each.opts, key=len)} " if isinstance(each, click.Option) else ""
            assert set(complete(f"cowctl {name} {option}")) == set(each.type.choices)
            choices += 1
    assert choices >= (name != "cowctl")


@pytest.mark.parametrize("name", [name for name in COMMANDS if get_columns(name)])
def test_every_column_is_completed(complete, name):
    for before in ("", "+"):
        found = complete(f"cowctl {name} -o {before}")
        assert found == {before + each.heading: each.help for each in get_columns(name)}


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("PA", ["PAGES"]),
        ("pa", ["pages"]),
        ("address,pa", ["address,pages"]),
        ("+fl", ["+flags"]),
        ("+flags,FL", []),
        ("address,PAGES,add", []),
        ("x", []),
    ],
)
@pytest.mark.parametrize("shell", SHELLS)
def test_columns_are_completed_after_commas_and_each_once(complete, shell, typed, completed):
    assert [*complete(f"cowctl query -o {typed}", shell)] == completed


def test_kernel_flags_are_completed_with_their_meaning(complete):
    assert complete("cowctl explain ") == {each.name: each.meaning for each in FLAG_DESCRIPTIONS}
    assert complete("cowctl explain lru,up") == {"lru,uptodate": "its contents are valid"}
    assert complete("cowctl explain +") == {}


@pytest.mark.parametrize(
    ("shell", "line", "completed"),
    [
        ("bash", "cowctl query --color = al", ["always"]),  # so readline splits it
        ("bash", "cowctl query --color =", ["auto", "always", "never"]),
        ("zsh", "cowctl query --color=al", ["--color=always"]),
        ("fish", "cowctl query --color=al", ["--color=always"]),
        ("fish", "cowctl query --output=addr", ["--output=address"]),
    ],
)
def test_a_value_may_be_joined_to_its_option(complete, shell, line, completed):
    assert [*complete(line, shell)] == completed


def test_a_path_is_left_to_the_shell(monkeypatch, capsys):
    for command in "cowctl", "cowctl query", "cowctl status":
        monkeypatch.setenv("COMP_WORDS", f"{command} --socket /r")
        monkeypatch.setenv("COMP_CWORD", "/r")
        monkeypatch.setenv(COMPLETION_VARIABLE, "fish_complete")
        assert main([]) == 0
        assert capsys.readouterr().out == "file,/r\n"


# Processes


@pytest.fixture
def people(tmp_path, monkeypatch):
    """Make a /proc with processes of some users; two of them have no address space."""
    monkeypatch.setattr(_proc, "_PROC", tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    for pid, uid, comm, has_memory in (
        (5000007, 1000, "words", True),
        (5000008, 1001, "others", True),
        (5000009, 1000, "zombie", False),
        (5000010, 1000, "x; rm -r ~", True),
        (5000011, 1000, "\x1b[31m,_", True),
        (5000012, 0, "kthreadd", False),
        (5000013, 1000, "words", True),
    ):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "comm").write_text(f"{comm}\n")
        memory = "VmSize:\t     100 kB\n" if has_memory else ""
        status = f"Name:\tx\nState:\tS (sleeping)\nUid:\t0\t{uid}\t0\t0\n{memory}"
        (tmp_path / str(pid) / "status").write_text(status)
    (tmp_path / "5000014").mkdir()  # has ended


@pytest.mark.usefixtures("people")
def test_own_processes_are_completed_with_their_names(complete):
    assert complete("cowctl query ") == {
        "5000007": "words",
        "5000010": "x; rm -r ~",
        "5000011": r"\x1b[31m,_",
        "5000013": "words",
    }
    assert set(complete("cowctl query 50000")) == set(complete("cowctl query "))
    assert set(complete("cowctl query --each --backend local 500001")) == {
        *("5000010", "5000011", "5000013")
    }
    assert complete("cowctl query 6") == {}


@pytest.mark.usefixtures("people")
def test_root_is_offered_the_processes_of_others(complete, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert complete("cowctl query 5000008") == {"5000008": "others"}
    assert complete("cowctl query 5000012") == {}


@pytest.mark.usefixtures("people")
@pytest.mark.parametrize("option", ["-C", "--command"])
def test_names_are_completed_if_no_shell_would_take_them_for_something_else(complete, option):
    assert complete(f"cowctl query {option} ") == {"words": ""}


def test_nothing_is_offered_where_there_is_no_proc(complete, monkeypatch, tmp_path):
    monkeypatch.setattr(_proc, "_PROC", tmp_path / "x")
    assert complete("cowctl query ") == complete("cowctl query -C ") == {}


@pytest.fixture
def sleeper():
    """Start a process of our own and return it once it maps nothing new."""
    with subprocess.Popen(
        [sys.executable, "-c", "print(flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout.readline() == b"\n"
        yield process
        process.kill()


def test_a_pid_is_followed_by_its_ranges_and_its_mappings(complete, sleeper):
    expected = {}
    with open(f"/proc/{sleeper.pid}/maps") as maps:
        for line in maps:
            addresses, *_, name = line.split(" ", maxsplit=5)
            start, end = addresses.split("-")
            expected[f"{int(start, 16):x}-{int(end, 16):x}"] = name.strip()
    found = complete(f"cowctl query {sleeper.pid} ")
    assert found == expected
    [stack] = [words for words, name in found.items() if name == "[stack]"]
    assert complete(f"cowctl query {sleeper.pid} {stack[:-1]}") == {stack: "[stack]"}
    assert complete(f"cowctl query {sleeper.pid} {stack} ") == {}
    assert "stack" in complete(f"cowctl query {sleeper.pid} --mapping ")
    assert [*complete(f"cowctl query {sleeper.pid} --mapping stac")] == ["stack"]


def test_two_pids_are_followed_by_ranges_of_the_first(complete, sleeper):
    """Seen to fail without the pid of `diff`, which has a name of its own."""
    pid = str(sleeper.pid)
    assert pid in complete("cowctl diff ")
    assert pid in complete(f"cowctl diff {os.getpid()} ")
    ranges = complete(f"cowctl query {pid} ")
    assert complete(f"cowctl diff {pid} {os.getpid()} ") == ranges
    assert "stack" in complete(f"cowctl diff {pid} {os.getpid()} --mapping ")
    assert complete(f"cowctl diff {pid} {os.getpid()} {next(iter(ranges))} ") == {}


@pytest.mark.parametrize("name", ["maps", "family", "plot"])
def test_a_pid_is_followed_by_nothing_where_there_is_no_range(complete, sleeper, name):
    """Seen to fail with the ranges of `query`."""
    assert str(sleeper.pid) in complete(f"cowctl {name} ")
    assert complete(f"cowctl {name} {sleeper.pid} ") == {}


def test_top_completes_processes_names_and_users(complete, sleeper):
    assert str(sleeper.pid) in complete("cowctl top --pid ")
    assert complete("cowctl top --pid ")[str(sleeper.pid)] in complete("cowctl top -C ")
    assert {"root", "nobody"} <= set(complete("cowctl top --user "))
    assert set(complete("cowctl top -u nobod")) == {"nobody"}
    assert complete(f"cowctl watch {sleeper.pid} ") == complete(f"cowctl query {sleeper.pid} ")


def test_columns_are_those_of_the_table_that_is_asked_for(complete):
    """Seen to fail with the columns of the other table."""
    assert "COPIED-BY" in complete("cowctl diff 1 2 -o ")
    assert "COPIED-BY" not in complete("cowctl diff 1 2 --totals -o ")
    assert "ONLY-FIRST" in complete("cowctl diff 1 2 --totals -o ")
    assert "GROUP" in complete("cowctl family 1 --by-group -o ")


@pytest.mark.parametrize("line", ["x ", "5000007 ", "-C no-such-name ", "--mapping "])
def test_what_is_no_process_has_no_ranges(complete, line):
    assert complete(f"cowctl query {line}") == {}


# The scripts


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_is_printed_and_asks_through_the_variable(run, shell):
    status, out, err = run("completion", shell)
    assert (status, err) == (0, "")
    assert f"{COMPLETION_VARIABLE}={shell}_complete" in out
    assert out.endswith("\n")
    assert not out.endswith("\n\n")


def test_the_script_needs_no_bash(run, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run("completion", "bash")[0] == 0


def test_zsh_loads_the_script_as_a_function_of_a_command(run):
    assert run("completion", "zsh")[1].startswith("#compdef cowctl\n")


@pytest.mark.parametrize("arguments", [[], ["csh"], ["bash", "zsh"], ["bash", "--json"]])
def test_other_shells_are_wrong_usage(run, arguments):
    assert run("completion", *arguments)[0] == 2


def test_an_instruction_of_another_kind_is_refused_and_nothing_else_is_done(run, monkeypatch):
    monkeypatch.setenv(COMPLETION_VARIABLE, "nonsense")
    assert run("explain", "lru") == (1, "", "")


def test_completing_is_loaded_only_when_it_is_asked_for():
    code = (
        "import sys\nfrom cowd.cli.main import main\nmain(['explain', 'lru'])\n"
        "sys.exit('click.shell_completion' in sys.modules)"
    )
    path = os.pathsep.join(filter(None, sys.path))
    environment = os.environ | {"PYTHONPATH": path}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
