# SPDX-License-Identifier: Apache-2.0
"""Attack 21: be a member of 300 groups, more than some programs have room for.

Python's getsockopt() tells 256 of them, at most, and a list that is cut would be another identity.
All of them count, from the connection to the process that opens targets, and such a caller is
served as any other.
"""

import pytest
from harness.daemon import StartDaemon
from harness.mounts import MountProc
from harness.outcomes import ABSENT, DENIED
from harness.processes import read_status
from harness.programs import GAMES, NOBODY, StartCaller, StartSubject

GROUPS = tuple(range(70_000, 70_300))
MEMBER = NOBODY._replace(groups=GROUPS)


@pytest.mark.parametrize("count", [256, 257, 300])
def test_caller_is_served(
    start_caller: StartCaller, start_subject: StartSubject, count: int
) -> None:
    """Seen to fail with a broker that asks for 256 groups, and with one that keeps 256 of them."""
    member = NOBODY._replace(groups=GROUPS[:count])
    subject, bare = start_subject("anonymous", user=member), start_subject("anonymous")
    caller = start_caller(member)
    told = caller.get_server_info().caller
    assert (told.uid, told.gid, tuple(told.groups)) == (member.uid, member.gid, member.groups)
    own = caller.create("anonymous")["pages"][0]["address"]
    assert caller.get_page_flags(caller.pid, own).state[0]
    for target in (subject, bare):
        assert caller.get_page_flags(target.pid, target.address).state[0]
        assert caller.list_mappings(target.pid)


def test_last_group_makes_another_identity(
    start_daemon: StartDaemon, start_caller: StartCaller
) -> None:
    """Seen to fail with a broker that keeps 256 groups."""
    daemon = start_daemon()
    users = [MEMBER, MEMBER._replace(groups=GROUPS[:-1]), MEMBER._replace(groups=GROUPS[1:])]
    for user in users:
        told = start_caller(user, daemon.socket_path).get_server_info().caller
        assert tuple(told.groups) == user.groups
    tree = daemon.settled_tree(openers=len(users), workers=len(users))
    held = {tuple(map(int, read_status(pid)["Groups"].split())) for pid in tree.openers}
    assert held == {user.groups for user in users}


def test_last_group_counts_where_a_process_is_opened(
    mount_proc: MountProc,
    start_daemon: StartDaemon,
    start_caller: StartCaller,
    start_subject: StartSubject,
) -> None:
    """As a /proc shows that hides processes from all but one group.

    Seen to fail with an opener that takes on 256 groups, and does not look.
    """
    mount = mount_proc(f"hidepid=invisible,gid={GROUPS[-1]}")
    daemon = start_daemon(prefix=mount.prefix)
    theirs = start_subject("anonymous", user=GAMES)
    for groups, outcome in ((GROUPS, DENIED), (GROUPS[:-1], ABSENT)):
        user = NOBODY._replace(groups=groups)
        caller = start_caller(user, daemon.socket_path, prefix=mount.prefix)
        assert caller.refused_page_flags(theirs.pid, theirs.address) == outcome
