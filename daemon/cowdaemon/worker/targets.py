# SPDX-License-Identifier: Apache-2.0
"""Processes that the caller may inspect: opened through the opener, kept for about a second.

Worker, unprivileged. A descriptor is the capability: it was opened with the caller's authority, and
stays with the address space it was opened on. After that has gone it reads nothing. What was opened
for a summary is used for that one alone: a grant may cover no more.
"""

import array
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from cowdaemon import wire
from cowdaemon.errors import CowdError, Reason
from cowdaemon.limits import (
    OPENER_REPLACED_SECONDS,
    OPENER_SECONDS,
    PIDS,
    STUCK_KEPT_SECONDS,
    TARGET_KEPT_SECONDS,
    TARGETS_KEPT,
)
from cowdaemon.worker.mappings import (
    Mapping,
    iter_mappings,
    number_mappings,
    read_first_address,
)
from cowdaemon.worker.pagemap import Numbers

__all__ = ["Target", "Targets"]

_PAGE_SIZE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_ENTRY_BYTES: Final = 8
# An opener that was lost sooner was not stuck in the target it was asked for.
_STUCK_SECONDS: Final = OPENER_SECONDS * 0.9


class Target:
    """An opened process; its descriptors close with the last reference to it.

    `start_time_ticks` is in clock ticks since boot.
    """

    __slots__ = (
        "_known_entry_offset",
        "_maps",
        "_opened_at",
        "_reading_maps",
        "pagemap",
        "pid",
        "start_time_ticks",
    )

    def __init__(self, pid: int, start_time_ticks: int, pagemap: int, maps: int) -> None:
        self.pid: Final = pid
        self.start_time_ticks: Final = start_time_ticks
        self.pagemap: Final = pagemap
        self._maps: Final = maps
        self._reading_maps: Final = threading.Lock()
        self._opened_at: Final = time.monotonic()
        known = read_first_address(maps)
        self._known_entry_offset: Final = (
            None if known is None else known // _PAGE_SIZE_BYTES * _ENTRY_BYTES
        )

    def __del__(self) -> None:
        os.close(self.pagemap)
        os.close(self._maps)

    def has_expired(self) -> bool:
        """Tell whether access must be asked for again."""
        return time.monotonic() - self._opened_at > TARGET_KEPT_SECONDS

    def list_mappings(self) -> list[Mapping]:
        """Return its mappings in address order; none if the address space is gone."""
        # The kernel goes on behind the mapping it told of last only while reads follow each
        # other; between two readers of one descriptor it would count bytes of a changed text.
        with self._reading_maps:
            return list(iter_mappings(self._maps))

    def number_mappings(self, verify_wanted: Callable[[], None] = lambda: None) -> Numbers:
        """Return where its mappings are, and of which kind, as `number_mappings` does."""
        with self._reading_maps:
            return number_mappings(self._maps, verify_wanted)

    def is_alive(self) -> bool:
        """Tell whether the address space is still there: where a mapping was, pagemap has entries.

        It has them below the end of the address space whatever is mapped there now, and none
        once exit or exec has taken the last reference to the address space (pagemap_read).
        """
        if self._known_entry_offset is None:
            return False
        entry = os.pread(self.pagemap, _ENTRY_BYTES, self._known_entry_offset)
        return len(entry) == _ENTRY_BYTES


class Targets:
    """Opens processes as the caller, one at a time, and remembers them for a moment.

    Args:
        opener: connected to the opener of the worker's credential.
    """

    def __init__(self, opener: socket.socket) -> None:
        self._opener: socket.socket | None = None
        self._opener_changed = threading.Condition()
        self._asking = threading.Lock()
        self._kept: dict[int, Target] = {}
        self._keeping = threading.Lock()
        self._stuck_until: dict[int, float] = {}
        self.adopt_opener(opener)

    def adopt_opener(self, opener: socket.socket) -> None:
        """Use this opener from now on."""
        # The opener's own alarm ends it first; this is for one that not even a signal ends.
        opener.settimeout(OPENER_SECONDS + 1)
        with self._opener_changed:
            self._opener = opener
            self._opener_changed.notify_all()

    def drop_expired(self) -> None:
        """Close what has been kept long enough."""
        with self._keeping:
            self._kept = {
                pid: target for pid, target in self._kept.items() if not target.has_expired()
            }

    def open(self, pid: int, purpose: wire.Purpose = wire.Purpose.PAGES) -> Target:
        """Return the process opened: now, or for its pages within the last second.

        Raises:
            CowdError: it may not be inspected, is not there, or did not open in time.
        """
        with self._keeping:
            target = self._kept.get(pid)
        if target and not target.has_expired() and target.is_alive():
            return target
        target = self._open_now(pid, purpose)
        if purpose is not wire.Purpose.PAGES:
            return target  # not kept: its authority may be for a summary alone
        with self._keeping:
            self._kept.pop(pid, None)
            while len(self._kept) >= TARGETS_KEPT:
                del self._kept[next(iter(self._kept))]  # the oldest
            self._kept[pid] = target
        return target

    def list_pids(self) -> Sequence[int]:
        """Return the pids that are worth opening for a summary, in ascending order.

        Raises:
            CowdError: the opener failed, or was lost.
        """
        _, (pids,) = self._request(wire.OpenRequest(wire.Purpose.LIST, 0))
        try:
            return array.array("i", os.pread(pids, 4 * PIDS, 0))
        finally:
            os.close(pids)

    def _open_now(self, pid: int, purpose: wire.Purpose) -> Target:
        reply, (pagemap, maps) = self._request(wire.OpenRequest(purpose, pid))
        target = Target(pid, reply.start_time_ticks, pagemap, maps)
        if not target.is_alive():
            # Older kernels open pagemap of a kernel thread too; or it has just gone.
            raise CowdError(Reason.NO_ADDRESS_SPACE, pid=pid)
        return target

    def _request(self, request: wire.OpenRequest) -> tuple[wire.OpenReply, list[int]]:
        """Return what the opener opened; raise CowdError if it did not."""
        with self._asking:
            if self._stuck_until.get(request.pid, 0) > time.monotonic():
                raise CowdError(Reason.OPEN_TIMED_OUT, pid=request.pid, seconds=OPENER_SECONDS)
            reply, descriptors = self._ask(request)
        if reply.outcome:
            raise CowdError(Reason.from_number(reply.outcome), pid=request.pid)
        return reply, descriptors

    def _ask(self, request: wire.OpenRequest) -> tuple[wire.OpenReply, list[int]]:
        """Ask the opener; once more if it was lost before it can have been stuck in this target."""
        for _ in range(2):
            opener = self._wait_for_opener()
            started = time.monotonic()
            try:
                wire.send(opener, request.pack())
                message, descriptors = wire.receive(opener, 2)
            except OSError:
                message, descriptors = b"", []
            if message:
                try:
                    return _verify_reply(request, message, descriptors), descriptors
                except wire.WireError:
                    _close(descriptors)
                    raise
            with self._opener_changed:
                if self._opener is opener:
                    self._opener = None
            opener.close()
            if time.monotonic() - started >= _STUCK_SECONDS:
                self._remember_stuck(request.pid)
                raise CowdError(Reason.OPEN_TIMED_OUT, pid=request.pid, seconds=OPENER_SECONDS)
        raise CowdError(Reason.OPENER_LOST)

    def _remember_stuck(self, pid: int) -> None:
        now = time.monotonic()
        self._stuck_until = {
            known: until for known, until in self._stuck_until.items() if until > now
        }
        self._stuck_until[pid] = now + STUCK_KEPT_SECONDS

    def _wait_for_opener(self) -> socket.socket:
        with self._opener_changed:
            self._opener_changed.wait_for(lambda: self._opener, OPENER_REPLACED_SECONDS)
            if self._opener is None:
                raise CowdError(Reason.OPENER_LOST)
            return self._opener


def _verify_reply(
    request: wire.OpenRequest, message: bytes, descriptors: list[int]
) -> wire.OpenReply:
    reply = wire.OpenReply.unpack(message)
    due = 0 if reply.outcome else 1 if request.purpose is wire.Purpose.LIST else 2
    if reply.pid != request.pid or len(descriptors) != due:
        raise wire.WireError("the opener answered another request")
    return reply


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
