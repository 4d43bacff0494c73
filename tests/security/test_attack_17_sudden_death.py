# SPDX-License-Identifier: Apache-2.0
"""Attack 17, in part: kill -9 of any process of cowd.

The rest is gone or replaced at once, and calls work again.
"""

import os
import signal
import time

import pytest
from cowproto.v1 import pageflags_pb2
from harness.daemon import DEPART_SECONDS, Daemon, StartDaemon
from harness.processes import Departure, Tree
from harness.programs import NOBODY, Caller, CallError, StartCaller, StartSubject, Subject

REPLACED_SECONDS = 1.0
"""For a lost opener or worker. A new zygote takes longer: it imports grpc and numpy."""
ZYGOTE_SECONDS = 15.0


def ask(caller: Caller, subject: Subject) -> int:
    """Return the state of the subject's first page."""
    return caller.get_page_flags(subject.pid, subject.address).state[0]


def ask_until_answered(caller: Caller, subject: Subject, seconds: float) -> int:
    """Call until the answer comes; until then every failure must be the daemon's absence."""
    deadline = time.monotonic() + seconds
    request = pageflags_pb2.GetPageFlagsRequest(pid=subject.pid, address=subject.address, count=1)
    while True:
        left = deadline - time.monotonic()
        caller.begin("GetPageFlags", request, seconds=left, wait=True)
        try:
            return pageflags_pb2.GetPageFlagsResponse.FromString(caller.finish()).state[0]
        except CallError as error:
            if error.outcome[0] != "UNAVAILABLE":
                raise


def kill(pid: int) -> None:
    """Kill a process and return when it has ended."""
    with Departure([pid]) as departure:
        os.kill(pid, signal.SIGKILL)
        assert not departure.wait(DEPART_SECONDS)


def start_and_ask(
    start_daemon: StartDaemon, start_caller: StartCaller, subject: Subject
) -> tuple[Daemon, Caller, Tree]:
    """Return a daemon with one caller, whose opener and worker have served it."""
    daemon = start_daemon()
    caller = start_caller(NOBODY, daemon.socket_path)
    assert ask(caller, subject)
    return daemon, caller, daemon.settled_tree(openers=1, workers=1)


def test_all_end_with_the_broker_and_the_next_one_serves(
    start_daemon: StartDaemon, start_caller: StartCaller, start_subject: StartSubject
) -> None:
    """Seen to fail with a zygote that does not end when its control socket closes."""
    subject = start_subject("anonymous")
    daemon, caller, _ = start_and_ask(start_daemon, start_caller, subject)
    assert daemon.kill() == []
    with pytest.raises(CallError) as failure:
        ask(caller, subject)
    assert failure.value.outcome[0] == "UNAVAILABLE"
    assert daemon.socket_path.exists()  # a dead broker cannot remove it: the next one must cope
    start_daemon(socket_path=daemon.socket_path)
    assert ask_until_answered(caller, subject, REPLACED_SECONDS)


def test_killed_opener_is_replaced(
    start_daemon: StartDaemon, start_caller: StartCaller, start_subject: StartSubject
) -> None:
    """Seen to fail without Pairs.replace_opener(): its worker is then ended, too."""
    subject, fresh = start_subject("anonymous"), start_subject("anonymous")
    daemon, caller, tree = start_and_ask(start_daemon, start_caller, subject)
    kill(tree.openers[0])
    assert ask_until_answered(caller, fresh, REPLACED_SECONDS)
    after = daemon.settled_tree(openers=1, workers=1)
    assert after.workers == tree.workers
    assert after.openers != tree.openers


def test_opener_ends_with_its_worker_and_both_are_replaced(
    start_daemon: StartDaemon, start_caller: StartCaller, start_subject: StartSubject
) -> None:
    """An opener does not outlive its worker.

    Seen to fail with openers that do not end when their worker's end closes, if the broker does not
    kill them either.
    """
    subject = start_subject("anonymous")
    daemon, caller, tree = start_and_ask(start_daemon, start_caller, subject)
    with Departure(tree.openers) as openers:
        kill(tree.workers[0])
        assert openers.wait(REPLACED_SECONDS) == []
    assert ask_until_answered(caller, subject, REPLACED_SECONDS)
    after = daemon.settled_tree(openers=1, workers=1)
    assert after.zygotes == tree.zygotes
    assert after.workers != tree.workers


def test_workers_end_with_the_zygote_and_all_are_replaced(
    start_daemon: StartDaemon, start_caller: StartCaller, start_subject: StartSubject
) -> None:
    """Seen to fail with a broker that starts no other zygote."""
    subject = start_subject("anonymous")
    daemon, caller, tree = start_and_ask(start_daemon, start_caller, subject)
    with Departure([*tree.openers, *tree.workers]) as departure:
        kill(tree.zygotes[0])
        assert departure.wait(DEPART_SECONDS) == []
    assert ask_until_answered(caller, subject, ZYGOTE_SECONDS)
    after = daemon.settled_tree(openers=1, workers=1)
    assert after.zygotes != tree.zygotes
