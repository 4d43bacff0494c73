# SPDX-License-Identifier: Apache-2.0
"""Questions about buffers of this process: which pages, which bytes of them, what they are."""

import array
import ctypes
import mmap
import os
from dataclasses import replace

import cowd
import numpy as np
import pytest
from cowd import PageAttributes, PageState, Span, _buffer_pages
from cowd._backend import ask
from cowd._buffers import as_array

PAGE = mmap.PAGESIZE
WRITABLE = mmap.PROT_READ | mmap.PROT_WRITE


@pytest.fixture
def path(tmp_path):
    """Return a file of four pages and a half."""
    file = tmp_path / "words"
    file.write_bytes(b"w" * (4 * PAGE + PAGE // 2))
    return file


@pytest.fixture
def words(path):
    """Return the author's mapping: pages 0 and 2 written, 3 read."""
    words = np.memmap(path, dtype="u1", mode="c")
    words[0] = words[2 * PAGE] = 1
    assert words[3 * PAGE]
    return words


def map_readable(path):
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)


@pytest.mark.parametrize(
    ("start", "size", "address", "page_count", "starts_inside", "ends_inside"),
    [
        (8 * PAGE, 2 * PAGE, 8 * PAGE, 2, False, False),
        (8 * PAGE + 5, 2 * PAGE - 5, 8 * PAGE, 2, True, False),
        (8 * PAGE, PAGE + 1, 8 * PAGE, 2, False, True),
        (8 * PAGE + 5, 1, 8 * PAGE, 1, True, True),
        (9 * PAGE - 1, 2, 8 * PAGE, 2, True, True),
        (8 * PAGE + 5, 0, 8 * PAGE, 0, False, False),
    ],
)
def test_span(start, size, address, page_count, starts_inside, ends_inside):
    span = Span(start, size)
    assert (span.address, span.page_count, span.end) == (
        address,
        page_count,
        address + page_count * PAGE,
    )
    assert (span.starts_inside_page, span.ends_inside_page) == (starts_inside, ends_inside)
    pieces = [span.slice_of(page) for page in range(page_count)]
    data = bytes(i % 251 for i in range(size))
    assert b"".join(data[piece] for piece in pieces) == data


def test_slice_of_a_page_that_is_not_there():
    span = Span(8 * PAGE + 5, 2 * PAGE)
    assert span.slice_of(-1) == span.slice_of(2) == slice(2 * PAGE - 5, 2 * PAGE)
    with pytest.raises(IndexError):
        span.slice_of(3)


def test_copied_is_an_array_of_one_truth_value_a_page(words):
    copied = cowd.copied(words)
    assert copied.dtype == np.bool_
    assert copied.tolist() == [True, False, True, False, False]


def test_pages_of_a_file(words, path):
    pages = cowd.pages(words, backend="local")
    assert len(pages) == 5
    assert pages.states[[0, 2]].tolist() == [PageState.ANON] * 2
    assert pages.attributes[0] == PageAttributes.EXCLUSIVE
    assert pages.copied.tolist() == [True, False, True, False, False]
    assert (pages.backend, pages.kpageflags, pages.fallback_error) == ("local", None, None)
    assert [mapping.path for mapping in pages.mappings] == [os.fsencode(path)]
    assert pages.span.ends_inside_page
    assert not pages.span.starts_inside_page


def test_runs_and_summary(words):
    pages = cowd.pages(words, backend="local")
    runs = pages.runs()
    assert sum(run.page_count for run in runs) == 5
    assert [run.copied for run in runs][:3] == [True, False, True]
    assert runs[0].address == pages.span.address
    assert runs[0].kpageflags is None
    summary = pages.summary()
    assert summary[:4] == (5, 2, 5 * PAGE, 2 * PAGE)
    assert summary.page_count_by_state[PageState.ANON] == 2
    assert sum(summary.page_count_by_state.values()) == 5


def test_no_page_of_anonymous_memory_counts_as_copied():
    buffer = bytearray(b"x" * 10 * PAGE)
    summary = cowd.pages(buffer, backend="local").summary()
    assert summary.copied_page_count == summary.copied_size_bytes == 0
    assert summary.page_count_by_state[PageState.ANON] >= 10


def test_printed_for_a_person(words):
    lines = str(cowd.pages(words, backend="local")).splitlines()
    assert [line.split() for line in lines[:2]] == [
        ["PAGES", "STATE", "COPIED", "FLAGS"],
        ["0", "anon", "yes", "-"],
    ]
    assert lines[-2:] == [
        "The buffer ends inside its last page.",
        "No kernel flags: only the daemon can tell them",
    ]


def test_a_part_of_an_array_starts_inside_a_page(words):
    pages = cowd.pages(words[PAGE - 1 : 2 * PAGE + 1], backend="local")
    assert pages.copied.tolist() == [True, False, True]
    assert (pages.span.starts_inside_page, pages.span.ends_inside_page) == (True, True)
    assert "The buffer starts inside its first page." in str(pages)


def test_a_copy_of_the_last_page_counts_though_the_file_ends_inside_it(words):
    words[-1] = 1
    assert cowd.copied(words)[4]


@pytest.mark.parametrize(
    "make",
    [
        lambda _: bytearray(3 * PAGE),
        lambda _: bytes(3 * PAGE),
        lambda _: array.array("Q", [0]) * PAGE,
        lambda _: memoryview(bytearray(3 * PAGE))[PAGE:],
        lambda _: np.zeros(2 * PAGE, "M8[s]"),
        lambda _: np.asfortranarray(np.zeros((64, PAGE))),
        lambda _: memoryview(np.asfortranarray(np.zeros((64, PAGE)))),
        lambda _: (ctypes.c_char_p * PAGE)(),
        lambda _: np.float64(1.5),
        lambda _: ctypes.create_string_buffer(2 * PAGE),
        map_readable,
    ],
)
def test_whatever_has_memory_has_pages(make, path):
    buffer = make(path)
    pages = cowd.pages(buffer, backend="local")
    expected = as_array(buffer)
    assert pages.span == Span(expected.ctypes.data, expected.nbytes)
    assert len(pages) == pages.span.page_count == len(pages.states) == len(pages.attributes)


@pytest.mark.parametrize("make", [bytes, lambda: np.zeros(0), lambda: memoryview(b"")])
def test_an_empty_buffer_has_no_pages(make):
    pages = cowd.pages(make(), backend="local")
    assert (len(pages), pages.runs(), list(pages.copied)) == (0, [], [])
    assert (pages.kpageflags, pages.masks) == (None, None)
    assert pages.summary().page_count == 0


@pytest.mark.parametrize(
    "make",
    [
        lambda: "text",
        lambda: 7,
        lambda: np.zeros(100 * PAGE)[::2],
        lambda: memoryview(bytes(100))[::2],
    ],
)
def test_what_has_no_memory_or_not_in_one_piece_is_refused(make):
    with pytest.raises(cowd.InvalidRequest, match=r"no memory to look at|not contiguous"):
        cowd.pages(make())


def test_a_closed_mmap_is_refused(path):
    memory = map_readable(path)
    memory.close()
    with pytest.raises(cowd.InvalidRequest, match="give an open mmap"):
        cowd.copied(memory)


def test_anonymous_memory_has_no_original():
    with pytest.raises(cowd.InvalidRequest, match=r"is anonymous.*cowd\.pages"):
        cowd.copied(bytearray(10 * PAGE))


def test_nothing_is_copied_in_a_shared_mapping(path):
    words = np.memmap(path, dtype="u1", mode="r+")
    words[0] = 1
    assert not cowd.copied(words).any()


def test_asking_changes_nothing(path):
    words = np.memmap(path, dtype="u1", mode="c")
    assert not cowd.copied(words).any()
    assert set(cowd.pages(words, backend="local").states) == {PageState.ABSENT}


def test_a_backend_is_taken_for_what_it_answers(words):
    class Named(cowd.Local):
        name = "named"

    pages = cowd.pages(words, backend=Named())
    assert (pages.backend, pages.kpageflags, pages.masks) == ("named", None, None)
    assert "No kernel flags" in str(pages)


def test_none_is_no_backend(words):
    with pytest.raises(cowd.InvalidRequest, match="there is no backend None"):
        cowd.pages(words, backend=None)


def test_there_is_no_other_backend(words):
    with pytest.raises(cowd.InvalidRequest, match="there are auto, daemon, local"):
        cowd.pages(words, backend="remote")


def answer_with(states, attributes):
    """Return a backend that gives made-up pages."""

    class Made(cowd.Local):
        def stream_page_flags(self, pid, ranges, **options):
            for chunk in super().stream_page_flags(pid, ranges, **options):
                yield replace(
                    chunk,
                    stretch_addresses=array.array("Q", [chunk.address]),
                    stretch_page_counts=array.array("I", [chunk.page_count]),
                    states=bytes(states),
                    attributes=bytes(attributes),
                )

    return Made()


def test_pages_come_in_chunks_of_stretches(words):
    """Five pages; 0, 2 and 3 are listed in the first chunk, none in the second."""
    masks = cowd.DisclosureMasks(1, 2)

    class Streaming(cowd.Local):
        def stream_page_flags(self, pid, ranges, **_):
            [(address, count)] = ranges
            assert count == 5
            common = {"pid": pid, "page_size_bytes": PAGE, "start_time_ticks": 1, "masks": masks}
            yield cowd.PageChunk(
                address=address,
                page_count=4,
                stretch_addresses=array.array("Q", [address, address + 2 * PAGE]),
                stretch_page_counts=array.array("I", [1, 2]),
                kpageflags=array.array("Q", [1 << 63, 20, 30]),
                states=bytes([3, 4, 2]),
                attributes=bytes([1, 0, 2]),
                **common,
            )
            yield cowd.PageChunk(
                address=address + 4 * PAGE,
                page_count=1,
                stretch_addresses=array.array("Q"),
                stretch_page_counts=array.array("I"),
                kpageflags=array.array("Q"),
                states=b"",
                attributes=b"",
                **common,
            )

    pages = cowd.pages(words, backend=Streaming())
    assert pages.states.tolist() == [3, 1, 4, 2, 1]
    assert pages.attributes.tolist() == [1, 0, 0, 2, 0]
    assert pages.kpageflags.tolist() == [1 << 63, 0, 20, 30, 0]
    assert pages.masks == masks
    assert (pages.states.dtype, pages.kpageflags.dtype) == (np.uint8, np.uint64)
    assert [run.page_count for run in pages.runs()] == [1] * 5


def test_what_is_not_known_is_no_answer(words):
    states = [PageState.ANON, PageState.UNKNOWN, *[PageState.FILE] * 3]
    pages = cowd.pages(words, backend=answer_with(states, [0, PageAttributes.UNSTABLE, 0, 0, 0]))
    with pytest.raises(cowd.Aborted, match="page 1 changed"):
        _ = pages.copied
    pages = cowd.pages(words, backend=answer_with(states, [0] * 5))
    with pytest.raises(cowd.FailedPrecondition, match="cannot tell what page 1 is"):
        _ = pages.copied
    assert pages.summary().copied_page_count == 1


def test_a_swapped_page_is_a_copy_still(words):
    states = [PageState.ANON_SWAPPED, PageState.ZERO, PageState.GUARD, *[PageState.ABSENT] * 2]
    pages = cowd.pages(words, backend=answer_with(states, [0] * 5))
    assert pages.copied.tolist() == [True, False, False, False, False]


def test_on_an_older_kernel_the_daemon_is_asked_first(words, monkeypatch):
    asked = []

    def note(backend, question):
        asked.append(backend)
        return ask(backend, question)

    monkeypatch.setenv("COWD_SOCKET", "/nowhere")
    monkeypatch.setattr(_buffer_pages, "ask", note)
    assert cowd.copied(words)[0]
    monkeypatch.setattr(_buffer_pages, "has_pagemap_scan", lambda: False)
    assert cowd.copied(words)[0]
    assert asked == ["local", "auto"]


def test_tracker_tells_what_is_new_at_each_look(words):
    tracker = cowd.Tracker(words)
    first = tracker.look()
    assert (first.copied.tolist(), first.dropped.tolist()) == ([0, 2], [])
    words[0] = 5  # a copy already
    words[3 * PAGE] = 5
    second = tracker.look()
    assert (second.copied.tolist(), second.dropped.tolist()) == ([3], [])
    assert [part.tolist() for part in tracker.look()] == [[], []]


def test_tracker_tells_what_was_dropped(path):
    with path.open("r+b") as file:
        memory = mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE, WRITABLE)
    memory[0] = memory[PAGE] = 1
    tracker = cowd.Tracker(memory)
    tracker.look()
    memory.madvise(mmap.MADV_DONTNEED, 0, PAGE)
    assert [part.tolist() for part in tracker.look()] == [[], [0]]
    memory[0] = 1
    assert [part.tolist() for part in tracker.look()] == [[0], []]


def test_a_look_that_failed_is_made_up_for(words):
    states = [PageState.UNKNOWN] * 5
    tracker = cowd.Tracker(words, backend=answer_with(states, [0] * 5))
    with pytest.raises(cowd.FailedPrecondition):
        tracker.look()
    tracker._backend = "local"
    assert tracker.look().copied.tolist() == [0, 2]


def test_a_tracked_checkpoint_is_the_whole_difference(words, path):
    saved = bytearray(path.read_bytes())
    tracker = cowd.Tracker(words[5:])
    words[PAGE] = 9
    data = memoryview(words)[5:]
    for page in tracker.look().copied:
        piece = tracker.span.slice_of(page)
        saved[5 + piece.start : 5 + piece.stop] = data[piece]
    saved[:5] = words[:5].tobytes()
    assert bytes(saved) == words.tobytes()


def test_a_tracked_mapping_stays_open(path):
    with path.open("r+b") as file:
        memory = mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE, WRITABLE)
    tracker = cowd.Tracker(memory)
    with pytest.raises(BufferError):
        memory.close()
    del tracker
    memory.close()
