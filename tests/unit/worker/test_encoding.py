# SPDX-License-Identifier: Apache-2.0
"""That an encoding with arrays put behind it is the one that protobuf makes of the same fields."""

from typing import Any

import numpy as np
import pytest
from cowdaemon.worker.encoding import encode_comparisons, encode_pages
from cowproto.v1 import twins_pb2 as twins

RANDOM = np.random.default_rng(6)
HEAD: dict[str, Any] = {"page_size_bytes": 4096, "address": 1 << 47, "start_time_ticks": 5}


@pytest.mark.parametrize(
    "response_type", [twins.GetPageFlagsResponse, twins.StreamPageFlagsResponse]
)
@pytest.mark.parametrize("count", [1, 15, 16, 127, 128, 16_383, 16_384, 65_536])
@pytest.mark.parametrize("is_array", [True, False], ids=["arrays", "bytes"])
def test_the_same_bytes_as_by_protobuf(response_type: Any, count: int, is_array: bool) -> None:
    words = RANDOM.integers(1 << 63, size=count, dtype=np.uint64)
    states = RANDOM.integers(1, 8, size=count, dtype=np.uint8)
    attributes = RANDOM.integers(32, size=count, dtype=np.uint8)
    fields = {
        "kpageflags": words.astype("<u8").tobytes(),
        "state": states.tobytes(),
        "attributes": attributes.tobytes(),
    }
    arrays = (words, states, attributes) if is_array else tuple(fields.values())
    encoded = encode_pages(response_type(**HEAD), *arrays)
    assert encoded == response_type(**HEAD, **fields).SerializeToString()


@pytest.mark.parametrize("count", [0, 1, 127, 128, 65_536])
def test_comparisons_are_the_same_bytes_as_by_protobuf(count: int) -> None:
    """Each array in its place. Seen to fail with two of them in each other's."""
    names = ("comparison", "state", "other_state", "copied_by")
    arrays = [RANDOM.integers(8, size=count, dtype=np.uint8) for _ in names]
    fields = {name: array.tobytes() for name, array in zip(names, arrays, strict=True)}
    whole = twins.ComparePagesResponse(**HEAD, **fields)
    encoded = encode_comparisons(twins.ComparePagesResponse(**HEAD), *arrays)
    assert twins.ComparePagesResponse.FromString(encoded) == whole
    assert not count or encoded == whole.SerializeToString()


def test_no_page_is_as_good_as_no_field() -> None:
    none = np.empty(0, np.uint8)
    encoded = encode_pages(twins.StreamPageFlagsResponse(**HEAD), none.view(np.uint64), none, none)
    assert twins.StreamPageFlagsResponse.FromString(encoded) == twins.StreamPageFlagsResponse(
        **HEAD
    )
