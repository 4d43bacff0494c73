# SPDX-License-Identifier: Apache-2.0
"""Processes by name: from a made-up /proc, and from the real one."""

import os
import shutil
import subprocess

import click
import pytest
from cowd import _proc
from cowd._backend import ask
from cowd.cli.main import main
from cowd.cli.processes import find_process, find_uid, iter_pids, read_names


@pytest.fixture
def add(tmp_path, monkeypatch):
    """Return a function that adds a process to a /proc of the test's own."""
    monkeypatch.setattr(_proc, "_PROC", tmp_path)
    monkeypatch.delenv("COLUMNS", raising=False)
    (tmp_path / "self").mkdir()
    (tmp_path / "uptime").write_text("1 1")

    def add(pid, comm, command=b"", *, state="S", uid=4_000_000_000, parent=1):
        directory = tmp_path / str(pid)
        if directory.exists():  # another process of this number has another directory
            shutil.rmtree(directory)
        directory.mkdir()
        (directory / "comm").write_bytes(comm + b"\n")
        (directory / "cmdline").write_bytes(command)
        name = comm.replace(b"\n", rb"\n")
        status = b"Name:\t%b\nState:\t%b (as ps has it)\nPPid:\t%d\nUid:\t0\t%d\t0\t0\n"
        (directory / "status").write_bytes(status % (name, state.encode(), parent, uid))

    return add


def find(name, **options):
    """Return the pid of the process of that name."""
    with find_process(name, **options) as found:
        return found.pid


def test_one_match_is_found(add):
    add(30, b"redis")
    add(31, b"redis-server")
    assert find("redis-server") == 31


@pytest.mark.parametrize(
    "comm", [b"a b", b"x) S 1 (", b"\xff\xfe", b"x\ny", b"\rState:\tZ\x1cState:\tZ"]
)
def test_odd_names_are_found(add, comm):
    add(30, comm)
    assert find(os.fsdecode(comm)) == 30


def test_a_name_that_comm_has_no_room_for_is_found_by_argv(add):
    add(30, b"a-program-with-", b"/usr/bin/a-program-with-a-long-name\0-x\0")
    add(31, b"a-program-with-", b"a-program-with-another-name\0")
    add(32, b"a-program", b"a-program-with-a-long-name\0")  # not cut: it is called otherwise
    add(33, b"b-program-with-", b"a-program-with-a-long-name\0")
    add(34, b"a-script-with-a", b"/usr/bin/python3\0./a-script-with-a-name.py\0")
    assert find("a-program-with-a-long-name") == 30
    assert find("a-script-with-a-name.py") == 34
    assert find("b-program-with-") == 33
    with pytest.raises(click.ClickException, match="2 processes"):
        find("a-program-with-")


def test_neither_cowctl_itself_nor_what_has_ended_is_found(add):
    add(os.getpid(), b"x")
    add(30, b"x", state="Z")
    with pytest.raises(click.ClickException, match=r"no process .* 'x': `ps -e`"):
        find("x")
    add(31, b"x")
    assert find("x") == 31


def test_a_process_and_its_children_of_one_name_count_as_one(add):
    """Seen to fail with the children counted, and with only one generation of them left out."""
    add(30, b"server", parent=29)
    add(31, b"server", parent=30)
    add(32, b"server", parent=31)
    add(28, b"server", parent=30)
    assert find("server", with_children=True) == 30
    with pytest.raises(click.ClickException, match="4 processes"):
        find("server")
    add(40, b"server", parent=29)
    with pytest.raises(click.ClickException, match="2 processes"):
        find("server", with_children=True)


def test_part_of_a_name_is_not_enough(add):
    add(30, b"redis-server", b"redis-server\0")
    with pytest.raises(click.ClickException):
        find("redis")


def test_several_are_listed_with_a_next_step(add):
    add(4711, b"gunicorn", b"/usr/bin/python3\0/usr/bin/gunicorn\0" + b"--workers\0" * 20)
    add(30, b"gunicorn", b"gunicorn\0\x1b[31m\n", uid=0)
    add(31, b"gunicorn")
    with pytest.raises(click.ClickException) as caught:
        find("gunicorn")
    lines = caught.value.message.split("\n")
    assert lines == [
        "3 processes have the command name 'gunicorn':",
        " PID USER       COMMAND",
        r"  30 root       gunicorn \x1b[31m\x0a",
        "  31 4000000000 -",
        "4711 4000000000 /usr/bin/python3 /usr/bin/gunicorn --workers --workers …",
        "give one of these as PID instead of -C",
    ]
    assert max(map(len, lines)) + len("cowctl: ") == 80


def test_processes_that_cannot_be_listed_are_a_failure(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(_proc, "_PROC", tmp_path / "x")
    assert main(["query", "-C", "x"]) == 1
    assert capsys.readouterr().err == (
        "cowctl: cannot list processes in /proc: No such file or directory: "
        "give a PID instead of -C\n"
    )


def test_a_crowd_is_listed_in_part(add):
    for pid in range(1, 31):
        add(pid, b"x", b"x\0")
    with pytest.raises(click.ClickException) as caught:
        find("x")
    lines = caught.value.message.split("\n")
    assert lines[0].startswith("30 processes")
    assert lines[-3:] == [
        " 20 4000000000 x",
        "and 10 more",
        "give one of these as PID instead of -C",
    ]


@pytest.mark.parametrize("state", ["S", "Z"])
def test_a_pid_that_passes_to_another_process_is_noticed(add, state):
    add(30, b"x")
    with (
        pytest.raises(click.ClickException, match="process 30, found by its name, ended"),
        find_process("x"),
    ):
        add(30, b"x", state=state)


def test_a_process_that_ends_is_noticed(add, tmp_path):
    add(30, b"x")
    status = tmp_path / "30" / "status"
    ended = status.read_bytes().replace(b"State:\tS", b"State:\tZ")
    with (
        pytest.raises(click.ClickException, match="process 30, found by its name, ended"),
        find_process("x"),
    ):
        status.write_bytes(ended)


def test_nothing_stays_open(add):
    before = os.listdir("/proc/self/fd")
    for pid in range(1, 31):
        add(pid, b"x")
    add(40, b"y")
    find("y")
    with pytest.raises(click.ClickException):
        find("x")
    assert os.listdir("/proc/self/fd") == before


@pytest.fixture
def start_named(tmp_path):
    """Return a function that starts a program of the test's own name; it returns the process."""
    program = tmp_path / f"cowd-test-program-{os.getpid()}"
    shutil.copy("/bin/cat", program)
    started = []

    def start():
        process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        started.append(process)
        process.stdin.write(b"running\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"running\n"  # it has been executed
        return process

    start.name = program.name
    yield start
    for process in started:
        process.communicate()


def test_a_live_process_is_asked_by_its_name(start_named, capsys):
    process = start_named()
    for arguments in (["-C", start_named.name], [f"--command={start_named.name}"]):
        assert main(["query", *arguments, "--backend=local", "--mapping", "stack", "-J"]) == 0
        assert f'"pid": {process.pid},' in capsys.readouterr().out
    assert main(["query", "-C", start_named.name, "--backend=local", "0x10000"]) == 0


def test_several_live_processes_are_1(start_named, capsys):
    pids = [start_named().pid, start_named().pid]
    status = main(["query", "-C", start_named.name])
    written = capsys.readouterr()
    assert (status, written.out) == (1, "")
    listed = [line.split()[1] for line in written.err.splitlines()[2:-1]]
    assert listed == [str(pid) for pid in sorted(pids)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["4711", "-C", "x"], "PID and -C exclude each other"),
        (["-C", "x", "4711", "1000+2"], "PID and -C exclude each other"),
        (["-C", "x", "400000"], "if 400000 is an address, write 0x400000"),
        (["-C", "x", "1000+2", "1"], "'1' is one argument too many"),
        (["4711", "1000+2", "1"], "'1' is one argument too many"),
        (["-C", "x", "zz"], "'zz' is no range"),
        ([], "missing PID: give one, or -C NAME"),
    ],
)
def test_wrong_usage_is_2(capsys, arguments, message):
    assert main(["query", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_terminal_is_told_which_process_it_is(fake, add, capsys):
    del fake
    add(7, b"x")
    assert main(["query", "-C", "x", "--color=always"]) == 0
    assert capsys.readouterr().err == "cowctl: note: x is process 7\n"


def test_an_answer_about_another_process_than_the_named_one_is_thrown_away(
    fake, add, capsys, monkeypatch
):
    del fake
    add(7, b"x")

    def ask_meanwhile(*arguments, **options):
        answer = ask(*arguments, **options)
        add(7, b"x")
        return answer

    monkeypatch.setattr("cowd.cli.query.ask", ask_meanwhile)
    assert main(["query", "-C", "x"]) == 1
    written = capsys.readouterr()
    assert written.out == ""
    assert "process 7, found by its name, ended" in written.err


# Several processes


def test_processes_fit_a_name_and_a_user(add):
    """Seen to fail with the processes of every user, and with those that have no address space."""
    for pid, comm, uid in ((30, b"a", 5), (31, b"b", 5), (32, b"a", 6), (33, b"a", 5)):
        add(pid, comm, uid=uid)
        if pid != 33:  # a kernel thread has no such line
            with (_proc._PROC / str(pid) / "status").open("a") as status:
                status.write("VmSize:\t1 kB\n")
    assert [*iter_pids([], [])] == [30, 31, 32]
    assert [*iter_pids(["a"], [])] == [30, 32]
    assert [*iter_pids(["a", "b"], [5])] == [30, 31]
    assert [*iter_pids([], [6, 7])] == [32]
    assert [*iter_pids(["none"], [])] == []


def test_names_of_what_has_gone_are_not_told(add):
    add(30, b"x\xff\n", uid=4_000_000_000)
    assert read_names(30) == ("4000000000", "x\\xff\n")
    assert read_names(31) == (None, None)


def test_users_are_found_by_name_and_number():
    assert find_uid("root") == find_uid("0") == 0
    assert find_uid("4000000001") == 4_000_000_001
    for name in ("no-such-user", "-1", "", "\0"):
        with pytest.raises(click.ClickException, match="there is no user"):
            find_uid(name)
