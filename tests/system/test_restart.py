# SPDX-License-Identifier: Apache-2.0
"""systemctl restart and stop, while people use cowd: no call is lost."""

import os
import signal
from contextlib import ExitStack

from cowproto.v1 import pageflags_pb2
from harness.processes import Departure, read_tree
from system.machine import SOCKET, Machine
from system.units import DEAD, SERVICE, SOCKET_UNIT, STOPPING, await_event, read_state

RESTARTS = 6
ANSWERS = 20
"""Of two threads, so that each has most likely asked the new cowd."""
DEPART_SECONDS = 1.0


def test_no_call_fails_through_restarts(machine: Machine) -> None:
    """Of several users, on connections that are kept and on new ones.

    Seen to fail with workers that stop their gRPC server while calls still come.
    """
    with ExitStack() as stack:
        asking = [
            stack.enter_context(machine.start_asking("both", user))
            for user in ("alice", "alice", "bob")
        ]
        for _ in range(RESTARTS):
            machine.run("systemctl", "reset-failed", SERVICE)  # else that would be too many
            machine.run("systemctl", "restart", SERVICE)
            for each in asking:
                each.await_answers(ANSWERS)
        told = [each.end() for each in asking]
    assert [each["failures"] for each in told] == [[], [], []]


def test_stop_waits_for_a_call_and_leaves_nothing(machine: Machine) -> None:
    """Seen to fail with limits.DRAIN_SECONDS 0, and without RemoveOnStop= in the socket's unit."""
    caller = machine.start_caller("alice")
    caller.get_server_info()
    tree = read_tree(machine.main_pid())
    [opener] = tree.openers
    os.kill(opener, signal.SIGSTOP)
    request = pageflags_pb2.ListMappingsRequest(pid=caller.pid_inside)
    before = machine.now()
    caller.begin("ListMappings", request)
    with Departure(tree.pids) as departure:
        machine.run("systemctl", "stop", "--no-block", SERVICE)
        await_event(machine, STOPPING, before)
        assert read_state(machine).active == "deactivating"
        os.kill(opener, signal.SIGCONT)
        assert pageflags_pb2.ListMappingsResponse.FromString(caller.finish()).mappings
        machine.run("systemctl", "stop", SERVICE)  # waits for the first
        assert departure.wait(DEPART_SECONDS) == []
    caller.close()
    assert read_state(machine) == DEAD
    assert os.listdir(machine.path("/run/cowd")) == ["cowd.sock"]
    assert read_state(machine, SOCKET_UNIT).sub == "listening"
    machine.run("systemctl", "stop", SOCKET_UNIT)
    assert not machine.path(SOCKET).exists()
    machine.run("systemctl", "start", SOCKET_UNIT)
    machine.run("cowctl", "demo", user="alice")
