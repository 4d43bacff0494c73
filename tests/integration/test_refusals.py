# SPDX-License-Identifier: Apache-2.0
"""How the daemon says no to what makes no sense, and what a refusal carries.

Whom it refuses, and which processes, is in tests/security.
"""

import os
from pathlib import Path

import pytest
from cowdaemon.errors import DOMAIN
from cowdaemon.limits import PAGES_PER_CALL
from cowproto.v1 import pageflags_pb2, twins_pb2
from harness.outcomes import ABSENT_PID
from harness.programs import (
    Caller,
    StartSubject,
)

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
VSYSCALL = 0xFFFF_FFFF_FF60_0000
LAST_PAGE = 2**64 - PAGE_BYTES

# Requests that make no sense


@pytest.mark.parametrize(
    ("address", "count", "outcome"),
    [
        (0x1001, 1, ("INVALID_ARGUMENT", "UNALIGNED_ADDRESS")),
        (0x1000 + PAGE_BYTES // 2, 1, ("INVALID_ARGUMENT", "UNALIGNED_ADDRESS")),
        (0x1000, 0, ("INVALID_ARGUMENT", "INVALID_COUNT")),
        (0x1000, PAGES_PER_CALL + 1, ("INVALID_ARGUMENT", "INVALID_COUNT")),
        (0x1000, 2**63, ("INVALID_ARGUMENT", "INVALID_COUNT")),
        (LAST_PAGE, 2, ("INVALID_ARGUMENT", "RANGE_OVERFLOW")),
        (LAST_PAGE, 1, ("OUT_OF_RANGE", "OUT_OF_ADDRESS_SPACE")),
        (VSYSCALL, 1, ("OUT_OF_RANGE", "OUT_OF_ADDRESS_SPACE")),
        (1 << 47, 1, ("OUT_OF_RANGE", "OUT_OF_ADDRESS_SPACE")),
        ((1 << 47) - 4 * PAGE_BYTES, 8, ("OUT_OF_RANGE", "OUT_OF_ADDRESS_SPACE")),
    ],
)
def test_range_that_cannot_be(
    nobody: Caller, address: int, count: int, outcome: tuple[str, str]
) -> None:
    assert nobody.refused_page_flags(nobody.pid, address, count) == outcome


def test_largest_call_is_answered(nobody: Caller) -> None:
    response = nobody.get_page_flags(nobody.pid, 0x1000, PAGES_PER_CALL)
    assert len(response.state) == PAGES_PER_CALL


def test_request_that_is_no_message(nobody: Caller) -> None:
    outcome = nobody.refusal("GetPageFlags", b"\x08").outcome  # a field without its value
    assert outcome == ("INVALID_ARGUMENT", "MALFORMED_REQUEST")


def test_start_time_that_differs(nobody: Caller, start_subject: StartSubject) -> None:
    subject = start_subject("anonymous")
    address = subject.address
    started = nobody.get_page_flags(subject.pid, address).start_time_ticks
    assert started == read_start_time_ticks(subject.pid)
    again = nobody.get_page_flags(subject.pid, address, expected_start_time_ticks=started)
    assert again.start_time_ticks == started
    outcome = nobody.refused_page_flags(subject.pid, address, expected_start_time_ticks=started + 1)
    assert outcome == ("FAILED_PRECONDITION", "START_TIME_DIFFERS")
    request = pageflags_pb2.ListMappingsRequest(
        pid=subject.pid, expected_start_time_ticks=started + 1
    )
    assert nobody.refusal("ListMappings", request).outcome == outcome


def read_start_time_ticks(pid: int) -> int:
    """Return field 22 of /proc/PID/stat."""
    stat = Path(f"/proc/{pid}/stat").read_text()
    return int(stat[stat.rindex(")") + 2 :].split()[19])


# What a refusal carries


def test_refusal_has_a_sentence_and_details(nobody: Caller) -> None:
    request = pageflags_pb2.GetPageFlagsRequest(pid=ABSENT_PID, address=0x1000, count=1)
    failure = nobody.refusal("GetPageFlags", request)
    assert failure.status.code == failure.code
    assert failure.status.message == failure.message
    assert str(ABSENT_PID) in failure.message
    assert failure.info.domain == DOMAIN
    assert [detail.type_url for detail in failure.status.details] == [
        "type.googleapis.com/google.rpc.ErrorInfo"
    ]


@pytest.mark.pypi
def test_real_packages_read_the_details(nobody: Caller) -> None:
    error_details_pb2 = pytest.importorskip("google.rpc.error_details_pb2")
    status_pb2 = pytest.importorskip("google.rpc.status_pb2")
    request = pageflags_pb2.GetPageFlagsRequest(pid=ABSENT_PID, address=0x1000, count=1)
    failure = nobody.refusal("GetPageFlags", request)
    status = status_pb2.Status.FromString(failure.details)
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert (status.code, info.reason, info.domain) == (5, "NO_SUCH_PROCESS", "cowd")


def test_method_that_is_not_there(nobody: Caller) -> None:
    unimplemented = 12
    assert nobody.refusal("Nothing", b"").code == unimplemented


def test_health_of_a_service_that_is_not_there(nobody: Caller) -> None:
    request = twins_pb2.HealthCheckRequest(service="cowd.v1.Nothing")
    assert nobody.refusal("/grpc.health.v1.Health/Check", request).code == 5
