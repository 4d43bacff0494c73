# SPDX-License-Identifier: Apache-2.0
"""The calls through a real gRPC server: what is answered, and what cannot be."""

from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest
from cowdaemon import __version__
from cowdaemon.errors import CowdError, Reason
from cowdaemon.limits import (
    CALLS_PER_WORKER,
    MAPPINGS_PER_CALL,
    PAGES_PER_CALL,
    PIDS_PER_CALL,
    RANGES_PER_CALL,
)
from cowdaemon.wire import Detail
from cowdaemon.worker import process_calls as module
from cowdaemon.worker.disclosure import FULL, SAFE
from cowdaemon.worker.page_states import Kpageflags, encode
from cowdaemon.worker.reader import PageReadings, Reader
from cowdaemon.worker.requests import verify_range
from cowdaemon.worker.worker import Service
from cowproto.v1 import pageflags_pb2 as messages
from cowproto.v1 import pageflags_pb2_grpc
from unit.worker.served_process import (
    ANON_WORD,
    CALLER,
    ENTRIES,
    EXCLUSIVE,
    FEATURES,
    FILE_WORD,
    FIRST,
    PAGE,
    PID,
    PRESENT,
    SECOND,
    SECONDS,
    SOFT_DIRTY,
    START_TIME_TICKS,
    SWAPPED,
    THIRD,
    MakeFile,
    Process,
    ask_flags,
    make_service,
    refuse,
)

REQUESTS = {
    "GetPageFlags": ask_flags(),
    "StreamPageFlags": messages.StreamPageFlagsRequest(
        pid=PID, ranges=[messages.PageRange(count=1)]
    ),
    "ListMappings": messages.ListMappingsRequest(pid=PID),
    "ComparePages": messages.ComparePagesRequest(
        pid=PID, other_pid=PID, ranges=[messages.PageRange(count=1)]
    ),
}


def test_page_flags_of_every_page(stub: Any) -> None:
    response = stub.GetPageFlags(ask_flags(count=len(ENTRIES)))
    state, attribute = messages.PageState, messages.PageAttribute
    assert list(response.state) == [
        state.PAGE_STATE_ABSENT,
        state.PAGE_STATE_ANON,
        state.PAGE_STATE_FILE,
        state.PAGE_STATE_ANON,
        state.PAGE_STATE_ZERO,
        state.PAGE_STATE_ANON_SWAPPED,
        state.PAGE_STATE_GUARD,
    ]
    exclusive = attribute.PAGE_ATTRIBUTE_EXCLUSIVE | attribute.PAGE_ATTRIBUTE_SOFT_DIRTY
    lazyfree = attribute.PAGE_ATTRIBUTE_LAZYFREE
    assert list(response.attributes) == [0, exclusive, 0, lazyfree, 0, 0, 0]
    assert list(response.kpageflags) == [
        0,
        ANON_WORD,
        Kpageflags.MMAP,
        Kpageflags.ANON,
        Kpageflags.ZERO_PAGE,
        0,
        0,
    ]
    assert (response.page_size_bytes, response.address) == (PAGE, 0)
    assert response.start_time_ticks == START_TIME_TICKS
    assert response.masks == messages.DisclosureMasks(
        private_flags_mask=int(SAFE.private_flags), shared_flags_mask=int(SAFE.shared_flags)
    )


def test_page_flags_of_a_part(stub: Any) -> None:
    response = stub.GetPageFlags(ask_flags(address=4 * PAGE, count=2))
    assert response.address == 4 * PAGE
    assert list(response.state) == [
        messages.PAGE_STATE_ZERO,
        messages.PAGE_STATE_ANON_SWAPPED,
    ]


def test_page_that_does_not_settle_is_unknown_and_has_no_flags(
    serve: Callable[[Service], grpc.Channel], process: Process
) -> None:
    class Restless:
        features = FEATURES

        def read_few(self, *_: object) -> None:
            return None

        def read(self, pagemap: int, address: int, count: int) -> PageReadings:  # noqa: ARG002
            entries = np.array([PRESENT | EXCLUSIVE | 1, SWAPPED | SOFT_DIRTY | 1], np.uint64)
            flags = np.array([ANON_WORD, 0], np.uint64)
            return PageReadings(entries, flags, encode(entries, flags), np.array([1]))

    service = make_service(process, Restless())
    stub = pageflags_pb2_grpc.PageFlagsServiceStub(serve(service))
    response = stub.GetPageFlags(ask_flags(count=2))
    assert list(response.state) == [messages.PAGE_STATE_ANON, messages.PAGE_STATE_UNKNOWN]
    assert response.attributes[1] == messages.PAGE_ATTRIBUTE_UNSTABLE
    assert list(response.kpageflags) == [ANON_WORD, 0]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"pid": 0}, Reason.INVALID_PID),
        ({"pid": -1}, Reason.INVALID_PID),
        ({"address": 1}, Reason.UNALIGNED_ADDRESS),
        ({"address": PAGE // 2}, Reason.UNALIGNED_ADDRESS),
        ({"count": 0}, Reason.INVALID_COUNT),
        ({"count": PAGES_PER_CALL + 1}, Reason.INVALID_COUNT),
        ({"count": 2**64 - 1}, Reason.INVALID_COUNT),
        ({"address": 2**64 - PAGE, "count": 2}, Reason.RANGE_OVERFLOW),
        ({"address": 2**64 - PAGE}, Reason.OUT_OF_ADDRESS_SPACE),
        ({"count": len(ENTRIES) + 1}, Reason.OUT_OF_ADDRESS_SPACE),
        ({"expected_start_time_ticks": START_TIME_TICKS + 1}, Reason.START_TIME_DIFFERS),
    ],
)
def test_request_that_cannot_be_answered(stub: Any, fields: dict[str, int], reason: Reason) -> None:
    refusal = refuse(lambda: stub.GetPageFlags(ask_flags(**fields)))
    assert refusal.info.reason == reason.name


def test_range_ends_where_numbers_end() -> None:
    """The last page of all is no overflow; what lies there the kernel says."""
    verify_range(2**64 - PAGE, 1)
    verify_range(0, PAGES_PER_CALL)


def test_expected_start_time_that_is_right(stub: Any) -> None:
    response = stub.GetPageFlags(ask_flags(expected_start_time_ticks=START_TIME_TICKS))
    assert response.start_time_ticks == START_TIME_TICKS


@pytest.mark.parametrize("method", REQUESTS)
@pytest.mark.parametrize(
    "reason",
    [
        Reason.NO_SUCH_PROCESS,
        Reason.ACCESS_DENIED,
        Reason.OWN_PROCESS,
        Reason.NO_ADDRESS_SPACE,
        Reason.OPENER_LOST,
        Reason.OPEN_TIMED_OUT,
    ],
    ids=lambda reason: reason.name,
)
def test_refusal_to_open_is_passed_on(
    stub: Any, process: Process, method: str, reason: Reason
) -> None:
    process.refusal = CowdError(reason, pid=PID, seconds=2.0)
    request = REQUESTS[method]
    refusal = refuse(lambda: list(getattr(stub, method)(request, timeout=SECONDS)))
    assert refusal.info.reason == reason.name
    assert refusal.message == str(process.refusal)


def test_process_that_exits_while_it_is_read(stub: Any, process: Process) -> None:
    process.exit()
    refusal = refuse(lambda: stub.GetPageFlags(ask_flags()))
    assert refusal.code is grpc.StatusCode.ABORTED
    assert refusal.info.reason == "PROCESS_GONE"
    refusal = refuse(lambda: stub.ListMappings(messages.ListMappingsRequest(pid=PID)))
    assert refusal.info.reason == "PROCESS_GONE"


def test_mappings(stub: Any) -> None:
    response = stub.ListMappings(messages.ListMappingsRequest(pid=PID))
    assert [mapping.start_address for mapping in response.mappings] == [FIRST, SECOND, THIRD]
    assert response.mappings[1] == messages.Mapping(
        start_address=SECOND,
        end_address=SECOND + 2 * PAGE,
        permissions="rw-p",
        path=b"/file 2",
        kind=messages.MAPPING_KIND_PRIVATE_FILE,
    )
    assert response.start_time_ticks == START_TIME_TICKS
    assert response.next_start_address == 0


@pytest.mark.parametrize(
    ("start_address", "first"),
    [(FIRST + 1, FIRST), (FIRST + 2 * PAGE - 1, FIRST), (FIRST + 2 * PAGE, SECOND)],
)
def test_mappings_that_end_after_an_address(stub: Any, start_address: int, first: int) -> None:
    request = messages.ListMappingsRequest(pid=PID, start_address=start_address)
    assert stub.ListMappings(request).mappings[0].start_address == first


def list_by_parts(stub: Any) -> list[list[int]]:
    """Return the start addresses that each call gave, until there was no next."""
    parts: list[list[int]] = []
    request = messages.ListMappingsRequest(pid=PID)
    while not parts or request.start_address:
        assert len(parts) < 4, "without end"
        response = stub.ListMappings(request)
        parts.append([mapping.start_address for mapping in response.mappings])
        request.start_address = response.next_start_address
    return parts


@pytest.mark.parametrize(
    ("name", "limit", "parts"),
    [
        ("MAPPINGS_PER_CALL", 1, [[FIRST], [SECOND], [THIRD]]),
        ("MAPPINGS_PER_CALL", 2, [[FIRST, SECOND], [THIRD]]),
        ("MAPPINGS_PER_CALL", 3, [[FIRST, SECOND, THIRD]]),
        ("MAPPINGS_PATH_BYTES", 1, [[FIRST], [SECOND], [THIRD]]),
        ("MAPPINGS_PATH_BYTES", 10, [[FIRST, SECOND], [THIRD]]),
    ],
)
def test_mappings_by_parts_leave_none_out(
    stub: Any, monkeypatch: pytest.MonkeyPatch, name: str, limit: int, parts: list[list[int]]
) -> None:
    monkeypatch.setattr(module, name, limit)
    assert list_by_parts(stub) == parts


def test_server_info(stub: Any) -> None:
    assert stub.GetServerInfo(messages.GetServerInfoRequest()) == messages.GetServerInfoResponse(
        version=__version__,
        page_size_bytes=PAGE,
        caller=messages.CallerCredential(uid=1000, gid=100, groups=[4, 24, 27]),
        maximum_page_count=PAGES_PER_CALL,
        maximum_mapping_count=MAPPINGS_PER_CALL,
        masks=messages.DisclosureMasks(
            private_flags_mask=int(SAFE.private_flags), shared_flags_mask=int(SAFE.shared_flags)
        ),
        kernel_features=messages.KernelFeatures(
            soft_dirty=True, guard_regions=True, markers=True, page_copiers=True
        ),
        maximum_concurrent_call_count=CALLS_PER_WORKER,
        confinement=messages.Confinement(seccomp=True, landlock_abi=3),
        granted=messages.GRANT_DETAIL_SUMMARY,
        maximum_pid_count=PIDS_PER_CALL,
        maximum_range_count=RANGES_PER_CALL,
    )


@pytest.mark.parametrize("detail", Detail)
def test_caller_is_told_what_it_is_granted(
    serve: Callable[[Service], grpc.Channel], process: Process, detail: Detail
) -> None:
    caller = CALLER._replace(granted=detail)
    service = make_service(process, Reader(-1, FEATURES), caller)
    stub = pageflags_pb2_grpc.PageFlagsServiceStub(serve(service))
    granted = stub.GetServerInfo(messages.GetServerInfoRequest()).granted
    assert messages.GrantDetail.Name(granted) == f"GRANT_DETAIL_{detail.name}"


def test_masks_of_a_caller_are_told_and_applied(
    serve: Callable[[Service], grpc.Channel], process: Process, make_file: MakeFile
) -> None:
    words = [0, 2**64 - 1, FILE_WORD | Kpageflags.THP | 1 << 63]
    reader = Reader(make_file(np.array(words, "<u8").tobytes()), FEATURES)
    service = make_service(process, reader, masks=FULL)
    stub = pageflags_pb2_grpc.PageFlagsServiceStub(serve(service))
    wanted = messages.PageRange(address=PAGE, count=2)
    request = messages.StreamPageFlagsRequest(pid=PID, ranges=[wanted])
    response = stub.GetPageFlags(ask_flags(address=wanted.address, count=wanted.count))
    every_bit = 2**64 - 1
    masks = messages.DisclosureMasks(private_flags_mask=every_bit, shared_flags_mask=every_bit)
    for each in (response, *stub.StreamPageFlags(request)):
        assert list(each.kpageflags) == words[1:]
        assert each.masks == masks
    assert stub.GetServerInfo(messages.GetServerInfoRequest()).masks == masks
