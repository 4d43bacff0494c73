# SPDX-License-Identifier: Apache-2.0
"""cowd leaves when nobody asks, and comes back for whoever does."""

import time

from harness.processes import Departure, read_tree
from system.machine import Machine
from system.units import ACTIVE, DEAD, SERVICE, SOCKET_UNIT, SUCCEEDED, await_event, read_state

QUICK = "[limits]\nworker_idle_seconds = 1\nidle_exit_seconds = 1\n"
LEAVING = "nobody has asked for 1 s: leaving until somebody does"
DEPART_SECONDS = 1.0
MILLISECONDS_AFTER = (0, 5, 10, 20, 30, 40, 60, 90)
"""After cowd has said that it leaves. Its end takes about 60."""
SECONDS_AFTER = (1.95, 2.05, 2.15, 2.25, 2.35, 2.45)
"""After the end of the last call. cowd leaves both of QUICK later, by the broker's clock."""


def test_nobody_is_left_when_nobody_asks(machine: Machine) -> None:
    with machine.configured(QUICK):
        for _ in range(2):
            before = machine.now()
            machine.run("cowctl", "demo", user="alice")
            assert read_state(machine) == ACTIVE
            tree = read_tree(machine.main_pid())
            with Departure(tree.pids) as departure:
                await_event(machine, SUCCEEDED, before)
                assert departure.wait(DEPART_SECONDS) == []
            assert read_state(machine) == DEAD
            assert read_state(machine, SOCKET_UNIT).sub == "listening"


def test_no_call_is_lost_around_the_exit(machine: Machine) -> None:
    """Whether it comes shortly before, in between or shortly after.

    Seen to fail with the listening socket emptied at the end of main().
    """
    with machine.configured(QUICK), machine.start_asking("once", "alice") as asking:
        assert asking.ask() is None
        started = machine.now()
        failures = []
        for milliseconds in MILLISECONDS_AFTER:
            before = machine.now()
            machine.await_record(f"MESSAGE={LEAVING}", after=before)
            time.sleep(milliseconds / 1000)  # the varied delay that this is about
            failures.append(asking.ask())
        for seconds in SECONDS_AFTER:
            time.sleep(seconds)
            failures.append(asking.ask())
        assert [failure for failure in failures if failure] == []
        left = machine.read_journal(f"UNIT={SERVICE}", f"MESSAGE_ID={SUCCEEDED}", after=started)
        assert len(left) > len(MILLISECONDS_AFTER)
