# SPDX-License-Identifier: Apache-2.0
"""What the daemon has done since it started. Plain values, without protobuf."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["CallCount", "CallDurations", "ServerStatistics"]


@dataclass(frozen=True, slots=True)
class CallCount:
    """Calls of one method that ended alike.

    Attributes:
        method: of the service, such as "GetPageFlags"; "Check" of the health service; "" for what
            the daemon does not know.
        code: name of the gRPC status, such as "OK" or "PERMISSION_DENIED".
    """

    method: str
    code: str
    count: int


@dataclass(frozen=True, slots=True)
class CallDurations:
    """How long the calls of one method took, until their last answer was handed to gRPC.

    Attributes:
        bounds_seconds: upper bounds of the buckets, ascending.
        counts: calls in each bucket, and at last those above all bounds. Each call is counted once.
        total_seconds: of all of them together.
    """

    method: str
    bounds_seconds: Sequence[float]
    counts: Sequence[int]
    total_seconds: float


@dataclass(frozen=True, slots=True)
class ServerStatistics:
    """What the daemon has done, for all callers together; all numbers begin with its start.

    Attributes:
        start_time_seconds: when it started, in seconds since 1970.
        connection_count: connections that are open now.
        worker_count: processes that answer callers now.
        pages_read: pages whose entry in a page table was looked at.
        calls: by method and status; what has not happened is left out.
        durations: by method.
        refusals: connections and calls that were refused, by reason, as in `Error.reason`.
    """

    version: str
    start_time_seconds: float
    connection_count: int
    worker_count: int
    pages_read: int
    calls: Sequence[CallCount]
    durations: Sequence[CallDurations]
    refusals: Mapping[str, int]
