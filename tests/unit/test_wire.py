# SPDX-License-Identifier: Apache-2.0
"""Messages survive the wire; what breaks the protocol raises WireError and leaves nothing open."""

import os
import resource
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cowdaemon import wire
from cowdaemon.counters import WORDS
from hypothesis import given
from hypothesis import strategies as st

Message = (
    wire.Control
    | wire.OpenRequest
    | wire.OpenReply
    | wire.SpawnRequest
    | wire.KillRequest
    | wire.Statistics
)

I32 = st.integers(-(2**31), 2**31 - 1)
U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)
CONTROLS = st.builds(wire.Control, st.binary(min_size=1, max_size=1), U32)
OPEN_REQUESTS = st.builds(wire.OpenRequest, st.sampled_from(wire.Purpose), I32)
OPEN_REPLIES = st.builds(wire.OpenReply, I32, U32, U64)
KILL_REQUESTS = st.builds(wire.KillRequest, U32)
SPAWN_REQUESTS = st.builds(
    wire.SpawnRequest,
    *[U32] * 4,
    st.sampled_from(wire.Detail),
    st.booleans(),
    st.booleans(),
    st.integers(0, 255),
    st.integers(0, 19),
    st.lists(U32).map(tuple),
)
STATISTICS = st.builds(wire.Statistics, U64, U32, U32, st.just(bytes(range(8)) * WORDS))
FIXED_SIZE = st.one_of(CONTROLS, OPEN_REQUESTS, OPEN_REPLIES, KILL_REQUESTS, STATISTICS)
KINDS = [
    *(wire.Control, wire.OpenRequest, wire.OpenReply),
    *(wire.SpawnRequest, wire.KillRequest, wire.Statistics),
]

Ends = tuple[socket.socket, socket.socket]


@pytest.fixture
def ends() -> Iterator[Ends]:
    left, right = wire.seqpacket_pair()
    with left, right:
        yield left, right


@pytest.fixture
def open_descriptors() -> Iterator[Callable[[], int]]:
    """How many descriptors are open. Those that a test was handed, it must close."""

    def count() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = count()
    yield count
    assert count() == before


@given(FIXED_SIZE | SPAWN_REQUESTS)
def test_message_is_what_was_packed(message: Message) -> None:
    assert type(message).unpack(message.pack()) == message


def test_message_of_the_most_groups_fits(ends: Ends) -> None:
    request = wire.SpawnRequest(1, 0, 2**32 - 1, 2**32 - 1, groups=tuple(range(65_536)))
    wire.send(ends[0], request.pack())
    message, _ = wire.receive(ends[1], longest_bytes=wire.SPAWN_BYTES)
    assert wire.SpawnRequest.unpack(message) == request


@given(FIXED_SIZE, st.data())
def test_truncated_message_raises(message: Message, data: st.DataObject) -> None:
    packed = message.pack()
    with pytest.raises(wire.WireError):
        type(message).unpack(packed[: data.draw(st.integers(0, len(packed) - 1))])


@given(SPAWN_REQUESTS, st.integers(1, 3))
def test_spawn_request_with_half_a_group_raises(message: wire.SpawnRequest, extra: int) -> None:
    with pytest.raises(wire.WireError):
        wire.SpawnRequest.unpack(message.pack() + bytes(extra))


@given(CONTROLS | STATISTICS)
def test_worker_tells_what_the_broker_says(message: Message) -> None:
    """Unless it is a Control that has the kind of the other; the broker sends no such one."""
    if message[0] != wire.STATISTICS:
        assert wire.unpack_broker_message(message.pack()) == message


@given(FIXED_SIZE, st.binary(min_size=1))
def test_oversized_message_raises(message: Message, extra: bytes) -> None:
    with pytest.raises(wire.WireError):
        type(message).unpack(message.pack() + extra)


@pytest.mark.parametrize("kind", KINDS)
@given(st.binary(max_size=wire.MESSAGE_BYTES))
def test_random_bytes_raise_or_are_a_message(kind: type[Message], message: bytes) -> None:
    try:
        unpacked = kind.unpack(message)
    except wire.WireError:
        return
    assert unpacked.pack() == message


@pytest.mark.parametrize(
    "message",
    [
        wire.SpawnRequest(1, 2, 3, 4),
        wire.KillRequest(5),
        wire.Statistics(6, 7, 8, bytes(8 * WORDS)),
    ],
)
def test_message_of_another_kind_raises(message: Message) -> None:
    with pytest.raises(wire.WireError):
        type(message).unpack(wire.READY + message.pack()[1:])


def test_end_of_the_stream_is_an_empty_message(ends: Ends) -> None:
    ends[0].close()
    assert wire.receive(ends[1]) == (b"", [])


def test_message_longer_than_its_room_raises(ends: Ends) -> None:
    wire.send(ends[0], bytes(wire.MESSAGE_BYTES))
    assert wire.receive(ends[1]) == (bytes(wire.MESSAGE_BYTES), [])
    wire.send(ends[0], bytes(wire.MESSAGE_BYTES + 1))
    with pytest.raises(wire.WireError):
        wire.receive(ends[1])


@pytest.mark.usefixtures("open_descriptors")
def test_descriptor_arrives_and_is_not_inherited(ends: Ends) -> None:
    with open("/dev/null", "rb") as null:
        wire.send(ends[0], wire.CONNECTION, [null.fileno()])
        message, [descriptor] = wire.receive(ends[1], most_descriptors=1)
        assert message == wire.CONNECTION
        assert os.path.sameopenfile(descriptor, null.fileno())
        assert not os.get_inheritable(descriptor)
        os.close(descriptor)


def test_fewer_descriptors_than_expected_are_the_callers_to_judge(ends: Ends) -> None:
    wire.send(ends[0], wire.CONNECTION)
    assert wire.receive(ends[1], most_descriptors=2) == (wire.CONNECTION, [])


# With room for one, CMSG_SPACE leaves room for two: the kernel hands over the second as well.
@pytest.mark.parametrize(
    ("expected", "sent"), [(0, 1), (0, 2), (0, 253), (1, 2), (1, 3), (2, 3), (2, 253)]
)
def test_uninvited_descriptors_raise_and_stay_out(
    ends: Ends, open_descriptors: Callable[[], int], expected: int, sent: int
) -> None:
    before = open_descriptors()
    wire.send(ends[0], wire.CONNECTION, [0] * sent)
    with pytest.raises(wire.WireError):
        wire.receive(ends[1], most_descriptors=expected)
    assert open_descriptors() == before


def test_descriptors_of_a_message_too_long_stay_out(
    ends: Ends, open_descriptors: Callable[[], int]
) -> None:
    before = open_descriptors()
    wire.send(ends[0], bytes(wire.MESSAGE_BYTES + 1), [0])
    with pytest.raises(wire.WireError):
        wire.receive(ends[1], most_descriptors=1)
    assert open_descriptors() == before


def test_descriptors_beyond_the_limit_of_the_process_raise_and_stay_out(
    ends: Ends, open_descriptors: Callable[[], int]
) -> None:
    wire.send(ends[0], wire.CONNECTION, [0, 0])
    before = open_descriptors()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with open("/dev/null", "rb") as lowest_free:
        one_more = lowest_free.fileno() + 1
    resource.setrlimit(resource.RLIMIT_NOFILE, (one_more, hard))
    try:
        with pytest.raises(wire.WireError):
            wire.receive(ends[1], most_descriptors=2)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert open_descriptors() == before


def test_credentials_attached_are_no_descriptors(ends: Ends) -> None:
    ends[1].setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    wire.send(ends[0], wire.CONNECTION)
    with pytest.raises(wire.WireError):
        wire.receive(ends[1])


def test_sending_to_a_peer_that_has_gone_raises_without_a_signal(ends: Ends) -> None:
    ends[1].close()
    with pytest.raises(BrokenPipeError):
        wire.send(ends[0], wire.READY)
