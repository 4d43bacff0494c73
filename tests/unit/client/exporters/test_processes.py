# SPDX-License-Identifier: Apache-2.0
"""Which processes there are, what is told of each, and which group it belongs to."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from cowd import _proc
from cowd.exporters.config import GroupRule
from cowd.exporters.processes import (
    Identity,
    Process,
    choose_group,
    is_alive,
    list_processes,
)

PROCESS = Process(
    Identity(7, 1, 1), 1, 1000, "redis-server", "redis.service", "/system.slice/redis.service", 9
)


@pytest.fixture
def add(tmp_path, monkeypatch):
    """Return a function that adds a process to a made-up /proc."""
    monkeypatch.setattr(_proc, "_PROC", tmp_path)

    def add(pid: int, comm: bytes, cgroup: bytes = b"0::/\n", status: bytes | None = None) -> Path:
        directory = tmp_path / str(pid)
        directory.mkdir()
        (directory / "comm").write_bytes(comm + b"\n")
        (directory / "cgroup").write_bytes(cgroup)
        lines = b"PPid:\t1\nUid:\t5\t6\t7\t8\nVmRSS:\t     40 kB\nVmSwap:\t      8 kB\n"
        (directory / "status").write_bytes(lines if status is None else status)
        return directory

    return add


def test_own_child_is_as_the_kernel_says(child):
    [found] = [each for each in list_processes() if each.identity.pid == child.pid]
    assert (found.parent_pid, found.uid) == (os.getpid(), os.geteuid())
    comm = Path(f"/proc/{child.pid}/comm").read_text().removesuffix("\n")
    assert found.command == comm
    assert f"0::{found.cgroup}" in Path(f"/proc/{child.pid}/cgroup").read_text().splitlines()
    resident_pages = int(Path(f"/proc/{child.pid}/statm").read_text().split()[1])
    assert found.page_count == pytest.approx(resident_pages, abs=512)  # a counter of many CPUs


def test_this_process_is_left_out():
    assert os.getpid() not in [each.identity.pid for each in list_processes()]


def test_identity_lasts_as_long_as_the_process(child):
    first, second = (
        next(each.identity for each in list_processes() if each.identity.pid == child.pid)
        for _ in range(2)
    )
    assert first == second
    assert is_alive(first)
    assert not is_alive(first._replace(inode=first.inode + 1))
    child.kill()
    child.wait()
    assert not is_alive(first)


def test_kernel_threads_and_zombies_have_no_memory(add):
    add(2, b"kthreadd", status=b"PPid:\t0\nUid:\t0\t0\t0\t0\n")
    add(3, b"gone", status=b"")
    add(4, b"x")
    [found] = list_processes()
    assert (found.identity.pid, found.parent_pid, found.uid, found.page_count) == (4, 1, 6, 12)


def test_a_member_of_many_groups_has_memory(add):
    """Seen to fail with 4,096 bytes of its status read."""
    groups = b" ".join(b"%d" % number for number in range(2_000_000_000, 2_000_000_500))
    status = b"PPid:\t1\nUid:\t5\t6\t7\t8\nGroups:\t" + groups + b"\nVmRSS:\t     40 kB\n"
    add(4, b"x", status=status)
    [found] = list_processes()
    assert found.page_count == 10


def test_names_are_those_of_comm_and_no_memory_is_read(add):
    """To read cmdline hangs with a process that hangs. Seen to fail with the name taken whole."""
    directory = add(4, b"a-rather-long-n")
    (directory / "cmdline").write_bytes(b"/usr/bin/python3\0/opt/a-rather-long-name\0-x\0")
    add(6, b"\xff\n")
    assert [each.command for each in list_processes()] == ["a-rather-long-n", "\\xff\n"]


@pytest.mark.parametrize(
    ("cgroup", "path", "unit"),
    [
        (b"0::/\n", "/", ""),
        (b"", "", ""),
        (b"0::/system.slice/ssh.service\n", "/system.slice/ssh.service", "ssh.service"),
        (b"0::/a.slice/b.service/payload\n", "/a.slice/b.service/payload", "b.service"),
        (
            b"0::/user.slice/user@7.service/app.slice/x.scope\n",
            "/user.slice/user@7.service/app.slice/x.scope",
            "user@7.service",  # x is a name that the user has chosen
        ),
        (b"0::/a.slice/_cpu.service\n", "/a.slice/_cpu.service", "cpu.service"),
        (b"0::/a/b.service\n", "/a/b.service", ""),
        (
            b"4:memory:/m\n1:name=systemd:/s.slice/c.service\n0::/\n",
            "/s.slice/c.service",
            "c.service",
        ),
        (b"0::/u\n1:name=systemd:/s.slice/c.service\n", "/s.slice/c.service", "c.service"),
        # What a user may call a group below their own: for Python these are ends of lines.
        (
            b"0::/u.slice/\x0c1:name=systemd:/s/c.service/x\n",
            "/u.slice/\x0c1:name=systemd:/s/c.service/x",
            "",
        ),
        ("0::/u\u20281:name=systemd:/s\n".encode(), "/u\u20281:name=systemd:/s", ""),
    ],
)
def test_units(add, cgroup, path, unit):
    add(4, b"x", cgroup)
    [found] = list_processes()
    assert (found.cgroup, found.unit) == (path, unit)


@pytest.mark.parametrize(
    ("rule", "name"),
    [
        (GroupRule("all"), "all"),
        (GroupRule("redis", command=("redis-*",)), "redis"),
        (GroupRule("redis", command=("x", "redis-serve?")), "redis"),
        (GroupRule("redis", command=("REDIS-*",)), None),
        (GroupRule("{command} in {unit} at {cgroup}", unit=("*.service",)),
         "redis-server in redis.service at /system.slice/redis.service"),
        (GroupRule("both", command=("redis-*",), unit=("x",)), None),
        (GroupRule("both", command=("redis-*",), cgroup=("/system.slice/*",)), "both"),
    ],
)  # fmt: skip
def test_rules(rule, name):
    assert choose_group(PROCESS, [rule]) == name


def test_first_rule_that_fits_decides():
    rules = [GroupRule("no", command=("x",)), GroupRule("first"), GroupRule("second")]
    assert choose_group(PROCESS, rules) == "first"
    assert choose_group(PROCESS, []) is None


def test_a_name_needs_something_to_be_made_of():
    bare = replace(PROCESS, unit="", cgroup="/")
    assert choose_group(bare, [GroupRule("{unit}"), GroupRule("rest")]) == "rest"


def test_a_name_is_put_in_as_it_is():
    odd = replace(PROCESS, command="{unit} {0} {")
    assert choose_group(odd, [GroupRule("a {command}")]) == "a {unit} {0} {"


def test_a_process_that_executes_another_program_is_the_same_one():
    code = "import os,sys; input(); os.execvp('sleep', ['sleep', '60'])"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
    try:
        [before] = [each for each in list_processes() if each.identity.pid == process.pid]
        assert process.stdin
        process.stdin.write(b"\n")
        process.stdin.close()
        while Path(f"/proc/{process.pid}/comm").read_text() != "sleep\n":
            assert process.poll() is None
        [after] = [each for each in list_processes() if each.identity.pid == process.pid]
        assert before.identity == after.identity
        assert after.command == "sleep"
    finally:
        process.kill()
        process.wait()
