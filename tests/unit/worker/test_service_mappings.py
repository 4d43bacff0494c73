# SPDX-License-Identifier: Apache-2.0
"""ListMappings with the counts of each mapping's pages, through a real gRPC server."""

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cowdaemon.wire import Purpose
from cowdaemon.worker import mapping_counts
from cowdaemon.worker import process_calls as module
from cowproto.v1 import pageflags_pb2 as messages
from unit.worker.served_process import (
    ENTRIES,
    FIRST,
    PAGE,
    PID,
    SECOND,
    THIRD,
    Process,
    refuse,
)

COUNTS = {
    FIRST: messages.PageCounts(anon_page_count=1, file_page_count=1),
    SECOND: messages.PageCounts(anon_page_count=1, zero_page_count=1),
    THIRD: messages.PageCounts(anon_swapped_page_count=1, guard_page_count=1),
}
"""Of MAPS, by start addresses."""
VSYSCALL = 0xFFFFFFFFFF600000


def ask(stub: Any, start_address: int = 0) -> messages.ListMappingsResponse:
    request = messages.ListMappingsRequest(
        pid=PID, start_address=start_address, with_page_counts=True
    )
    return stub.ListMappings(request)


def test_mappings_with_counts(stub: Any) -> None:
    """Besides, each is what it is without them. Seen to fail with a state's column moved."""
    response = ask(stub)
    assert {each.start_address: each.page_counts for each in response.mappings} == COUNTS
    for mapping in response.mappings:
        mapping.ClearField("page_counts")
    assert response == stub.ListMappings(messages.ListMappingsRequest(pid=PID))


def test_counts_are_not_there_unless_asked_for(stub: Any) -> None:
    response = stub.ListMappings(messages.ListMappingsRequest(pid=PID))
    assert not any(each.HasField("page_counts") for each in response.mappings)


def test_counts_take_the_right_to_look_at_pages(stub: Any, process: Process) -> None:
    """A grant of summaries does not do: addresses and paths come with them."""
    ask(stub)
    assert process.purposes == [Purpose.PAGES]


def test_mapping_past_the_address_space_is_all_unknown(stub: Any, process: Process) -> None:
    line = b"%x-%x --xp 00000000 00:00 0   [vsyscall]\n" % (VSYSCALL, VSYSCALL + PAGE)
    os.pwrite(process.maps, line, os.fstat(process.maps).st_size)
    *_, mapping = ask(stub).mappings
    assert mapping.page_counts == messages.PageCounts(unknown_page_count=1)


@pytest.mark.parametrize(
    ("most_pages", "parts"),
    [
        (1, [[FIRST], [SECOND], [THIRD]]),
        (2, [[FIRST], [SECOND], [THIRD]]),
        (3, [[FIRST, SECOND], [THIRD]]),
        (100, [[FIRST, SECOND, THIRD]]),
    ],
)
def test_one_response_counts_no_more_than_so_many_pages(
    stub: Any,
    monkeypatch: pytest.MonkeyPatch,
    most_pages: int,
    parts: list[list[int]],
) -> None:
    """And a mapping in full; the next one goes on. Seen to fail with the last one left out."""
    monkeypatch.setattr(module, "COUNTED_PAGES", most_pages)
    monkeypatch.setattr(mapping_counts, "divide_stretches", divide_into_pages)
    found, start_address = [], 0
    while not found or start_address:
        response = ask(stub, start_address)
        for mapping in response.mappings:
            assert mapping.page_counts == COUNTS[mapping.start_address]
        found.append([each.start_address for each in response.mappings])
        start_address = response.next_start_address
    assert found == parts


def divide_into_pages(stretches: Any) -> Any:
    for first, end in stretches.tolist():
        for page in range(first, end):
            yield np.array([[page, page + 1]])


def test_process_that_is_gone_has_no_counts(stub: Any, process: Process) -> None:
    process.exit()
    assert refuse(lambda: ask(stub)).info.reason == "PROCESS_GONE"


def test_process_that_goes_while_it_is_counted(
    stub: Any, process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    divide: Callable[..., Any] = mapping_counts.divide_regions

    def divide_and_end(*arguments: Any) -> Any:
        process.exit()
        return divide(*arguments)

    monkeypatch.setattr(mapping_counts, "divide_regions", divide_and_end)
    assert len(ENTRIES) > 1
    assert refuse(lambda: ask(stub)).info.reason == "PROCESS_GONE"
