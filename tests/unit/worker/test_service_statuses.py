# SPDX-License-Identifier: Apache-2.0
"""Health, and how failures look on the wire: code, reason, details, and nothing of the inside."""

import logging
import socket
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from cowdaemon.errors import Code, Reason
from cowdaemon.limits import RETRY_SECONDS
from cowdaemon.worker import handlers
from cowdaemon.worker.service import RefusingService
from cowdaemon.worker.worker import Service
from cowproto.v1 import twins_pb2
from unit.worker.served_process import (
    COUNTERS,
    HEALTH,
    METHODS,
    SERVICE,
    Process,
    Refusal,
    ask_flags,
    call,
    check_health,
    make_service,
    refuse,
)


@pytest.mark.parametrize("service", ["", "cowd.v1.PageFlagsService"])
def test_health(channel: grpc.Channel, service: str) -> None:
    assert check_health(channel, service) == twins_pb2.HealthCheckResponse.SERVING_STATUS_SERVING


def test_health_of_a_service_that_is_not_here(channel: grpc.Channel) -> None:
    refusal = refuse(lambda: check_health(channel, "cowd.v2.PageFlagsService"))
    assert refusal.info.reason == "UNKNOWN_SERVICE"
    assert "cowd.v2.PageFlagsService" in refusal.message


@pytest.mark.parametrize(
    "method", [f"{SERVICE}GetFrames", "/cowd.v2.PageFlagsService/GetPageFlags"]
)
def test_method_that_is_not_here(channel: grpc.Channel, method: str) -> None:
    with pytest.raises(grpc.RpcError) as failure:
        call(channel, method, b"")
    assert failure.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("request_bytes", [b"\xff", b"\x08", b"\x11\0\0", b"\x0a\x05"])
@pytest.mark.parametrize("method", [*METHODS, HEALTH])
def test_request_that_is_no_message(
    channel: grpc.Channel, method: str, request_bytes: bytes
) -> None:
    refusal = refuse(lambda: call(channel, method, request_bytes))
    assert refusal.info.reason == "MALFORMED_REQUEST"


def test_unexpected_failure_is_in_the_log_and_not_in_the_answer(
    channel: grpc.Channel, stub: Any, process: Process, caplog: pytest.LogCaptureFixture
) -> None:
    process.refusal = RuntimeError("frame 0xabcdef")
    with caplog.at_level(logging.ERROR, "cowdaemon"), pytest.raises(grpc.RpcError) as failure:
        stub.GetPageFlags(ask_flags())
    refusal = Refusal(failure.value)
    assert refusal.code is grpc.StatusCode.INTERNAL
    assert refusal.info.reason == "INTERNAL_ERROR"
    said = [refusal.message, *map(str, failure.value.trailing_metadata())]
    assert not [part for part in said if "abcdef" in part or "RuntimeError" in part]
    (record,) = caplog.records
    assert record.name == "cowdaemon.worker.handlers"
    assert "GetPageFlags" in record.getMessage()
    assert record.exc_info
    assert record.exc_info[1] is process.refusal
    assert check_health(channel)  # it goes on


@pytest.mark.parametrize(("most", "refused"), [(0, True), (4, False)])
def test_answers_count_until_they_are_read(
    serve: Callable[[Service], grpc.Channel],
    process: Process,
    monkeypatch: pytest.MonkeyPatch,
    most: int,
    refused: bool,
) -> None:
    """A client that reads what it is told may ask as often as it likes."""
    monkeypatch.setattr(handlers, "ANSWERS_UNREAD", most)
    service = make_service(process, None)
    channel = serve(service)
    for _ in range(100):
        if refused:
            refusal = refuse(lambda: check_health(channel))
            assert refusal.info.reason == "TOO_MANY_UNREAD_ANSWERS"
            assert "RetryInfo" in refusal.details
        else:
            assert check_health(channel)


def test_opener_is_passed_on_to_targets(process: Process) -> None:
    service = make_service(process, None)
    left, right = socket.socketpair()
    with left, right:
        service.adopt_opener(left)
        assert process.opener is left


OF_WHOLE_CALLERS = [
    Reason.FOREIGN_USER_NAMESPACE,
    Reason.FOREIGN_PID_NAMESPACE,
    Reason.CALLER_GONE,
    Reason.TOO_MANY_CONNECTIONS,
    Reason.TOO_MANY_CREDENTIALS,
    Reason.CALLER_NOT_ALLOWED,
]


@pytest.mark.parametrize("reason", OF_WHOLE_CALLERS, ids=lambda reason: reason.name)
def test_refused_caller_reads_the_reason_whatever_it_asks(
    serve: Callable[[Service], grpc.Channel], reason: Reason
) -> None:
    channel = serve(RefusingService(reason, COUNTERS))
    for method in [*METHODS, HEALTH, "/any.Service/Method"]:
        for request in b"", b"\xff" * 100:
            refusal = refuse(lambda: call(channel, method, request))  # noqa: B023
            assert refusal.info.reason == reason.name
            assert refusal.message == reason.sentence


def test_exhausted_limit_says_when_to_try_again(
    serve: Callable[[Service], grpc.Channel],
) -> None:
    channel = serve(RefusingService(Reason.TOO_MANY_CONNECTIONS, COUNTERS))
    refusal = refuse(lambda: check_health(channel))
    retry = twins_pb2.RetryInfo.FromString(refusal.details["RetryInfo"])
    assert retry.retry_delay == twins_pb2.Duration(seconds=RETRY_SECONDS)


def test_refusing_service_opens_nothing() -> None:
    left, right = socket.socketpair()
    with left, right:
        RefusingService(Reason.CALLER_GONE, COUNTERS).adopt_opener(left)
        assert left.fileno() == -1


@pytest.mark.pypi
def test_status_is_read_by_the_standard_library_of_google_rpc(
    serve: Callable[[Service], grpc.Channel],
) -> None:
    rpc_status = pytest.importorskip("grpc_status.rpc_status")
    error_details_pb2 = pytest.importorskip("google.rpc.error_details_pb2")
    channel = serve(RefusingService(Reason.TOO_MANY_CREDENTIALS, COUNTERS))
    with pytest.raises(grpc.RpcError) as failure:
        call(channel, METHODS[0], b"")
    status = rpc_status.from_call(failure.value)
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    for message, detail in zip((info, retry), status.details, strict=True):
        assert detail.Unpack(message)
    assert status.code == Code.RESOURCE_EXHAUSTED
    assert (info.reason, info.domain) == ("TOO_MANY_CREDENTIALS", "cowd")
    assert retry.retry_delay.seconds == RETRY_SECONDS
