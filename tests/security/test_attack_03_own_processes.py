# SPDX-License-Identifier: Apache-2.0
"""Attack 3: ask about cowd itself, about what is no process, and as a root that is none.

The kernel always lets a process inspect itself, and a full root inspect all: so the openers know
cowd's own and refuse them before they open anything. Numbers that are no process's, threads, kernel
threads and zombies have no pages, whoever asks. And uid 0 alone is no authority: what root is
given is what its capabilities would have the kernel give it.
"""

from pathlib import Path

import pytest
from cowproto.v1 import pageflags_pb2
from harness.comparisons import make_request
from harness.daemon import Daemon
from harness.kernel_access import open_pagemaps
from harness.outcomes import ABSENT, DENIED, KERNEL_THREAD, OWN, WITHOUT_MEMORY
from harness.processes import read_status
from harness.programs import (
    DAEMON,
    GAMES,
    HOLDING_NET_RAW,
    NOBODY,
    ROOT_USER,
    Caller,
    CallError,
    Program,
    StartCaller,
    StartSubject,
    User,
)

CAPLESS_ROOT = ROOT_USER._replace(name="root-without", options=("--bounding-set=-all",))
ROOTS = [
    ROOT_USER,
    CAPLESS_ROOT,
    ROOT_USER._replace(name="root-ptrace", options=("--bounding-set=-all,+sys_ptrace",)),
    ROOT_USER._replace(name="root-dac", options=("--bounding-set=-all,+dac_read_search",)),
    ROOT_USER._replace(
        name="root-both", options=("--bounding-set=-all,+sys_ptrace,+dac_read_search",)
    ),
]

OF_ERRORS = {"": {("", "")}, "EACCES": {DENIED}}
"""How calls end where the kernel's own answer is this error, or none."""

of_users = pytest.mark.parametrize(
    "user", [NOBODY, DAEMON, ROOT_USER, CAPLESS_ROOT], ids=lambda user: user.name
)


def find_outcomes(caller: Caller, pid: int) -> set[tuple[str, str]]:
    """Return how the calls about `pid` fail; ("", "") for one that is answered."""
    outcomes = set()
    for method, request in (
        ("GetPageFlags", pageflags_pb2.GetPageFlagsRequest(pid=pid, address=0x1000, count=1)),
        ("ListMappings", pageflags_pb2.ListMappingsRequest(pid=pid)),
        ("ComparePages", make_request(pid, pid, [(0x1000, 1)])),
    ):
        try:
            caller.begin(method, request, most=1 if method == "ComparePages" else None)
            assert caller.finish()
            outcomes.add(("", ""))
        except CallError as error:
            outcomes.add(error.outcome)
    return outcomes


@of_users
def test_processes_of_cowd_itself(daemon: Daemon, start_caller: StartCaller, user: User) -> None:
    """Seen to fail with openers that do not know their own: they open themselves for anybody."""
    caller = start_caller(user)
    caller.get_server_info()  # so that it has an opener and a worker, too
    tree = daemon.tree()
    assert all((tree.zygotes, tree.openers, tree.workers))
    told = {pid: find_outcomes(caller, pid) for pid in tree.pids}
    assert told == {pid: {OWN} for pid in tree.pids}


@of_users
@pytest.mark.parametrize("pid", [0, -1, -(2**31)])
def test_number_that_no_process_can_have_is_invalid(
    start_caller: StartCaller, user: User, pid: int
) -> None:
    """Seen to fail without the worker's check of the pid: 0 and less are then not found."""
    assert find_outcomes(start_caller(user), pid) == {("INVALID_ARGUMENT", "INVALID_PID")}


@of_users
def test_first_process_is_open_to_whom_the_kernel_opens_it(
    start_caller: StartCaller, user: User
) -> None:
    """Seen to fail with a worker to which 1 is no pid.

    Openers: test_processes_of_root_are_refused, attack 1.
    """
    (error,) = open_pagemaps(user, [1])
    assert error == "EACCES" or user is ROOT_USER  # whom a container may refuse it, too
    assert find_outcomes(start_caller(user), 1) == OF_ERRORS[error]


@of_users
def test_thread_is_no_process(
    start_caller: StartCaller, start_subject: StartSubject, user: User
) -> None:
    """Seen to fail without procfs.verify_process(): /proc leads to threads it does not list."""
    subject = start_subject("threaded", user=user)
    caller = start_caller(user)
    assert caller.get_page_flags(subject.pid, subject.address).state[0]
    assert find_outcomes(caller, subject.description["thread"]) == {ABSENT}


@of_users
def test_kernel_thread_has_no_address_space_whoever_asks(
    start_caller: StartCaller, user: User
) -> None:
    """Seen to fail without the look at its stat: to most the kernel then says EACCES."""
    if not Path(f"/proc/{KERNEL_THREAD}/comm").exists():
        pytest.skip("the kernel's threads are not to be seen in this pid namespace")
    assert find_outcomes(start_caller(user), KERNEL_THREAD) == {WITHOUT_MEMORY}


@of_users
def test_zombie_has_no_address_space_whoever_asks(
    start_caller: StartCaller, start_subject: StartSubject, user: User
) -> None:
    """Seen to fail without the look at its stat: to most the kernel then says EACCES."""
    zombie = start_subject("zombie").description["zombie"]
    assert find_outcomes(start_caller(user), zombie) == {WITHOUT_MEMORY}


@pytest.mark.parametrize("root", ROOTS, ids=lambda root: root.name)
def test_root_is_given_what_the_kernel_gives_it(
    start_caller: StartCaller, start_subject: StartSubject, setuid_cat: Path, root: User
) -> None:
    """Seen to fail with openers of uid 0 that have no capability, and with those that have both."""
    setuid = Program(NOBODY.command([str(setuid_cat)]))
    try:
        setuid.write({"running": True})
        setuid.read()  # it has been executed
        targets = {
            "nobody's": start_subject("anonymous").pid,
            "nobody's, not dumpable": start_subject("undumpable").pid,
            "nobody's, with a capability": start_subject("anonymous", user=HOLDING_NET_RAW).pid,
            "nobody's, setuid": setuid.pid,
            "root's": start_subject("anonymous", user=ROOT_USER).pid,
            "root's, without": start_subject("anonymous", user=CAPLESS_ROOT).pid,
            "root's, without, not dumpable": start_subject("undumpable", user=CAPLESS_ROOT).pid,
            "root's, without, of a group": start_subject(
                "anonymous", user=CAPLESS_ROOT._replace(gid=GAMES.gid)
            ).pid,
            "the first": 1,
        }
        caller = start_caller(root)
        told = {name: find_outcomes(caller, pid) for name, pid in targets.items()}
        caller_capabilities = int(read_status(caller.pid)["CapEff"], 16)
        opened = open_pagemaps(root, list(targets.values()))
    finally:
        setuid.kill()
    assert told == {name: OF_ERRORS[error] for name, error in zip(targets, opened, strict=True)}
    granted = {name for name, outcomes in told.items() if outcomes == {("", "")}}
    if root is ROOT_USER:
        assert granted >= set(targets) - {"the first"}  # which a container may keep from it
    elif root is CAPLESS_ROOT:
        assert caller_capabilities == 0
        assert granted == {"root's, without"}
