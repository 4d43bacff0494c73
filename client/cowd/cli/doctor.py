# SPDX-License-Identifier: Apache-2.0
"""`cowctl doctor`: what keeps cowd from answering here, and what to do about it."""

from collections.abc import Sequence
from typing import Final

from cowd.cli.diagnosis import FAILED, OK, WARNING, Check, iter_checks
from cowd.cli.machine import read_machine
from cowd.cli.options import make_command, socket_option
from cowd.cli.output import Column, Json, Output
from cowd.cli.service import (
    PageAnswer,
    Service,
    ask_about_page,
    ask_service,
    examine_socket,
    write_page,
)
from cowd.cli.text import print_message

__all__ = ["command"]

SCHEMA: Final = "cowd.doctor/1"

_STYLES: Final = {OK: "green", WARNING: "yellow", FAILED: "bold red"}
_COLUMNS: Final[Sequence[Column[Check]]] = (
    Column("check", "CHECK", "what was looked at"),
    Column("result", "RESULT", "ok, warning, failed", style=lambda row: _STYLES[row.result]),
    Column("found", "FOUND", "what it is like", wraps=True),
    Column("next_step", "NEXT", "what to do, where there is something to do", below=True),
)


@make_command(
    "doctor",
    _COLUMNS,
    {
        "cowctl doctor": "What is wrong with the daemon at the usual place, or is not there.",
        "cowctl doctor --socket /tmp/cowd.sock": "The same of one that was started by hand.",
        "cowctl doctor -J | jq '.checks[] | select(.result != \"ok\")'": "For programs: only what "
        "is not well.",
    },
)
@socket_option
def command(socket: str | None, output: Output[Check]) -> int:
    """Find what keeps cowd from answering, and say what to do.

    Checks the socket, the service, the kernel and the container, and whether daemon and kernel are
    right about a page of cowctl's own. Takes a few seconds at most, also without a daemon. Exits
    with 1 if a check failed; what there is no ground to check is left out.
    """
    place = examine_socket(socket)
    service = ask_service(place.path) if place.is_connectable else None
    by_daemon, by_kernel = _ask_about_own_page(place.path, service)
    machine = read_machine()
    checks = list(iter_checks(place, service, machine, by_daemon, by_kernel))
    counts = {result: sum(check.result == result for check in checks) for result in _STYLES}
    head: dict[str, Json] = {"schema": SCHEMA, "socket": place.path or None, "uid": machine.uid}
    head |= {f"{result}_count": count for result, count in counts.items()}
    output.write_rows(head, "checks", checks)
    if output.is_for_person:
        warnings = f"{counts[WARNING]} warning{'s' * (counts[WARNING] != 1)}"
        output.write("", f"{counts[FAILED]} of {len(checks)} checks failed, {warnings}.")
    return 1 if counts[FAILED] else 0


def _ask_about_own_page(
    path: str, service: Service | None
) -> tuple[PageAnswer | None, PageAnswer | None]:
    """Return what the daemon, if it answers, and the kernel alone say of a page of our own."""
    try:
        with write_page() as address:
            is_answering = service is not None and service.info is not None
            by_daemon = ask_about_page(address, path) if is_answering else None
            return by_daemon, ask_about_page(address, None)
    except OSError as error:
        print_message(f"note: no page of cowctl's own can be asked about: {error.strerror}")
        return None, None
