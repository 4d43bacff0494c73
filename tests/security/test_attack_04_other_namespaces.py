# SPDX-License-Identifier: Apache-2.0
"""Attack 4: ask from a sandbox, a user or pid namespace of one's own.

Everybody may make one. A process in a child user namespace shows to the daemon as its plain uid,
whose processes the kernel keeps from it; in a child pid namespace the numbers that it asks about
mean other processes. Such callers are refused as a whole, and told why.
"""

import pytest
from cowproto.v1 import pageflags_pb2
from harness.daemon import Daemon, StartDaemon
from harness.kernel_access import open_pagemaps
from harness.older_kernels import WITHOUT_PLACEMENT
from harness.outcomes import FOREIGN_PID_NAMESPACE, FOREIGN_USER_NAMESPACE
from harness.programs import NOBODY, Caller, StartCaller, StartSubject

PLACES = [
    pytest.param({"suffix": ["unshare", "--user"]}, FOREIGN_USER_NAMESPACE, id="user"),
    pytest.param(
        {"suffix": ["unshare", "--user", "--map-root-user"]}, FOREIGN_USER_NAMESPACE, id="as-root"
    ),
    pytest.param(
        {"prefix": ["unshare", "--pid", "--fork", "--kill-child"]}, FOREIGN_PID_NAMESPACE, id="pid"
    ),
    pytest.param(
        {"suffix": ["unshare", "--user", "--pid", "--fork", "--kill-child"]},
        FOREIGN_USER_NAMESPACE,
        id="both",
    ),
]
"""How a caller gets there, and what it is told."""


@pytest.fixture(params=["", WITHOUT_PLACEMENT], ids=["this-kernel", "older-kernel"])
def placing_daemon(request: pytest.FixtureRequest, start_daemon: StartDaemon) -> Daemon:
    """Return a daemon that places its callers in one way or the other."""
    return start_daemon(change=request.param)


def verify_refused(caller: Caller, pid: int, address: int, outcome: tuple[str, str]) -> None:
    """Assert that every call fails, with its reason in the sentence too."""
    for method, request in (
        ("GetPageFlags", pageflags_pb2.GetPageFlagsRequest(pid=pid, address=address, count=1)),
        ("ListMappings", pageflags_pb2.ListMappingsRequest(pid=pid)),
        ("GetServerInfo", pageflags_pb2.GetServerInfoRequest()),
        ("/grpc.health.v1.Health/Check", b""),
    ):
        failure = caller.refusal(method, request)
        assert failure.outcome == outcome
        assert "namespace than cowd" in failure.message


@pytest.mark.parametrize(("options", "outcome"), PLACES)
def test_caller_in_another_namespace(
    placing_daemon: Daemon,
    start_caller: StartCaller,
    start_subject: StartSubject,
    options: dict[str, list[str]],
    outcome: tuple[str, str],
) -> None:
    """Seen to fail, for user and for pid, without that half of place_by_pidfd and place_by_proc."""
    subject = start_subject("anonymous")
    caller = start_caller(NOBODY, placing_daemon.socket_path, **options)
    verify_refused(caller, subject.pid, subject.address, outcome)
    neighbour = start_caller(NOBODY, placing_daemon.socket_path)
    assert neighbour.get_page_flags(subject.pid, subject.address).state[0]


def test_kernel_refuses_them_too(start_subject: StartSubject) -> None:
    """Not a defence: why a child user namespace must not count as its uid."""
    subject = start_subject("anonymous")
    assert open_pagemaps(NOBODY, [subject.pid]) == [""]
    assert open_pagemaps(NOBODY, [subject.pid], suffix=["unshare", "--user"]) == ["EACCES"]
