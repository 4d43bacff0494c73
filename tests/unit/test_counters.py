# SPDX-License-Identifier: Apache-2.0
"""The words that workers count in: each has one meaning, and they add up whatever is in them."""

from array import array

import grpc
from cowdaemon import counters
from cowdaemon.errors import Code, Reason
from cowproto.v1 import pageflags_pb2
from hypothesis import given
from hypothesis import strategies as st

BUCKETS = len(counters.BOUNDS_SECONDS) + 1
MOST = 2**64 - 1


def test_every_word_has_one_meaning() -> None:
    methods = range(len(counters.METHODS))
    places = [
        *(counters.place_of_call(method, code) for method in methods for code in range(17)),
        *(
            counters.place_of_durations(method) + n
            for method in methods
            for n in range(BUCKETS + 1)
        ),
        *(counters.place_of_refusal(reason) for reason in Reason),
        counters.PAGES_READ,
    ]
    assert len(set(places)) == len(places)
    assert min(places) >= 0
    assert max(places) < counters.WORDS
    assert len(counters.make_words()) * 8 == counters.COUNTERS_BYTES


def test_every_method_and_code_has_its_place() -> None:
    service = pageflags_pb2.DESCRIPTOR.services_by_name["PageFlagsService"]
    paths = {f"/{service.full_name}/{method.name}" for method in service.methods}
    assert set(counters.METHODS) == {*paths, "/grpc.health.v1.Health/Check", ""}
    assert counters.METHODS[-1] == ""
    assert len(grpc.StatusCode) == counters.CODES
    assert max(Code) < counters.CODES


def test_bounds_ascend() -> None:
    assert list(counters.BOUNDS_SECONDS) == sorted(set(counters.BOUNDS_SECONDS))


@given(st.lists(st.tuples(*[st.integers(0, MOST)] * 3), min_size=1, max_size=4))
def test_words_add_up_and_stay_words(rows: list[tuple[int, ...]]) -> None:
    """A worker that was taken over may have counted anything."""
    added = counters.add_words([array("Q", row) for row in rows])
    assert list(added) == [sum(column) % 2**64 for column in zip(*rows, strict=True)]
