# SPDX-License-Identifier: Apache-2.0
"""What ordinary users of a machine get: answers about themselves, and refusals about others."""

import json

from system.machine import Machine

ASK = """
import json, mmap, os, tempfile
import cowd
with tempfile.TemporaryFile(dir="/var/tmp") as file:
    file.write(os.urandom(4 * mmap.PAGESIZE))
    file.flush()
    memory = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE)
memory[0] = memory[2 * mmap.PAGESIZE] = 7
pages = cowd.pages(memory, backend="daemon")
print(json.dumps([cowd.copied(memory, backend="daemon").tolist(), pages.kpageflags is not None]))
"""
COPIED = [True, False, True, False]
ABSENT = 2**22
"""No machine has such a pid (PID_MAX_LIMIT)."""


def test_library_is_answered_by_the_daemon(machine: Machine) -> None:
    assert machine.python(ASK, user="alice") == [COPIED, True]


def test_two_users_at_the_same_time(machine: Machine) -> None:
    """Each is answered about its own process, and neither about the other's."""
    with (
        machine.start_asking("both", "alice") as alice,
        machine.start_asking("both", "bob") as bob,
    ):
        for asker, other in ("alice", bob), ("bob", alice):
            refused = machine.run(
                "cowctl",
                "query",
                str(other.pid_inside),
                "--backend=daemon",
                user=asker,
                check=False,
            )
            assert refused.returncode == 4
            assert f"inspect process {other.pid_inside}" in refused.stderr
        for asking in alice, bob:
            told = asking.end()
            assert told["failures"] == []
            assert told["answers"] > 2


def test_own_process_of_another_session(machine: Machine) -> None:
    with machine.start_asking("kept", "alice") as asking:
        asked = machine.run(
            *("cowctl", "query", str(asking.pid_inside), "--backend=daemon", "--json"), user="alice"
        )
    answer = json.loads(asked.stdout)
    assert answer["backend"] == "daemon"
    assert [run["page_count"] for run in answer["runs"] if run["copied"]]


def test_refusals_say_why_and_are_on_record(machine: Machine) -> None:
    """Those of an opener, as a record of its own, which systemd has as cowd's.

    Seen to fail with the opener's call of Audit.record() for refusals taken out.
    """
    before = machine.now()
    uid = machine.python("import os; print(os.getuid())", user="alice")
    for pid, status, sentence in (
        (1, 4, "cowctl: the kernel does not let you inspect process 1: "),
        (machine.python("import os; print(os.getpid())"), 1, "cowctl: no process "),
        (ABSENT, 1, f"cowctl: no process {ABSENT}: "),
    ):
        refused = machine.run(
            "cowctl", "query", str(pid), "--backend=daemon", user="alice", check=False
        )
        assert refused.stderr.startswith(sentence)
        assert (refused.returncode, refused.stdout) == (status, "")
    [record] = machine.read_journal(
        "_SYSTEMD_UNIT=cowd.service", "COWD_DECISION=refused", "COWD_TARGET_PID=1", after=before
    )
    told = {
        "COWD_REASON": "ACCESS_DENIED",
        "COWD_CALLER_UID": str(uid),
        "COWD_CALLER_GID": str(uid),
        "COWD_TARGET_UID": "0",
        "COWD_TARGET_COMM": "systemd",
        "PRIORITY": "5",
        "SYSLOG_IDENTIFIER": "cowd",
        "_COMM": "cowd-opener",
    }
    assert told.items() <= record.items()
    assert record["MESSAGE"].startswith(f"refused ACCESS_DENIED: uid {uid} ")
