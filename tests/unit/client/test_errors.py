# SPDX-License-Identifier: Apache-2.0
"""What the daemon refuses becomes the right error, and every error survives a pickle."""

import pickle
import socket
from concurrent.futures import ThreadPoolExecutor

import cowd
import grpc
import pytest
from cowd import _channel, _errors, _statuses
from cowdaemon.errors import CowdError, Reason

EXPECTED = {
    "INVALID_PID": cowd.InvalidRequest,
    "UNALIGNED_ADDRESS": cowd.InvalidRequest,
    "INVALID_COUNT": cowd.InvalidRequest,
    "INVALID_RANGE_COUNT": cowd.InvalidRequest,
    "RANGE_OVERFLOW": cowd.InvalidRequest,
    "OUT_OF_ADDRESS_SPACE": cowd.InvalidRequest,
    "MALFORMED_REQUEST": cowd.InvalidRequest,
    "TOO_MANY_PIDS": cowd.InvalidRequest,
    "UNKNOWN_SERVICE": cowd.InvalidRequest,
    "NO_SUCH_PROCESS": cowd.NoSuchProcess,
    "ACCESS_DENIED": cowd.AccessDenied,
    "OWN_PROCESS": cowd.AccessDenied,
    "NO_ADDRESS_SPACE": cowd.FailedPrecondition,
    "START_TIME_DIFFERS": cowd.FailedPrecondition,
    "PROCESS_GONE": cowd.Aborted,
    "OPEN_TIMED_OUT": cowd.TimedOut,
    "FOREIGN_USER_NAMESPACE": cowd.AccessDenied,
    "FOREIGN_PID_NAMESPACE": cowd.AccessDenied,
    "CALLER_NOT_ALLOWED": cowd.AccessDenied,
    "CALLER_GONE": cowd.AccessDenied,
    "STATISTICS_DENIED": cowd.AccessDenied,
    "TOO_MANY_CONNECTIONS": cowd.LimitReached,
    "TOO_MANY_CREDENTIALS": cowd.LimitReached,
    "TOO_MANY_UNREAD_ANSWERS": cowd.LimitReached,
    "TOO_MANY_MAPPINGS": cowd.LimitReached,
    "INTERNAL_ERROR": cowd.InternalError,
    "OPENER_LOST": cowd.Unavailable,
}
DETAILS = {
    "pid": 7,
    "address": 1,
    "page_size_bytes": 4096,
    "count": 0,
    "wanted": "1 page or more",
    "maximum": 9,
    "actual": 1,
    "expected": 2,
    "seconds": 2.0,
    "service": "other",
}


@pytest.mark.parametrize("reason", Reason, ids=lambda reason: reason.name)
def test_every_reason_of_the_daemon_is_mapped(fake, reason):
    fake.failure = CowdError(reason, **DETAILS)
    with cowd.Client() as client, pytest.raises(cowd.Error) as caught:
        client.get_page_flags(7, 0x1000, 1)
    error = caught.value
    assert type(error) is EXPECTED[reason.name]
    assert (error.reason, error.pid) == (reason.name, 7)
    assert str(error) == reason.sentence.format(**DETAILS)
    assert isinstance(error.__cause__, grpc.RpcError)


def test_a_limit_says_when_to_retry(fake):
    fake.failure = CowdError(Reason.TOO_MANY_CONNECTIONS)
    fake.retry_after_seconds = 1.25
    with cowd.Client() as client, pytest.raises(cowd.LimitReached) as caught:
        client.get_server_info()
    assert caught.value.retry_after_seconds == 1.25
    assert caught.value.pid is None


@pytest.mark.parametrize(
    "name", [name for name in _errors.__all__ if name[0].isupper() and not name.isupper()]
)
def test_errors_are_picklable_public_and_of_one_tree(name):
    kind = getattr(cowd, name)
    assert issubclass(kind, cowd.Error)
    assert name in str(_errors.__doc__)
    error = kind("said", reason="WHY", pid=3, retry_after_seconds=0.5)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert str(copy) == "said"
    assert vars(copy) == {"reason": "WHY", "pid": 3, "retry_after_seconds": 0.5}


def test_no_socket_is_unavailable(socket_path):
    with (
        cowd.Client(socket_path) as client,
        pytest.raises(cowd.Unavailable, match="No such file") as caught,
    ):
        client.get_server_info()
    assert caught.value.reason is None
    assert socket_path in str(caught.value)


def test_a_socket_without_a_listener_is_unavailable(socket_path):
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(socket_path)
    with cowd.Client(socket_path) as client, pytest.raises(cowd.Unavailable, match="refused"):
        client.get_server_info()


def test_a_listener_that_never_answers_is_not_waited_for_twice(socket_path, monkeypatch):
    looks = []
    try_to_connect = _channel.try_to_connect
    for module in _channel, _statuses:
        monkeypatch.setattr(
            module, "try_to_connect", lambda path: looks.append(path) or try_to_connect(path)
        )
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(socket_path)
        silent.listen()
        with (
            cowd.Client(socket_path, timeout_seconds=2.4) as client,
            pytest.raises(cowd.Unavailable, match="took the connection but not the call"),
        ):
            client.get_server_info()
    assert len(looks) == 1, "for the cause, and not for another call before"


def test_a_slow_answer_is_timed_out(fake):
    with cowd.Client(timeout_seconds=0.2) as client:
        client.get_server_info()
        fake.delay_seconds = 0.5
        with pytest.raises(cowd.TimedOut, match=r"within 0\.2 s") as caught:
            client.get_server_info()
    assert caught.value.reason is None


def test_another_server_on_the_socket_is_an_internal_error(socket_path):
    with ThreadPoolExecutor(1) as threads:
        server = grpc.server(threads)
        server.add_insecure_port(f"unix:{socket_path}")
        server.start()
        with cowd.Client(socket_path) as client, pytest.raises(cowd.InternalError) as caught:
            client.get_page_flags(7, 0x1000, 1)
        server.stop(None).wait()
    assert caught.value.reason is None


@pytest.mark.parametrize("change", ["page_size_bytes", "address", "kpageflags"])
def test_an_answer_about_something_else_is_an_internal_error(fake, change):
    fake.change_pages = {
        "page_size_bytes": lambda answer: setattr(answer, "page_size_bytes", 0),
        "address": lambda answer: setattr(answer, "address", answer.address + 4096),
        "kpageflags": lambda answer: answer.kpageflags.append(0),
    }[change]
    with cowd.Client() as client, pytest.raises(cowd.InternalError, match="not about the pages"):
        client.get_page_flags(7, 0x1000, 2)


@pytest.mark.parametrize(
    "ranges",
    [
        [(0x1001, 0x3000)],
        [(0x1000, 0x3001)],
        [(0x3000, 0x1000)],
        [(0x1000, 0x1000)],
        [(0x1000, 0x3000), (0x2000, 0x4000)],
        [(0x3000, 0x4000), (0x1000, 0x2000)],
    ],
)
def test_mappings_out_of_order_are_an_internal_error(fake, mapping, ranges):
    fake.mappings = []
    for start, end in ranges:
        each = mapping(start, 1)
        each.end_address = end
        fake.mappings.append(each)
    with cowd.Client() as client, pytest.raises(cowd.InternalError, match="out of order"):
        client.list_mappings(7)


@pytest.mark.parametrize("step", [1, 0x1000])
def test_a_listing_that_does_not_go_on_is_an_internal_error(fake, step):
    fake.next_start_address = lambda request: request.start_address + step
    with (
        cowd.Client() as client,
        pytest.raises(cowd.InternalError, match=r"does not go on|of order"),
    ):
        client.list_mappings(7)


def test_an_answer_with_too_few_pages_is_an_internal_error(fake):
    fake.missing_page_count = 1
    with (
        cowd.Client() as client,
        pytest.raises(cowd.InternalError, match="not about the pages"),
    ):
        client.get_page_flags(7, 0x1000, 2)
