# SPDX-License-Identifier: Apache-2.0
"""What systemd tells the journal about units, by the ids that it gives such records."""

from typing import NamedTuple

from system.machine import Machine, Record

SERVICE, SOCKET_UNIT = "cowd.service", "cowd.socket"
EXPORTER = "cowd-exporter.service"
STARTED = "39f53479d3a045ac8e11786248231fbf"
SUCCEEDED = "7ad2d189f7e94e70a38c781354912448"
"""It has ended, and well."""
FAILED = "d9b373ed55a64feb8242e02dbe79a49c"
STOPPING = "de5b426a63be47a7b6ac3eaac82e2f6f"


class State(NamedTuple):
    """What `systemctl status` says of a unit."""

    active: str
    sub: str
    result: str


ACTIVE = State("active", "running", "success")
DEAD = State("inactive", "dead", "success")


def read_state(machine: Machine, unit: str = SERVICE) -> State:
    """Return the state of a unit."""
    shown = machine.show(unit, "ActiveState", "SubState", "Result")
    return State(shown["ActiveState"], shown["SubState"], shown["Result"])


def await_event(machine: Machine, event: str, after: int, unit: str = SERVICE) -> Record:
    """Return what systemd says of a unit after that time, or wait for it."""
    return machine.await_record(f"UNIT={unit}", f"MESSAGE_ID={event}", after=after)
