# SPDX-License-Identifier: Apache-2.0
"""Each twin is, on the protobuf runtime that runs this, byte for byte the message it stands for."""

import struct

import pytest
from cowproto.v1 import pageflags_pb2, twins_pb2
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

WORDS = st.integers(0, 2**64 - 1)
# What takes one byte in a packed list of varints: the values of PageState and PageAttribute do.
BYTES = st.integers(0, 127)
SECONDS = st.integers(-(2**63), 2**63 - 1)
NANOSECONDS = st.integers(-(2**31), 2**31 - 1)


def assert_twins(twin: Message, real: Message) -> None:
    """Both encode to the same bytes, and each decodes what the other encoded."""
    encoded = real.SerializeToString()
    assert twin.SerializeToString() == encoded
    assert type(twin).FromString(encoded) == twin
    assert type(real).FromString(encoded) == real


@given(
    header=st.tuples(WORDS, WORDS, WORDS),
    masks=st.none() | st.tuples(WORDS, WORDS),
    pages=st.lists(st.tuples(WORDS, BYTES, BYTES), max_size=300),
)
def test_page_flags_twin_is_the_typed_response(
    header: tuple[int, int, int],
    masks: tuple[int, int] | None,
    pages: list[tuple[int, int, int]],
) -> None:
    page_size_bytes, address, start_time_ticks = header
    fields = {
        "page_size_bytes": page_size_bytes,
        "address": address,
        "start_time_ticks": start_time_ticks,
    }
    twin = twins_pb2.GetPageFlagsResponse(
        **fields,
        kpageflags=b"".join(struct.pack("<Q", kpageflags) for kpageflags, _, _ in pages),
        state=bytes(state for _, state, _ in pages),
        attributes=bytes(attributes for _, _, attributes in pages),
    )
    typed = pageflags_pb2.GetPageFlagsResponse(
        **fields,
        kpageflags=[kpageflags for kpageflags, _, _ in pages],
        state=[state for _, state, _ in pages],
        attributes=[attributes for _, _, attributes in pages],
    )
    if masks:
        for message in twin, typed:
            message.masks.private_flags_mask, message.masks.shared_flags_mask = masks
    assert_twins(twin, typed)


@given(
    header=st.tuples(WORDS, WORDS, WORDS, WORDS, WORDS),
    stretches=st.lists(st.tuples(WORDS, st.integers(0, 2**32 - 1)), max_size=30),
    pages=st.lists(st.tuples(BYTES, BYTES, BYTES, BYTES), max_size=300),
    totals=st.lists(st.tuples(BYTES, BYTES, BYTES, BYTES, WORDS), max_size=30),
)
def test_comparison_twin_is_the_typed_response(
    header: tuple[int, int, int, int, int],
    stretches: list[tuple[int, int]],
    pages: list[tuple[int, int, int, int]],
    totals: list[tuple[int, int, int, int, int]],
) -> None:
    names = ("page_size_bytes", "address", "count", "start_time_ticks", "other_start_time_ticks")
    fields = dict(zip(names, header, strict=True))
    lists = ("comparison", "state", "other_state", "copied_by")
    columns = dict(zip(lists, zip(*pages, strict=True), strict=True)) if pages else {}
    twin = twins_pb2.ComparePagesResponse(
        **fields,
        stretch_address=b"".join(struct.pack("<Q", address) for address, _ in stretches),
        stretch_page_count=b"".join(struct.pack("<I", count) for _, count in stretches),
        **{name: bytes(column) for name, column in columns.items()},
    )
    typed = pageflags_pb2.ComparePagesResponse(
        **fields,
        stretch_address=[address for address, _ in stretches],
        stretch_page_count=[count for _, count in stretches],
        **{name: list(column) for name, column in columns.items()},
    )
    for each in totals:
        row = dict(zip((*lists, "page_count"), each, strict=True))
        for message in twin, typed:
            message.totals.add(**row)
    assert_twins(twin, typed)


@pytest.mark.parametrize(
    "enumeration",
    [
        pageflags_pb2.PageState,
        pageflags_pb2.PageAttribute,
        pageflags_pb2.PageComparison,
        pageflags_pb2.PageCopier,
    ],
)
def test_values_take_one_byte_each(enumeration) -> None:
    assert sum(enumeration.values()) < 128


@given(st.text(), st.binary())
def test_any_twin(type_url: str, value: bytes) -> None:
    fields = {"type_url": type_url, "value": value}
    assert_twins(twins_pb2.Any(**fields), any_pb2.Any(**fields))


@given(SECONDS, NANOSECONDS)
def test_duration_twin(seconds: int, nanos: int) -> None:
    fields = {"seconds": seconds, "nanos": nanos}
    assert_twins(twins_pb2.Duration(**fields), duration_pb2.Duration(**fields))


@pytest.mark.pypi
@given(st.integers(0, 16), st.text(), st.lists(st.tuples(st.text(), st.binary()), max_size=3))
def test_status_twin(code: int, message: str, details: list[tuple[str, bytes]]) -> None:
    status_pb2 = pytest.importorskip("google.rpc.status_pb2")
    twin = twins_pb2.Status(code=code, message=message)
    real = status_pb2.Status(code=code, message=message)
    for type_url, value in details:
        twin.details.add(type_url=type_url, value=value)
        real.details.add(type_url=type_url, value=value)
    assert_twins(twin, real)


@pytest.mark.pypi
@given(st.text(), st.text())
def test_error_info_twin(reason: str, domain: str) -> None:
    error_details_pb2 = pytest.importorskip("google.rpc.error_details_pb2")
    fields = {"reason": reason, "domain": domain}
    assert_twins(twins_pb2.ErrorInfo(**fields), error_details_pb2.ErrorInfo(**fields))


@pytest.mark.pypi
@given(SECONDS, NANOSECONDS)
def test_retry_info_twin(seconds: int, nanos: int) -> None:
    error_details_pb2 = pytest.importorskip("google.rpc.error_details_pb2")
    fields = {"retry_delay": {"seconds": seconds, "nanos": nanos}}
    assert_twins(twins_pb2.RetryInfo(**fields), error_details_pb2.RetryInfo(**fields))


@pytest.mark.pypi
@given(st.text())
def test_health_request_twin(service: str) -> None:
    health_pb2 = pytest.importorskip("grpc_health.v1.health_pb2")
    fields = {"service": service}
    assert_twins(twins_pb2.HealthCheckRequest(**fields), health_pb2.HealthCheckRequest(**fields))


@pytest.mark.pypi
@pytest.mark.parametrize("name", ["SERVING", "NOT_SERVING"])
def test_health_response_twin(name: str) -> None:
    health_pb2 = pytest.importorskip("grpc_health.v1.health_pb2")
    twin = twins_pb2.HealthCheckResponse(status=f"SERVING_STATUS_{name}")
    assert_twins(twin, health_pb2.HealthCheckResponse(status=name))
