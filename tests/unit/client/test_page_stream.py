# SPDX-License-Identifier: Apache-2.0
"""Streams of pages: what they ask for, and what a hostile server may say."""

import threading
from contextlib import nullcontext
from itertools import chain, islice
from pathlib import Path
from types import SimpleNamespace

import cowd
import pytest
from cowd import _client, _range_stream

ROOT = Path(__file__).resolve().parents[3]
PAGE = 4096
START = 0x7F0000000000
SECONDS = 20.0


@pytest.fixture
def client(fake, monkeypatch):
    monkeypatch.setattr(_client, "_FEW_PAGES", 0)
    with cowd.Client(fake.path) as connected:
        yield connected


def places(chunks):
    return [(chunk.address, chunk.page_count) for chunk in chunks]


def test_a_stream_lists_what_is_there(fake, client):
    fake.pages = "a..f.za."
    [chunk] = client.stream_page_flags(7, [(START, 8)])
    assert (chunk.pid, chunk.page_size_bytes, chunk.start_time_ticks) == (7, PAGE, 500)
    assert (chunk.address, chunk.page_count) == (START, 8)
    assert chunk.masks == cowd.DisclosureMasks(0x2012E797D, 0x14A5808)
    assert chunk.stretch_addresses.tolist() == [START + page * PAGE for page in (0, 3, 5)]
    assert chunk.stretch_page_counts.tolist() == [1, 1, 2]
    assert chunk.kpageflags.tolist() == [0x5828, 0x808, 0x1000800, 0x5828]
    assert (chunk.states, chunk.attributes) == (bytes([3, 2, 5, 3]), bytes([1, 0, 0, 1]))


def test_one_range_needs_one_call_and_no_other(fake, client):
    assert places(client.stream_page_flags(7, [(START, 9)])) == [
        (START, 8),
        (START + 8 * PAGE, 1),
    ]
    assert list(client.iter_page_flags(7, [(START, 9)]))
    assert (fake.info_count, fake.asked) == (0, [(START, 9)] * 2)


def test_few_pages_are_one_answer_and_no_stream(fake):
    fake.pages = "a..f"
    with cowd.Client(fake.path) as client:
        [chunk] = client.stream_page_flags(7, [(START, 4)])
        [parts] = chunk.iter_parts()
        assert parts == client.get_page_flags(7, START, 4)
    assert chunk.stretch_page_counts.tolist() == [4]
    assert not fake.answer_count  # of a stream


def test_nothing_is_asked_for_no_range(fake, client):
    assert list(client.stream_page_flags(7, [])) == []
    assert not fake.called


def test_more_ranges_than_one_call_takes_are_several(fake, client):
    ranges = [(START + 2 * page * PAGE, 1) for page in range(8)]
    for _ in range(2):
        assert places(client.stream_page_flags(7, iter(ranges))) == ranges
    assert (fake.asked, fake.info_count) == (ranges * 2, 1)


def test_a_server_that_says_nothing_of_ranges_is_asked_for_one(fake, client, monkeypatch):
    fake.maximum_range_count = 1
    monkeypatch.setattr(client, "get_server_info", lambda: SimpleNamespace(maximum_range_count=0))
    ranges = [(START, 1), (START + PAGE, 2)]
    assert places(client.stream_page_flags(7, ranges)) == ranges


# Hostile answers


def change_field(name, value):
    return lambda answer: setattr(answer, name, value)


def change_list(name, values):
    def change(answer):
        del getattr(answer, name)[:]
        getattr(answer, name).extend(values)

    return change


PAGES = "a.af"
"""Of the one answer that is changed: two stretches, of one page and of two."""
CHANGES = {
    "size of a page": change_field("page_size_bytes", 2 * PAGE),
    "before": change_field("address", START - PAGE),
    "after": change_field("address", START + PAGE),
    "of no page": change_field("count", 0),
    "too long": change_field("count", 5),
    "a state too many": lambda answer: answer.state.append(1),
    "a state too few": lambda answer: answer.state.pop(),
    "an attribute too many": lambda answer: answer.attributes.append(1),
    "a word too many": lambda answer: answer.kpageflags.append(1),
    "a word too few": lambda answer: answer.kpageflags.pop(),
    "a stretch too many": lambda answer: answer.stretch_address.append(START + 3 * PAGE),
    "a count too many": lambda answer: answer.stretch_page_count.append(0),
    "no stretches": change_list("stretch_address", []),
    "counts of more": change_list("stretch_page_count", [2, 2]),
    "an empty stretch": lambda answer: (
        change_list("stretch_page_count", [3, 0])(answer),
        change_list("stretch_address", [START, START + 3 * PAGE])(answer),
    ),
    "of nothing": lambda answer: [
        answer.ClearField(name)
        for name in (
            *("count", "stretch_address", "stretch_page_count"),
            *("kpageflags", "state", "attributes"),
        )
    ],
    "in the same place": change_list("stretch_address", [START + PAGE, START + PAGE]),
    "overlapping": lambda answer: (
        change_list("stretch_page_count", [2, 1])(answer),
        change_list("stretch_address", [START, START + PAGE])(answer),
    ),
    "descending": change_list("stretch_address", [START + 2 * PAGE, START]),
    "starting before": change_list("stretch_address", [START - PAGE, START]),
    "ending after": change_list("stretch_address", [START, START + 3 * PAGE]),
    "inside a page": change_list("stretch_address", [START, START + 2 * PAGE - 1]),
    "past 2^64": change_list("stretch_address", [START, 2**64 - PAGE]),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_an_answer_about_something_else_is_an_internal_error(fake, client, change):
    fake.pages = PAGES
    [chunk] = client.stream_page_flags(7, [(START, 4)])
    assert len(chunk.stretch_addresses) == 2
    fake.change_pages = change
    fake.ended.clear()
    fake.hold = threading.Event()
    with pytest.raises(cowd.InternalError, match="not about the pages") as caught:
        list(client.stream_page_flags(7, [(START, 4)]))
    assert fake.ended.wait(SECONDS), "the error kept the call alive"
    fake.hold.set()
    assert caught.value.pid == 7


def test_an_answer_that_lists_more_than_anybody_does_is_an_internal_error(
    fake, client, monkeypatch
):
    fake.pages = PAGES
    for most, outcome in ((3, nullcontext()), (2, pytest.raises(cowd.InternalError))):
        monkeypatch.setattr(_range_stream, "_MOST_LISTED", most)
        with outcome:
            list(client.stream_page_flags(7, [(START, 4)]))


def test_an_answer_of_another_process_is_an_internal_error(fake, client):
    stream = client.stream_page_flags(7, [(START, 20)])
    fake.hold = threading.Event()
    next(stream)
    fake.start_times = [600]
    fake.hold.set()
    with pytest.raises(cowd.InternalError, match="not about the pages"):
        list(stream)


def test_an_answer_of_pages_told_of_already_is_an_internal_error(fake, client):
    fake.maximum_page_count = 4
    fake.change_pages = change_field("address", START)
    with pytest.raises(cowd.InternalError, match="not about the pages"):
        list(client.stream_page_flags(7, [(START, 8)]))


def test_an_answer_that_ends_early_is_an_internal_error(fake, client, monkeypatch):
    iter_chunks = fake._iter_chunks
    monkeypatch.setattr(fake, "_iter_chunks", lambda request: islice(iter_chunks(request), 1))
    stream = client.stream_page_flags(7, [(START, 9)])
    next(stream)
    with pytest.raises(cowd.InternalError, match="ends before the pages asked for"):
        next(stream)


def test_an_answer_that_does_not_end_is_an_internal_error(fake, client, monkeypatch):
    iter_chunks = fake._iter_chunks
    monkeypatch.setattr(
        fake, "_iter_chunks", lambda request: chain(iter_chunks(request), iter_chunks(request))
    )
    with pytest.raises(cowd.InternalError, match="not about the pages"):
        list(client.stream_page_flags(7, [(START, 4)]))
