# SPDX-License-Identifier: Apache-2.0
"""Attack 1: ask about another user's process, and find out by the answer which processes there are.

Whom the kernel lets see a process at all, it tells from nobody: where /proc is mounted with
hidepid=invisible, a process of others looks to its caller like a number that is not taken. So it
must in the daemon's answers, code, reason and sentence, though the daemon itself is root.
"""

import os
import subprocess

from cowproto.v1 import pageflags_pb2
from harness.daemon import StartDaemon
from harness.mounts import MountProc, ProcMount
from harness.outcomes import ABSENT, ABSENT_PID, DENIED
from harness.programs import GAMES, NOBODY, ROOT_USER, Caller, StartCaller, StartSubject, User
from harness.states import ask

HIDING = "hidepid=invisible"
GROUP = 4711


def refuse(caller: Caller, pid: int) -> list[tuple[tuple[str, str], str, bytes]]:
    """Return how every call about `pid` fails, without the number itself."""
    failures = [
        caller.refusal("GetPageFlags", pageflags_pb2.GetPageFlagsRequest(**request))
        for request in (
            {"pid": pid, "address": 0x1000, "count": 1},
            {"pid": pid, "address": 0x1000, "count": 1, "expected_start_time_ticks": 1},
        )
    ]
    failures.append(caller.refusal("ListMappings", pageflags_pb2.ListMappingsRequest(pid=pid)))
    return [
        (
            failure.outcome,
            failure.message.replace(str(pid), "PID"),
            failure.info.SerializeToString(),
        )
        for failure in failures
    ]


def can_see(mount: ProcMount, user: User, pid: int) -> bool:
    """Tell whether a program of the user finds the process in /proc."""
    command = user.command(["test", "-e", f"/proc/{pid}"])
    return subprocess.run([*mount.prefix, *command], check=False).returncode == 0


def test_process_of_another_user_is_refused(nobody: Caller, start_subject: StartSubject) -> None:
    """Seen to fail with an opener that keeps SYS_PTRACE and DAC_READ_SEARCH effective.

    And with one that keeps DAC_READ_SEARCH and makes no A-open (pagemap twice, and maps): against
    other uids the files' modes and the A-opens stand behind each other.
    """
    theirs, mine = start_subject("anonymous", user=GAMES), start_subject("anonymous")
    assert nobody.refused_page_flags(theirs.pid, theirs.address) == DENIED
    assert {outcome for outcome, _, _ in refuse(nobody, theirs.pid)} == {DENIED}
    assert nobody.get_page_flags(mine.pid, mine.address).state[0]


def test_processes_of_root_are_refused(nobody: Caller) -> None:
    """Seen to fail as the one before."""
    for pid in (os.getpid(), 1):
        assert {outcome for outcome, _, _ in refuse(nobody, pid)} == {DENIED}


def test_absent_process_is_told_to_be_absent(nobody: Caller, start_subject: StartSubject) -> None:
    """Seen to fail with ENOENT and ESRCH taken for a refusal of the kernel's."""
    ended = start_subject("anonymous")
    ended.kill()
    for pid in (ABSENT_PID, ended.pid):
        assert {outcome for outcome, _, _ in refuse(nobody, pid)} == {ABSENT}


def test_hidden_process_looks_absent(
    mount_proc: MountProc,
    start_daemon: StartDaemon,
    start_caller: StartCaller,
    start_subject: StartSubject,
) -> None:
    """Seen to fail with an opener that keeps SYS_PTRACE effective, and so sees all processes.

    And with one that tells a refusal by whether the pid is taken (pidfd_open) and not by what
    opening says.
    """
    mount = mount_proc(HIDING)
    daemon = start_daemon(prefix=mount.prefix)
    caller = start_caller(NOBODY, daemon.socket_path, prefix=mount.prefix)
    theirs, unreadable = start_subject("anonymous", user=GAMES), start_subject("undumpable")
    hidden = [theirs.pid, unreadable.pid, os.getpid(), 1, daemon.pid, *daemon.tree().zygotes]
    absent = refuse(caller, ABSENT_PID)
    assert {outcome for outcome, _, _ in absent} == {ABSENT}
    for pid in hidden:
        assert not can_see(mount, NOBODY, pid)
        assert refuse(caller, pid) == absent


def test_visible_processes_are_answered_where_others_are_hidden(
    mount_proc: MountProc,
    start_daemon: StartDaemon,
    start_caller: StartCaller,
    start_subject: StartSubject,
) -> None:
    """The caller's own to the caller, all to root. Not a defence: that the daemon works there."""
    mount = mount_proc(HIDING)
    daemon = start_daemon(prefix=mount.prefix)
    caller = start_caller(NOBODY, daemon.socket_path, prefix=mount.prefix)
    root = start_caller(ROOT_USER, daemon.socket_path, prefix=mount.prefix)
    mine, theirs = start_subject("anonymous"), start_subject("anonymous", user=GAMES)
    assert can_see(mount, NOBODY, mine.pid)
    for asking, subject in ((caller, mine), (root, mine), (root, theirs)):
        (page, *_) = ask(asking, subject.pid, subject.address, 1)
        assert page.state == "ANON"
        assert asking.list_mappings(subject.pid)
    own = caller.create("anonymous")["pages"][0]["address"]
    assert ask(caller, caller.pid, own, 1)[0].state == "ANON"


def test_group_that_sees_hidden_processes(
    mount_proc: MountProc,
    start_daemon: StartDaemon,
    start_caller: StartCaller,
    start_subject: StartSubject,
) -> None:
    """A member is told of a refusal, as the kernel tells it; anybody else of an absence.

    Seen to fail with an opener that does not take on the caller's groups.
    """
    mount = mount_proc(f"{HIDING},gid={GROUP}")
    daemon = start_daemon(prefix=mount.prefix)
    theirs = start_subject("anonymous", user=GAMES)
    for user, outcome in ((NOBODY, ABSENT), (NOBODY._replace(groups=(GROUP,)), DENIED)):
        caller = start_caller(user, daemon.socket_path, prefix=mount.prefix)
        assert can_see(mount, user, theirs.pid) == (outcome == DENIED)
        assert {told for told, _, _ in refuse(caller, theirs.pid)} == {outcome}
