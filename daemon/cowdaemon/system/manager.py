# SPDX-License-Identifier: Apache-2.0
"""The service manager: told how the daemon is, if there is one (sd_notify(3)).

Used by root, in the broker.
"""

import logging
import os
from typing import Final

from systemd import daemon as systemd_daemon

__all__ = ["notify", "read_watchdog_seconds"]

_log: Final = logging.getLogger(__name__)


def notify(state: str) -> None:
    """Tell it; one that is away just now is no reason to end."""
    try:
        systemd_daemon.notify(state)
    except OSError as error:
        _log.warning("the service manager cannot be told %r: %s", state, error)


def read_watchdog_seconds() -> float | None:
    """Return how often it wants to hear of us: twice as often as it gives us up; None for never."""
    watchdog_usec = int(os.environ.get("WATCHDOG_USEC", "0"))
    return watchdog_usec / 2e6 if watchdog_usec else None
