# SPDX-License-Identifier: Apache-2.0
"""Chunks of pages as stretches, as parts with every page, and as runs: always the same pages."""

from array import array
from dataclasses import replace
from itertools import groupby, pairwise

import cowd
import pytest
from cowd import PageState, _pages
from cowd._runs import Segment, iter_runs
from hypothesis import given
from hypothesis import strategies as st

PAGE = 4096
START = 0x7F0000000000
ABSENT = (PageState.ABSENT, 0, 0)


def make_chunk(page_count, stretches, *, has_flags=True, address=START):
    """Return a chunk; `stretches` are (first page, [(state, attributes, flags), ...])."""
    listed = [entry for _, entries in stretches for entry in entries]
    return cowd.PageChunk(
        pid=7,
        page_size_bytes=PAGE,
        address=address,
        page_count=page_count,
        start_time_ticks=5,
        masks=cowd.DisclosureMasks(1, 2) if has_flags else None,
        stretch_addresses=array("Q", [address + first * PAGE for first, _ in stretches]),
        stretch_page_counts=array("I", [len(entries) for _, entries in stretches]),
        kpageflags=array("Q", [flags for _, _, flags in listed]) if has_flags else None,
        states=bytes(state for state, _, _ in listed),
        attributes=bytes(attributes for _, attributes, _ in listed),
    )


def spread(chunk):
    """Return what the chunk says of each of its pages, by the words of its description."""
    pages = [ABSENT] * chunk.page_count
    words = chunk.kpageflags or array("Q", bytes(8 * len(chunk.states)))
    entries = zip(chunk.states, chunk.attributes, words, strict=True)
    for address, count in zip(chunk.stretch_addresses, chunk.stretch_page_counts, strict=True):
        first = (address - chunk.address) // PAGE
        pages[first : first + count] = [next(entries) for _ in range(count)]
    assert next(entries, None) is None
    return pages


@st.composite
def chunks(draw):
    """Return any chunk, of up to some 60 pages."""
    entry = st.tuples(st.integers(1, 7), st.integers(0, 1), st.sampled_from([0, 0x5828]))
    lengths = st.tuples(st.integers(0, 5), st.lists(entry, min_size=1, max_size=6))
    stretches, position = [], 0
    for gap, entries in draw(st.lists(lengths, max_size=6)):
        stretches.append((position + gap, entries))
        position += gap + len(entries)
    page_count = max(1, position + draw(st.integers(0, 5)))
    return make_chunk(page_count, stretches, has_flags=draw(st.booleans()))


def put_together(parts):
    """Return the pages of parts as `spread` has them; verify that the parts follow each other."""
    pages = []
    for part in parts:
        assert part.address == START + len(pages) * PAGE
        words = part.kpageflags or array("Q", bytes(8 * len(part.states)))
        pages += zip(part.states, part.attributes, words, strict=True)
    return pages


@given(chunk=chunks(), most=st.integers(1, 70))
def test_parts_have_every_page(chunk, most):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_pages, "PAGES_PER_PART", most)
        parts = list(chunk.iter_parts())
    assert put_together(parts) == spread(chunk)
    assert [len(part.states) for part in parts[:-1]] == [most] * (len(parts) - 1)
    for part in parts:
        assert (part.masks, part.kpageflags is None) == (chunk.masks, chunk.kpageflags is None)
        assert (part.pid, part.start_time_ticks, part.page_size_bytes) == (7, 5, PAGE)
        assert type(part.states) is type(part.attributes) is bytes


@given(chunk=chunks())
def test_stretches_are_what_is_listed(chunk):
    stretches = list(chunk.iter_stretches())
    assert [each.address for each in stretches] == chunk.stretch_addresses.tolist()
    assert [len(each.states) for each in stretches] == chunk.stretch_page_counts.tolist()
    assert b"".join(each.states for each in stretches) == chunk.states
    assert b"".join(each.attributes for each in stretches) == chunk.attributes
    if chunk.kpageflags is not None:
        assert sum((each.kpageflags for each in stretches), array("Q")) == chunk.kpageflags


@given(chunk=chunks(), borders=st.sets(st.integers(1, 60)), pieces=st.sets(st.integers(1, 60)))
def test_runs_are_those_of_every_page(chunk, borders, pieces):
    """Wherever mappings, and the chunks that they come in, are cut."""
    pages = spread(chunk)
    starts = [0, *sorted(border for border in borders if border < len(pages)), len(pages)]
    segments = [
        Segment(START + first * PAGE, START + last * PAGE, None) for first, last in pairwise(starts)
    ]
    expected = []
    for segment in pairwise(starts):
        for page, same in groupby(range(*segment), pages.__getitem__):
            first, *more = same
            expected.append((START + first * PAGE, 1 + len(more), *tell(page, chunk)))
    runs = iter_runs(cut(chunk, pieces), segments, each=False)
    assert [(*run[:2], *run[3:6]) for run in runs] == expected
    each = list(iter_runs(cut(chunk, pieces), segments, each=True))
    assert [run.address for run in each] == [START + page * PAGE for page in range(len(pages))]
    assert [run[3:6] for run in each] == [tell(page, chunk) for page in pages]


def tell(page, chunk):
    """Return what a run says of such a page: flags where there may be some."""
    state, attributes, flags = page
    has_flags = chunk.kpageflags is not None and PageState(state).is_present
    return state, attributes, flags if has_flags else None


def cut(chunk, borders):
    """Yield the pages of a chunk in several, which list what it lists."""
    starts = [0, *sorted(border for border in borders if border < chunk.page_count)]
    for first, last in zip(starts, [*starts[1:], chunk.page_count], strict=True):
        stretches = []
        for each in chunk.iter_stretches():
            begin = (each.address - START) // PAGE
            inside = range(max(first, begin), min(last, begin + len(each.states)))
            words = each.kpageflags or array("Q", bytes(8 * len(each.states)))
            entries = [
                (each.states[page - begin], each.attributes[page - begin], words[page - begin])
                for page in inside
            ]
            if entries:
                stretches.append((inside[0] - first, entries))
        yield make_chunk(
            last - first,
            stretches,
            has_flags=chunk.kpageflags is not None,
            address=START + first * PAGE,
        )


def test_one_stretch_of_everything_is_not_copied():
    chunk = make_chunk(3, [(0, [(2, 0, 8)] * 3)])
    for [part] in (chunk.iter_parts(), chunk.iter_stretches()):
        assert part.kpageflags is chunk.kpageflags
        assert part.states is chunk.states
        assert part.attributes is chunk.attributes


def test_reserved_memory_is_one_run_at_once():
    """Whoever counts its pages one by one does not come to the end."""
    chunk = make_chunk(1 << 40, [(1 << 39, [(3, 1, 0x5828)])])
    segment = Segment(START, START + (PAGE << 40), None)
    assert [
        (run.page_count, run.state, run.kpageflags)
        for run in iter_runs([chunk], [segment], each=False)
    ] == [
        (1 << 39, PageState.ABSENT, None),
        (1, PageState.ANON, 0x5828),
        ((1 << 39) - 1, PageState.ABSENT, None),
    ]
    first = next(iter_runs([chunk], [segment], each=True))
    assert (first.page_count, first.state) == (1, PageState.ABSENT)
    assert len(next(chunk.iter_parts()).states) == 65_536


def test_pages_that_are_listed_as_absent_are_like_those_that_are_not():
    for chunk in (
        make_chunk(4, [(1, [ABSENT])]),
        make_chunk(4, [(1, [ABSENT])], has_flags=False),
    ):
        [run] = iter_runs([chunk], [Segment(START, START + 4 * PAGE, None)], each=False)
        assert (run.page_count, run.kpageflags) == (4, None)


def test_where_a_chunk_ends():
    assert make_chunk(3, []).end_address == START + 3 * PAGE
    assert replace(make_chunk(3, []), page_count=1).end_address == START + PAGE
