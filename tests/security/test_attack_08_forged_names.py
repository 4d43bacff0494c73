# SPDX-License-Identifier: Apache-2.0
"""Attack 8: claim to be somebody, by all that a client may choose.

The name that its end of the connection is bound to, the authority that it calls, and metadata: some
servers have read an identity out of each of these (the socket's name: CVE-2019-7304). Here nothing
that a client sends or names is read for one.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from cowproto.v1 import pageflags_pb2
from harness.connectors import CAT, Connector, StartConnector
from harness.daemon import Daemon
from harness.outcomes import DENIED
from harness.programs import NOBODY, Caller, CallError, StartCaller, StartSubject

NAMES = ("x;uid=0;", "x;uid=0;gid=0;pid=1", "uid:0", "x\nuid=0\n", "root", "0")
AUTHORITIES = ("root", "uid=0", "localhost;uid=0;", "root@localhost", "0:0")
METADATA = [
    *(
        (key, value)
        for key in ("uid", "x-uid", "x-cowd-uid", "x-gid", "x-groups", "x-pid", "x-capabilities")
        for value in ("0", "1")
    ),
    *(
        (key, "root")
        for key in ("user", "x-user", "x-remote-user", "x-forwarded-user", "from", "cookie")
    ),
    ("authorization", "Basic cm9vdDo="),
    ("forwarded", "for=root;host=uid=0"),
]


@pytest.fixture
def start_connector(daemon: Daemon, public_directory: Path) -> Iterator[StartConnector]:
    """Return a function that starts a caller whose end is bound to this name."""
    with ExitStack() as stack:

        def start(name: str) -> Connector:
            relay_path = public_directory / "relay"
            connector = Connector(NOBODY, daemon.socket_path, relay_path, CAT, bound=name)
            stack.callback(connector.kill)
            return connector

        yield start


def verify_is_nobody(caller: Caller, nobody: Caller, start_subject: StartSubject) -> None:
    """Assert that the caller is taken for nobody and has nobody's authority."""
    request = pageflags_pb2.GetServerInfoRequest()
    told = caller.call_bytes("GetServerInfo", request)
    assert told == nobody.call_bytes("GetServerInfo", request)
    credential = pageflags_pb2.GetServerInfoResponse.FromString(told).caller
    assert (credential.uid, credential.gid, *credential.groups) == (NOBODY.uid, NOBODY.gid)
    mine = start_subject("anonymous")
    assert caller.get_page_flags(mine.pid, mine.address).state[0]
    assert caller.refused_page_flags(os.getpid(), 0x1000) == DENIED


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("place", ["path", "abstract"])
def test_name_of_the_callers_socket_makes_nobody_else_of_it(
    nobody: Caller,
    start_connector: StartConnector,
    start_subject: StartSubject,
    public_directory: Path,
    place: str,
    name: str,
) -> None:
    """Seen to fail with a broker that reads the uid in the peer's name, behind "uid="."""
    bound = f"@{name}" if place == "abstract" else str(public_directory / name)
    verify_is_nobody(start_connector(bound), nobody, start_subject)


@pytest.mark.parametrize("authority", AUTHORITIES)
def test_authority_that_is_called_makes_nobody_else_of_the_caller(
    nobody: Caller, start_caller: StartCaller, start_subject: StartSubject, authority: str
) -> None:
    """Seen to fail with a worker that reads the uid in the authority, behind "uid="."""
    caller = start_caller(options=[f"--authority={authority}"])
    verify_is_nobody(caller, nobody, start_subject)


def test_metadata_make_nobody_else_of_the_caller(
    nobody: Caller, start_subject: StartSubject
) -> None:
    """Seen to fail with a worker that believes x-uid."""
    request = pageflags_pb2.GetServerInfoRequest()
    plain = nobody.call_bytes("GetServerInfo", request)
    nobody.begin("GetServerInfo", request, metadata=METADATA)
    assert nobody.finish() == plain
    for pid in (os.getpid(), 1):
        asked = pageflags_pb2.GetPageFlagsRequest(pid=pid, address=0x1000, count=1)
        nobody.begin("GetPageFlags", asked, metadata=METADATA)
        with pytest.raises(CallError) as failure:
            nobody.finish()
        assert failure.value.outcome == DENIED
    mine = start_subject("anonymous")
    asked = pageflags_pb2.GetPageFlagsRequest(pid=mine.pid, address=mine.address, count=1)
    nobody.begin("GetPageFlags", asked, metadata=METADATA)
    assert nobody.finish()
