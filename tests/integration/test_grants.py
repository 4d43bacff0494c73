# SPDX-License-Identifier: Apache-2.0
"""Grants: members of a group see of every process what the configuration says, and no more.

Real daemons with a configuration of their own. Groups are ones that every Debian has.
"""

import os

import pytest
from cowdaemon.errors import Code
from cowproto.v1 import pageflags_pb2
from harness.daemon import Daemon, StartDaemon
from harness.outcomes import DENIED, KERNEL_THREAD, OWN
from harness.programs import (
    GAMES,
    NOBODY,
    PAGE_BYTES,
    ROOT_USER,
    Caller,
    CallError,
    StartCaller,
    StartSubject,
    User,
)

SUMMARY_GID, PAGES_GID = 34, 37
GRANTS = """
[[grant]]
group = "backup"
detail = "summary"

[[grant]]
group = "operator"
detail = "pages"
"""
MEMBER = NOBODY._replace(groups=(SUMMARY_GID,))
BY_GID = NOBODY._replace(gid=SUMMARY_GID)
INSPECTOR = NOBODY._replace(groups=(PAGES_GID,))
OF_BOTH = NOBODY._replace(groups=(SUMMARY_GID, PAGES_GID))


@pytest.fixture
def granting(start_daemon: StartDaemon) -> Daemon:
    """A daemon that grants summaries to one group, and pages to another."""
    return start_daemon(config=GRANTS)


def failure_of(caller: Caller, pid: int) -> tuple[int, str]:
    """Return why a process was not summarized; (0, "") if it was."""
    [summary] = caller.summarize([pid])
    assert bool(summary.totals) != bool(summary.failure.reason)
    return summary.failure.code, summary.failure.reason


@pytest.mark.parametrize("member", [MEMBER, BY_GID], ids=["by groups", "by gid"])
def test_member_gets_summaries_of_all_and_pages_of_its_own(
    granting: Daemon, start_caller: StartCaller, start_subject: StartSubject, member: User
) -> None:
    """Seen to fail with the opener's comparison of purpose and detail taken out."""
    mine = start_subject("memfd", user=member)
    theirs = start_subject("memfd", user=GAMES)
    closed = start_subject("undumpable", user=GAMES)
    of_root = start_subject("anonymous", user=ROOT_USER)
    caller = start_caller(member, granting.socket_path)
    by_root = start_caller(ROOT_USER, granting.socket_path)
    assert caller.get_server_info().granted == pageflags_pb2.GRANT_DETAIL_SUMMARY
    with mine.stopped(), theirs.stopped(), closed.stopped(), of_root.stopped():
        told, known = (
            {summary.pid: summary.totals for summary in asker.summarize([])}
            for asker in (caller, by_root)
        )
        for subject in (mine, theirs, closed, of_root):
            assert told[subject.pid] == known[subject.pid]
            assert failure_of(caller, subject.pid) == (0, "")
        # Whatever its worker has opened for a summary serves no page.
        assert caller.refused_page_flags(theirs.pid, theirs.address) == DENIED
        request = pageflags_pb2.ListMappingsRequest(pid=theirs.pid)
        assert caller.refusal("ListMappings", request).outcome == DENIED
        for other in (closed, of_root):
            assert caller.refused_page_flags(other.pid, PAGE_BYTES) == DENIED
        assert caller.get_page_flags(mine.pid, mine.address).state[0]


def test_others_get_nothing_more_than_without_grants(
    granting: Daemon, start_caller: StartCaller, start_subject: StartSubject
) -> None:
    """Seen to fail with what is granted to a group granted to everybody."""
    mine, theirs = start_subject("anonymous"), start_subject("anonymous", user=GAMES)
    caller = start_caller(NOBODY, granting.socket_path)
    assert caller.get_server_info().granted == pageflags_pb2.GRANT_DETAIL_NONE
    assert failure_of(caller, theirs.pid) == (Code.PERMISSION_DENIED, "ACCESS_DENIED")
    summarized = {summary.pid for summary in caller.summarize([])}
    assert mine.pid in summarized
    assert theirs.pid not in summarized
    assert caller.refused_page_flags(theirs.pid, theirs.address) == DENIED


@pytest.mark.parametrize("user", [INSPECTOR, OF_BOTH], ids=["pages", "pages and summary"])
def test_pages_of_every_process_by_grant(
    granting: Daemon, start_caller: StartCaller, start_subject: StartSubject, user: User
) -> None:
    theirs = start_subject("memfd", user=GAMES)
    caller = start_caller(user, granting.socket_path)
    by_root = start_caller(ROOT_USER, granting.socket_path)
    assert caller.get_server_info().granted == pageflags_pb2.GRANT_DETAIL_PAGES
    with theirs.stopped():
        count = len(theirs.description["pages"])
        asked = theirs.pid, theirs.address, count
        assert caller.get_page_flags(*asked) == by_root.get_page_flags(*asked)
        assert caller.list_mappings(theirs.pid) == by_root.list_mappings(theirs.pid)
    closed = start_subject("undumpable", user=GAMES)
    assert caller.list_mappings(closed.pid) == by_root.list_mappings(closed.pid)


def test_grant_does_not_open_what_belongs_to_cowd_or_has_no_memory(
    granting: Daemon, start_caller: StartCaller
) -> None:
    """Seen to fail with the check for cowd's own processes taken out."""
    caller = start_caller(INSPECTOR, granting.socket_path)
    caller.get_server_info()
    tree = granting.tree()
    assert len(tree.pids) == 4
    for pid in tree.pids:
        assert failure_of(caller, pid) == (Code.PERMISSION_DENIED, "OWN_PROCESS")
        assert caller.refused_page_flags(pid, PAGE_BYTES) == OWN
    assert not {summary.pid for summary in caller.summarize([])} & set(tree.pids)
    assert failure_of(caller, KERNEL_THREAD)[1] in ("NO_ADDRESS_SPACE", "NO_SUCH_PROCESS")


def test_flags_stay_masked_under_a_grant(granting: Daemon, start_caller: StartCaller) -> None:
    inspector = start_caller(INSPECTOR, granting.socket_path).get_server_info()
    other = start_caller(NOBODY, granting.socket_path).get_server_info()
    assert inspector.masks == other.masks


def test_access_by_grant_and_refusals_are_on_record(
    granting: Daemon, start_caller: StartCaller, start_subject: StartSubject
) -> None:
    """One record each, with who, whom and why; a sweep records what was granted, not what was not.

    Seen to fail with either call of Audit.record() in the opener taken out.
    """
    theirs = start_subject("anonymous", user=GAMES)
    caller = start_caller(MEMBER, granting.socket_path)
    assert failure_of(caller, theirs.pid) == (0, "")
    assert caller.refused_page_flags(theirs.pid, theirs.address) == DENIED
    granted, refused = granting.read_records()
    about = {
        "PRIORITY": 5,
        "COWD_CALLER_UID": MEMBER.uid,
        "COWD_CALLER_GID": MEMBER.gid,
        "COWD_CALLER_LABEL": "",
        "COWD_TARGET_PID": theirs.pid,
        "COWD_TARGET_UID": GAMES.uid,
    }
    assert granted.items() >= (about | {"COWD_DECISION": "granted"}).items()
    assert granted["COWD_REASON"] == "SUMMARY"
    assert refused.items() >= (about | {"COWD_DECISION": "refused"}).items()
    assert refused["COWD_REASON"] == "ACCESS_DENIED"
    assert refused["COWD_TARGET_COMM"].startswith("python")

    stranger = start_caller(NOBODY, granting.socket_path)
    stranger.summarize([])
    assert len(granting.read_records()) == 2


def test_own_processes_are_nobodys_record(
    granting: Daemon, start_caller: StartCaller, start_subject: StartSubject
) -> None:
    """What the kernel allows is no access by grant."""
    mine = start_subject("anonymous")
    caller = start_caller(INSPECTOR, granting.socket_path)
    assert caller.get_page_flags(mine.pid, mine.address).state[0]
    assert failure_of(caller, mine.pid) == (0, "")
    assert granting.read_records() == []


@pytest.mark.parametrize(("user", "nice"), [(MEMBER, 10), (OF_BOTH, 3), (NOBODY, 0)])
def test_worker_gives_way_as_its_grant_says(
    start_daemon: StartDaemon, start_caller: StartCaller, user: User, nice: int
) -> None:
    """All its threads; and no other process. Seen to fail with either end of it taken out."""
    config = GRANTS.replace('"summary"', '"summary"\nnice = 10').replace(
        '"pages"', '"pages"\nnice = 3'
    )
    daemon = start_daemon(config=config)
    caller = start_caller(user, daemon.socket_path)
    assert caller.get_server_info()
    tree = daemon.tree()
    [worker] = tree.workers
    threads = [int(thread) for thread in os.listdir(f"/proc/{worker}/task")]
    assert len(threads) > 1
    assert {os.getpriority(os.PRIO_PROCESS, thread) for thread in threads} == {nice}
    others = set(tree.pids) - {worker}
    assert {os.getpriority(os.PRIO_PROCESS, pid) for pid in others} == {0}


def test_grants_are_told_at_start(granting: Daemon) -> None:
    log = granting.log()
    assert f"every process's summaries are open to group backup (gid {SUMMARY_GID})" in log
    assert f"every process's pages are open to group operator (gid {PAGES_GID})" in log


def test_only_members_of_the_groups_of_access_are_answered(
    start_daemon: StartDaemon, start_caller: StartCaller
) -> None:
    """And root. Seen to fail with Settings.may_connect() true."""
    closed = start_daemon(config='[access]\ngroups = ["backup"]\n')
    for user in (MEMBER, BY_GID, ROOT_USER):
        assert start_caller(user, closed.socket_path).get_server_info()
    with pytest.raises(CallError) as failure:
        start_caller(NOBODY, closed.socket_path).get_server_info()
    assert failure.value.outcome == ("PERMISSION_DENIED", "CALLER_NOT_ALLOWED")
    [record] = closed.read_records()
    assert record["COWD_REASON"] == "CALLER_NOT_ALLOWED"
    assert record["COWD_CALLER_UID"] == NOBODY.uid
    assert "COWD_TARGET_PID" not in record


FIVE = frozenset({"sys_admin", "setuid", "setgid", "sys_ptrace", "dac_read_search"})
"""Capabilities that cowd.service leaves to it; see also test_attack_15_failing_privileges.py."""


def keep_only(capabilities: frozenset[str]) -> list[str]:
    """Return the command under which a daemon has these."""
    kept = ",".join(f"+{name}" for name in sorted(capabilities))
    return ["setpriv", f"--bounding-set=-all,{kept}", "--"]


@pytest.mark.parametrize("user", [ROOT_USER, INSPECTOR], ids=["root", "granted"])
@pytest.mark.parametrize(
    ("lacking", "others", "own"),
    [
        ("", None, None),
        ("dac_read_search", DENIED, None),
        # It cannot see the namespaces of any caller, and so serves none.
        ("sys_ptrace", ("UNAVAILABLE", ""), ("UNAVAILABLE", "")),
    ],
)
def test_capabilities_that_others_are_seen_by(
    start_daemon: StartDaemon,
    start_caller: StartCaller,
    start_subject: StartSubject,
    user: User,
    lacking: str,
    others: object,
    own: object,
) -> None:
    daemon = start_daemon(config=GRANTS, prefix=keep_only(FIVE - {lacking}))
    subject = start_subject("anonymous", user=GAMES)
    for asker, outcome in (user, others), (GAMES, own):
        caller = start_caller(asker, daemon.socket_path)
        if outcome:
            assert caller.refused_page_flags(subject.pid, subject.address) == outcome
        else:
            assert caller.get_page_flags(subject.pid, subject.address).state[0]
