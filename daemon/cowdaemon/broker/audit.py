# SPDX-License-Identifier: Apache-2.0
"""Who was refused, and who looked at whom by grant: one record each, bounded, the rest counted.

Root, in the broker and the openers, each of which bounds its own: a caller who is refused all the
time does not keep another's record out. A record that the journal has no room for is counted, too.
"""

import time
from collections import Counter
from typing import Final, NamedTuple

from cowdaemon.broker.peers import Credential, Peer
from cowdaemon.limits import AUDIT_RECORDS, AUDIT_RECORDS_PER_UID, AUDIT_SECONDS
from cowdaemon.system.journal import Journal, escape

__all__ = ["Audit", "Target"]

_NOTICE: Final = 5  # LOG_NOTICE, syslog(3)


class Target(NamedTuple):
    """The process that a record is about; `comm` is its name, which it chose itself."""

    pid: int
    uid: int
    comm: str


class Audit:
    """Writes the records of one process.

    Args:
        journal: where to.

    Attributes:
        dropped: how many of each uid and reason are still to be told of.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._ends_at = 0.0
        self._written: Counter[tuple[int, str]] = Counter()
        self.dropped: Counter[tuple[int, str]] = Counter()

    def record(
        self, caller: Credential | Peer, decision: str, reason: str, target: Target | None = None
    ) -> None:
        """Write a record, or count it.

        Args:
            caller: who asked.
            decision: "refused" or "granted".
            reason: name of an errors.Reason, or of the wire.Purpose that was granted.
            target: about which process, if it is about one.
        """
        self.flush()
        uid, key = caller.uid, (caller.uid, reason)
        fields: dict[str, str | int] = {
            "COWD_DECISION": decision,
            "COWD_REASON": reason,
            "COWD_CALLER_UID": uid,
            "COWD_CALLER_GID": caller.gid,
            "COWD_CALLER_LABEL": escape(caller.label),
        }
        message = f"{decision} {reason}: uid {uid}"
        if target:
            comm = escape(target.comm)
            message += f" and process {target.pid} ({comm}) of uid {target.uid}"
            fields |= {"COWD_TARGET_PID": target.pid, "COWD_TARGET_UID": target.uid}
            fields["COWD_TARGET_COMM"] = comm
        has_room = (
            self._written[key] < AUDIT_RECORDS_PER_UID and self._written.total() < AUDIT_RECORDS
        )
        is_written = has_room and self._journal.write(_NOTICE, message, fields)
        (self._written if is_written else self.dropped)[key] += 1

    def flush(self, at_once: bool = False) -> None:
        """Tell how many records were dropped, once their time is over."""
        now = time.monotonic()
        if now < self._ends_at and not at_once:
            return
        self._ends_at = now + AUDIT_SECONDS
        self._written.clear()
        for (uid, reason), count in self.dropped.most_common(AUDIT_RECORDS):
            about: dict[str, str | int] = {"COWD_REASON": reason, "COWD_CALLER_UID": uid}
            message = f"{count} records {reason} of uid {uid} were dropped"
            if self._journal.write(_NOTICE, message, about | {"COWD_DROPPED_COUNT": count}):
                del self.dropped[uid, reason]
