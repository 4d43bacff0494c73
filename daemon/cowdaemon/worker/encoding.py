# SPDX-License-Identifier: Apache-2.0
"""Responses with arrays, as the bytes that go out.

Worker, unprivileged. Protobuf copies an array into a message, and then the message into its
encoding: for 65,536 pages that takes thirty times as long as the one copy that is needed. A message
is encoded as its fields, one after the other, so the arrays may follow what protobuf encodes.
"""

from typing import Final

from cowproto.v1 import twins_pb2 as twins

from cowdaemon.worker.page_states import Bytes, Words

__all__ = ["encode_comparisons", "encode_pages"]

_LENGTH_DELIMITED: Final = 2  # the wire type of bytes, protobuf.dev/programming-guides/encoding


def encode_pages(
    response: twins.GetPageFlagsResponse | twins.StreamPageFlagsResponse,
    kpageflags: Words | bytes,
    states: Bytes | bytes,
    attributes: Bytes | bytes,
) -> bytes:
    """Return the encoding of a response with these arrays, one element a page.

    Args:
        response: all of it but the arrays.
        kpageflags: words; as bytes, little-endian.
        states: a byte a page.
        attributes: a byte a page.
    """
    if isinstance(kpageflags, bytes):  # of a few pages
        response.kpageflags = kpageflags
        response.state, response.attributes = bytes(states), bytes(attributes)
        return response.SerializeToString()
    kpageflags = kpageflags.astype("<u8", copy=False)
    return b"".join(
        (
            response.SerializeToString(),
            *_encode_field(response.KPAGEFLAGS_FIELD_NUMBER, kpageflags),
            *_encode_field(response.STATE_FIELD_NUMBER, states),
            *_encode_field(response.ATTRIBUTES_FIELD_NUMBER, attributes),
        )
    )


def encode_comparisons(
    response: twins.ComparePagesResponse,
    comparisons: Bytes,
    states: Bytes,
    other_states: Bytes,
    copiers: Bytes,
) -> bytes:
    """Return the encoding of a response with these arrays, a byte a page.

    Args:
        response: all of it but the arrays.
        comparisons: what the two processes have there.
        states: what the pages are, in the first process.
        other_states: in the second.
        copiers: who made them.
    """
    return b"".join(
        (
            response.SerializeToString(),
            *_encode_field(response.COMPARISON_FIELD_NUMBER, comparisons),
            *_encode_field(response.STATE_FIELD_NUMBER, states),
            *_encode_field(response.OTHER_STATE_FIELD_NUMBER, other_states),
            *_encode_field(response.COPIED_BY_FIELD_NUMBER, copiers),
        )
    )


def _encode_field(number: int, value: Words | Bytes | bytes) -> tuple[bytes, memoryview]:
    """Return a field of bytes in two parts: its tag and length, and the bytes."""
    content = memoryview(value) if isinstance(value, bytes) else value.data
    return _encode_varint(number << 3 | _LENGTH_DELIMITED) + _encode_varint(content.nbytes), content


def _encode_varint(number: int) -> bytes:
    """Return a number by seven bits, the lowest first; all but the last have the highest bit."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
