# SPDX-License-Identifier: Apache-2.0
"""A service about one process, which is files of entries, flags and lines: every word is known."""

import os
import socket
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
import pytest
from cowdaemon.errors import DOMAIN, Code, CowdError, Reason
from cowdaemon.wire import Detail, Purpose
from cowdaemon.worker.call_counts import Counters
from cowdaemon.worker.disclosure import SAFE, DisclosureMasks
from cowdaemon.worker.features import KernelFeatures
from cowdaemon.worker.page_states import EntryLayout, Kpageflags, Words
from cowdaemon.worker.service import Caller, PageFlagsService
from cowdaemon.worker.statistics_calls import StatisticsCalls
from cowdaemon.worker.targets import Target
from cowproto.v1 import pageflags_pb2 as messages
from cowproto.v1 import twins_pb2

MakeFile = Callable[[bytes], int]
"""The fixture make_file."""

SERVICE = "/cowd.v1.PageFlagsService/"
HEALTH = "/grpc.health.v1.Health/Check"
METHODS = [
    f"{SERVICE}{name}"
    for name in (
        "GetPageFlags",
        "StreamPageFlags",
        "ListMappings",
        "SummarizeProcesses",
        "ComparePages",
        "GetServerInfo",
        "GetStatistics",
    )
]
DETAILS_KEY = "grpc-status-details-bin"
SECONDS = 20.0

PAGE = os.sysconf("SC_PAGE_SIZE")
PID, START_TIME_TICKS = 4711, 987_654
OTHER_PID, OTHER_START_TIME_TICKS = 4712, 987_999
CALLER = Caller(1000, 100, (4, 24, 27), Detail.SUMMARY)
COUNTERS = Counters(os.open(os.devnull, os.O_WRONLY))
with socket.socket() as nobody:
    STATISTICS_CALLS = StatisticsCalls(nobody, is_allowed=False)
CONFINEMENT = SimpleNamespace(has_seccomp=True, landlock_abi=3)
FEATURES = KernelFeatures(EntryLayout(31, has_soft_dirty=True), True, False, True)

PRESENT, SWAPPED, FILE, EXCLUSIVE, SOFT_DIRTY = 1 << 63, 1 << 62, 1 << 61, 1 << 56, 1 << 55
ANON_WORD = Kpageflags.ANON | Kpageflags.SWAPBACKED | Kpageflags.DIRTY
FILE_WORD = Kpageflags.MMAP | Kpageflags.DIRTY | Kpageflags.REFERENCED
FRAMES = [0, ANON_WORD | 1 << 34, FILE_WORD, Kpageflags.ANON, Kpageflags.ZERO_PAGE]
"""kpageflags of the machine."""
ENTRIES = [
    0,
    PRESENT | EXCLUSIVE | SOFT_DIRTY | 1,
    PRESENT | FILE | 2,
    PRESENT | 3,
    PRESENT | 4,
    SWAPPED | 0x123 << 5 | 1,
    SWAPPED | 4 << 5 | 31,
]
"""pagemap of the process, from its page 0."""
FIRST, SECOND, THIRD = (page * PAGE for page in (1, 3, 5))
MAPS = b"".join(
    b"%x-%x rw-p 00000000 08:01 7   /file %d\n" % (start, start + 2 * PAGE, number)
    for number, start in enumerate((FIRST, SECOND, THIRD), 1)
)


class Process:
    """The one process that there is, in place of Targets: its files may be changed.

    Every pid is its pid, but for those of `refusals`; `pids` are listed. If it is told to have
    `another`, OTHER_PID is that one's.
    """

    def __init__(self, make_file: MakeFile) -> None:
        self.pagemap = make_file(np.array(ENTRIES, "<u8").tobytes())
        self.maps = make_file(MAPS)
        self.refusal: Exception | None = None
        self.refusals: dict[int, Reason] = {}
        self.purposes: list[Purpose] = []
        self.pids: Sequence[int] | Reason = [PID]
        self.opener: socket.socket | None = None
        self.another: Process | None = None

    def open(self, pid: int, purpose: Purpose) -> Target:
        self.purposes.append(purpose)
        if self.refusal:
            raise self.refusal
        if pid in self.refusals:
            raise CowdError(self.refusals[pid], pid=pid, seconds=2)
        if pid == OTHER_PID and self.another:
            files = self.another
            return Target(pid, OTHER_START_TIME_TICKS, os.dup(files.pagemap), os.dup(files.maps))
        return Target(pid, START_TIME_TICKS, os.dup(self.pagemap), os.dup(self.maps))

    def write_pagemap(self, entries: Words) -> None:
        """Have these entries, from page 0, and no others."""
        os.ftruncate(self.pagemap, 0)
        os.pwrite(self.pagemap, entries.astype("<u8").tobytes(), 0)

    def list_pids(self) -> Sequence[int]:
        if isinstance(self.pids, Reason):
            raise CowdError(self.pids)
        return self.pids

    def exit(self) -> None:
        """Nothing more is read; as of a process that was opened a moment ago."""
        os.ftruncate(self.pagemap, 0)

    def adopt_opener(self, opener: socket.socket) -> None:
        self.opener = opener


def make_service(
    process: Process, reader: object, caller: Caller = CALLER, masks: DisclosureMasks = SAFE
) -> PageFlagsService:
    """Return a service about the process, whose pages a reader of any kind reads."""
    about = caller, process, reader, CONFINEMENT, COUNTERS, STATISTICS_CALLS, masks
    return PageFlagsService(*about)  # type: ignore[arg-type]


def call(channel: grpc.Channel, method: str, request: bytes) -> bytes:
    return channel.unary_unary(method)(request, timeout=SECONDS)


def check_health(channel: grpc.Channel, service: str = "") -> Any:
    request = twins_pb2.HealthCheckRequest(service=service)
    return twins_pb2.HealthCheckResponse.FromString(
        call(channel, HEALTH, request.SerializeToString())
    ).status


class Refusal:
    """A call that failed, as a client reads it: the status, and its details by type."""

    def __init__(self, error: Any) -> None:
        self.code = error.code()
        self.message = error.details()
        trailing = {item.key: item.value for item in error.trailing_metadata()}
        self.status = twins_pb2.Status.FromString(trailing[DETAILS_KEY])
        prefix = "type.googleapis.com/google.rpc."
        self.details = {
            detail.type_url.removeprefix(prefix): detail.value for detail in self.status.details
        }
        self.info = twins_pb2.ErrorInfo.FromString(self.details["ErrorInfo"])


def refuse(asking: Callable[[], object]) -> Refusal:
    """Return how a call failed; all parts of the failure must say the same."""
    with pytest.raises(grpc.RpcError) as failure:
        asking()
    refusal = Refusal(failure.value)
    reason = Reason[refusal.info.reason]
    assert refusal.code.value[0] == refusal.status.code == reason.code
    assert refusal.message == refusal.status.message
    assert refusal.info.domain == DOMAIN
    expected = (
        {"ErrorInfo", "RetryInfo"} if reason.code is Code.RESOURCE_EXHAUSTED else {"ErrorInfo"}
    )
    assert set(refusal.details) == expected
    return refusal


def ask_flags(**fields: int) -> messages.GetPageFlagsRequest:
    return messages.GetPageFlagsRequest(**{"pid": PID, "address": 0, "count": 1, **fields})
