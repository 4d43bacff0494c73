# SPDX-License-Identifier: Apache-2.0
"""Who may connect, and who is told more: what an administrator decides, in units or settings.

Users are made members with usermod, and log in again.
"""

import stat
from collections.abc import Iterator
from contextlib import contextmanager

from cowproto.v1 import pageflags_pb2
from system.machine import SOCKET, Machine
from system.units import SERVICE, SOCKET_UNIT

GROUP = "cowd-users"


@contextmanager
def member(machine: Machine, user: str, group: str) -> Iterator[None]:
    """Have a user in a group, which is made for it unless it is there."""
    machine.run("groupadd", "--force", group)
    machine.run("usermod", "--append", "--groups", group, user)
    try:
        yield
    finally:
        machine.run("gpasswd", "--delete", user, group)


def test_socket_of_a_group(machine: Machine) -> None:
    with (
        member(machine, "alice", GROUP),
        machine.drop_in(SOCKET_UNIT, f"[Socket]\nSocketGroup={GROUP}\nSocketMode=0660\n"),
    ):
        machine.run("systemctl", "restart", SOCKET_UNIT)
        made = machine.path(SOCKET).stat()
        assert (stat.S_IMODE(made.st_mode), made.st_uid) == (0o660, 0)
        machine.run("cowctl", "demo", user="alice")
        refused = machine.run("cowctl", "demo", user="bob", check=False)
        assert refused.returncode == 4
        assert f"you may not connect to cowd at {SOCKET}" in refused.stderr
        doctor = machine.run("cowctl", "doctor", user="bob", check=False)
        assert doctor.returncode == 1
        assert f"root:{GROUP} 0660" in doctor.stdout
    machine.run("systemctl", "restart", SOCKET_UNIT)
    machine.run("cowctl", "demo", user="bob")


def test_groups_of_the_settings(machine: Machine) -> None:
    """Seen to fail with Settings.may_connect() true."""
    with (
        member(machine, "alice", GROUP),
        machine.configured(f'[access]\ngroups = ["{GROUP}"]\n'),
    ):
        machine.run("cowctl", "demo", user="alice")
        machine.run("cowctl", "demo")
        before = machine.now()
        refused = machine.run("cowctl", "demo", user="bob", check=False)
        assert refused.returncode == 4
        assert "lets only members of certain groups use cowd" in refused.stderr
        [record, *_] = machine.read_journal(
            f"_SYSTEMD_UNIT={SERVICE}", "COWD_REASON=CALLER_NOT_ALLOWED", after=before
        )
        uid = machine.python("import os; print(os.getuid())", user="bob")
        assert record["COWD_CALLER_UID"] == str(uid)
        assert record["_COMM"] == "cowd-broker"
    machine.run("cowctl", "demo", user="bob")


def test_members_of_cowd_monitor_see_summaries(machine: Machine) -> None:
    """As the packaged settings say: of every process, of cowd's own none, and nothing but that."""
    with machine.start_asking("kept", "bob") as theirs:
        machine.run("systemctl", "restart", SERVICE)
        with member(machine, "alice", "cowd-monitor"):
            monitor = machine.start_caller("alice")
        before = machine.now()
        assert monitor.get_server_info().granted == pageflags_pb2.GRANT_DETAIL_SUMMARY
        told = {summary.pid: summary.totals for summary in monitor.summarize([])}
        assert {1, theirs.pid_inside, monitor.pid_inside} <= set(told)
        assert all(told.values())
        cowds = machine.run("pgrep", "--full", "cowdaemon", check=False).stdout.split()
        assert not set(map(int, cowds)) & set(told)
        assert monitor.refused_page_flags(1, 4096) == ("PERMISSION_DENIED", "ACCESS_DENIED")
        records = machine.read_journal(
            f"_SYSTEMD_UNIT={SERVICE}", "COWD_DECISION=granted", after=before
        )
        assert {"1", str(theirs.pid_inside)} <= {record["COWD_TARGET_PID"] for record in records}
        assert {record["COWD_REASON"] for record in records} == {"SWEEP"}
        monitor.close()

        other = machine.start_caller("alice")
        assert other.get_server_info().granted == pageflags_pb2.GRANT_DETAIL_NONE
        assert not {1, theirs.pid_inside} & {summary.pid for summary in other.summarize([])}
        other.close()
