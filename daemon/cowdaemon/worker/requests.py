# SPDX-License-Identifier: Apache-2.0
"""What requests have in common: what they name is opened and verified, short reads are explained.

Worker, unprivileged. Whatever is wrong is raised as CowdError.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from cowproto.v1 import pageflags_pb2 as messages

from cowdaemon import wire
from cowdaemon.errors import CowdError, Reason
from cowdaemon.limits import RANGES_PER_CALL
from cowdaemon.worker.pagemap import ShortReadError, read_entries
from cowdaemon.worker.targets import Target, Targets

__all__ = [
    "explaining_short_reads",
    "number_ranges",
    "open_target",
    "verify_access",
    "verify_range",
    "verify_reach",
    "verify_start_time",
]

_PAGE_SIZE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_ADDRESSES: Final = 1 << 64


def open_target(targets: Targets, pid: int, purpose: wire.Purpose = wire.Purpose.PAGES) -> Target:
    """Return the process that a request names, opened."""
    if pid < 1:
        raise CowdError(Reason.INVALID_PID, pid=pid)
    return targets.open(pid, purpose)


def verify_access(targets: Targets, target: Target) -> None:
    """Ask again, now and then, whether the caller may still inspect a target.

    Raises:
        CowdError: the caller may not, or it has gone: then this is said, whatever its pid is now.
    """
    try:
        targets.open(target.pid, wire.Purpose.PAGES)
    except CowdError:
        if not target.is_alive():
            raise CowdError(Reason.PROCESS_GONE, pid=target.pid) from None
        raise


@contextmanager
def explaining_short_reads(target: Target) -> Iterator[None]:
    """Raise what a short read of a target's pagemap means: its end, or that of the range."""
    try:
        yield
    except ShortReadError:
        reason = Reason.OUT_OF_ADDRESS_SPACE if target.is_alive() else Reason.PROCESS_GONE
        raise CowdError(reason, pid=target.pid) from None


def verify_range(address: int, count: int, most: int | None = None) -> None:
    """Raise CowdError unless a range has whole pages, `most` at most, below 2^64."""
    if address % _PAGE_SIZE_BYTES:
        raise CowdError(Reason.UNALIGNED_ADDRESS, address=address, page_size_bytes=_PAGE_SIZE_BYTES)
    if count < 1 or (most is not None and count > most):
        wanted = "1 page or more" if most is None else f"1 to {most} pages a call"
        raise CowdError(Reason.INVALID_COUNT, count=count, wanted=wanted)
    if address + count * _PAGE_SIZE_BYTES > _ADDRESSES:
        raise CowdError(Reason.RANGE_OVERFLOW, address=address, count=count)


def number_ranges(ranges: Sequence[messages.PageRange]) -> list[tuple[int, int]]:
    """Return first page and page after the last of each range, or raise CowdError."""
    if not 1 <= len(ranges) <= RANGES_PER_CALL:
        raise CowdError(Reason.INVALID_RANGE_COUNT, count=len(ranges), maximum=RANGES_PER_CALL)
    for each in ranges:
        verify_range(each.address, each.count)
    firsts = [each.address // _PAGE_SIZE_BYTES for each in ranges]
    return [(first, first + each.count) for first, each in zip(firsts, ranges, strict=True)]


def verify_reach(target: Target, ranges: Sequence[tuple[int, int]]) -> None:
    """Raise CowdError if one of these ranges leaves the address space of a target."""
    for _, end in ranges:
        with explaining_short_reads(target):
            read_entries(target.pagemap, (end - 1) * _PAGE_SIZE_BYTES, 1)


def verify_start_time(target: Target, expected_ticks: int) -> None:
    """Raise CowdError if a process other than the expected one has its pid; 0 expects none."""
    actual_ticks = target.start_time_ticks
    if expected_ticks not in (0, actual_ticks):
        raise CowdError(
            Reason.START_TIME_DIFFERS,
            pid=target.pid,
            actual=actual_ticks,
            expected=expected_ticks,
        )
