# SPDX-License-Identifier: Apache-2.0
"""What the daemon says that it has done becomes plain values, or an error that says what to do."""

import asyncio

import cowd
import grpc
import pytest
from cowd._answers import _CODE_NAMES
from cowdaemon.errors import CowdError, Reason
from cowproto.v1 import pageflags_pb2

BOUNDS = (0.25, 1.0)
ANSWER = pageflags_pb2.GetStatisticsResponse(
    version="9.8.7",
    start_time_nanoseconds=1_500_000_000_000_000_000,
    connection_count=3,
    worker_count=2,
    read_page_count=2**64 - 1,
    calls=[
        pageflags_pb2.CallCount(method="GetPageFlags", code=0, count=5),
        pageflags_pb2.CallCount(method="", code=12, count=1),
        pageflags_pb2.CallCount(method="Check", code=99, count=2),
    ],
    duration_bound_seconds=BOUNDS,
    durations=[
        pageflags_pb2.CallDurations(
            method="GetPageFlags", bucket_count=[4, 1, 0], total_seconds=0.75
        )
    ],
    refusals=[pageflags_pb2.RefusalCount(reason="ACCESS_DENIED", count=6)],
)
STATISTICS = cowd.ServerStatistics(
    version="9.8.7",
    start_time_seconds=1_500_000_000.0,
    connection_count=3,
    worker_count=2,
    pages_read=2**64 - 1,
    calls=[
        cowd.CallCount("GetPageFlags", "OK", 5),
        cowd.CallCount("", "UNIMPLEMENTED", 1),
        cowd.CallCount("Check", "99", 2),
    ],
    durations=[cowd.CallDurations("GetPageFlags", BOUNDS, (4, 1, 0), 0.75)],
    refusals={"ACCESS_DENIED": 6},
)


def test_statistics_are_plain_values(fake):
    fake.statistics = ANSWER
    with cowd.Client() as client:
        assert client.get_statistics() == STATISTICS


def test_statistics_for_asyncio(fake):
    fake.statistics = ANSWER

    async def ask():
        async with cowd.aio.Client() as client:
            return await client.get_statistics()

    assert asyncio.run(ask()) == STATISTICS


def test_nothing_has_happened_yet(fake):
    fake.statistics = pageflags_pb2.GetStatisticsResponse(version="1")
    with cowd.Client() as client:
        statistics = client.get_statistics()
    assert statistics == cowd.ServerStatistics("1", 0.0, 0, 0, 0, [], [], {})


def test_durations_without_their_buckets_are_no_answer(fake):
    fake.statistics = pageflags_pb2.GetStatisticsResponse(
        duration_bound_seconds=BOUNDS,
        durations=[pageflags_pb2.CallDurations(method="Check", bucket_count=[1, 2])],
    )
    with cowd.Client() as client, pytest.raises(cowd.InternalError, match="buckets"):
        client.get_statistics()


def test_who_may_not_see_them_reads_why(fake):
    fake.failure = CowdError(Reason.STATISTICS_DENIED)
    with cowd.Client() as client, pytest.raises(cowd.AccessDenied, match=r"cowd\.toml") as caught:
        client.get_statistics()
    assert caught.value.reason == "STATISTICS_DENIED"


@pytest.mark.usefixtures("fake")
def test_daemon_that_does_not_know_the_call_is_older():
    with cowd.Client() as client:
        transport = client._transport
        transport._get_statistics = transport._channel.make_method(
            "/cowd.v1.PageFlagsService/GetWhatIsNew",
            pageflags_pb2.GetStatisticsRequest,
            pageflags_pb2.GetStatisticsResponse,
        )
        with pytest.raises(cowd.InternalError, match="older than this library"):
            client.get_statistics()


def test_names_of_codes_are_those_of_grpc():
    assert {code.value[0]: code.name for code in grpc.StatusCode} == dict(enumerate(_CODE_NAMES))
