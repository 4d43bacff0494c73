# SPDX-License-Identifier: Apache-2.0
"""What systemd does about a cowd that hangs, dies or cannot start, and what its callers see."""

import os
import signal
from typing import Any

from harness.processes import Departure, read_tree
from system.machine import CONFIG, Machine
from system.units import (
    ACTIVE,
    FAILED,
    SERVICE,
    SOCKET_UNIT,
    STARTED,
    await_event,
    read_state,
)

DEPART_SECONDS = 1.0
WATCHDOG_SECONDS = 2
CLIENT_SECONDS = 20.0
"""For a client to be told that there is no cowd: it tries for a while."""


def kill_broker(machine: Machine, number: signal.Signals) -> Any:
    """Send the broker a signal; return how systemd says that it ended, when another one runs.

    None of its other processes is left then.
    """
    machine.run("cowctl", "demo", user="alice")
    tree = read_tree(machine.main_pid())
    assert len(tree.pids) == 4
    before = machine.now()
    with Departure(tree.pids) as departure:
        os.kill(tree.broker, number)
        ended = await_event(machine, FAILED, before)
        assert departure.wait(DEPART_SECONDS) == []
    await_event(machine, STARTED, before)
    assert read_state(machine) == ACTIVE
    assert machine.main_pid() != tree.broker
    return ended["UNIT_RESULT"]


def test_hung_broker_is_replaced(machine: Machine) -> None:
    """Seen to fail without WatchdogSec= in the unit."""
    own = machine.show(SERVICE, "WatchdogUSec")["WatchdogUSec"]
    assert own == "30s"
    with machine.drop_in(SERVICE, f"[Service]\nWatchdogSec={WATCHDOG_SECONDS}\n"):
        machine.run("systemctl", "restart", SERVICE)
        with machine.start_asking("kept", "alice") as asking:
            assert kill_broker(machine, signal.SIGSTOP) == "watchdog"
            asking.await_answers(2)  # the second was asked for after the first
    machine.run("systemctl", "restart", SERVICE)


def test_idle_broker_feeds_its_watchdog(machine: Machine) -> None:
    """With nobody to serve, too. Seen to fail with manager.feed_watchdog() doing nothing."""
    with machine.drop_in(SERVICE, f"[Service]\nWatchdogSec={WATCHDOG_SECONDS}\n"):
        machine.run("systemctl", "restart", SERVICE)
        pid = machine.main_pid()
        with Departure([pid]) as departure:
            assert departure.wait(2.5 * WATCHDOG_SECONDS) == [pid]
        assert machine.show(SERVICE, "NRestarts")["NRestarts"] == "0"
    machine.run("systemctl", "restart", SERVICE)


def test_killed_broker_is_replaced(machine: Machine) -> None:
    """Seen to fail without Restart= in the unit."""
    assert kill_broker(machine, signal.SIGKILL) == "signal"
    machine.run("cowctl", "demo", user="alice")


def test_wrong_settings_keep_it_from_starting_until_they_are_right(machine: Machine) -> None:
    """The line is named, clients are told soon, and nothing but the right settings is needed then.

    Seen to fail without Listener.turn_away(): its clients start it again and again, until systemd
    closes the socket.
    """
    path = machine.path(CONFIG)
    packaged = path.read_text()
    before = machine.now()
    path.write_text("[limits]\nconnections = 0\n")
    try:
        assert machine.run("systemctl", "restart", SERVICE, check=False).returncode != 0
        failed = await_event(machine, FAILED, before)
        assert failed["UNIT_RESULT"] == "exit-code"
        assert f"{CONFIG}:2: limits.connections must be 1 to " in machine.log()
        for _ in range(3):
            refused = machine.run(
                "cowctl", "query", "1", "--backend=daemon", user="alice", check=False,
                seconds=CLIENT_SECONDS,
            )  # fmt: skip
            assert refused.returncode == 3
            assert refused.stderr.startswith("cowctl: cowd at /run/cowd/cowd.sock took the conn")
    finally:
        path.write_text(packaged)
    assert read_state(machine, SOCKET_UNIT).sub in ("listening", "running")
    machine.run("cowctl", "demo", user="alice")
