# SPDX-License-Identifier: Apache-2.0
"""What is found in this process's own memory is what was put there; tests/kernel has every kind."""

import ctypes
import mmap
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cowdaemon.worker import page_scan as module
from cowdaemon.worker.features import probe_features
from cowdaemon.worker.page_scan import (
    Category,
    iter_populated,
    iter_populated_by_reading,
    iter_regions,
)
from cowdaemon.worker.pagemap import ShortReadError, Stretches

PAGE = mmap.PAGESIZE
MANY = 4 * 512 + 3
"""Pages of which every second is written: more regions than are told of at once, twice over."""
VERY_MANY = 2 * module._REGIONS + 3 * 512 + 7
"""The same, of the number of regions that is in use."""

pytestmark = [
    pytest.mark.usefixtures("nothing_is_left"),
    pytest.mark.skipif(
        not probe_features().has_pagemap_scan, reason="the kernel has no PAGEMAP_SCAN (6.7)"
    ),
]


@pytest.fixture
def pagemap() -> Iterator[int]:
    with open("/proc/self/pagemap", "rb", buffering=0) as file:
        yield file.fileno()


@pytest.fixture
def memory() -> Iterator[mmap.mmap]:
    with mmap.mmap(-1, VERY_MANY * PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as mapped:
        mapped.madvise(mmap.MADV_NOHUGEPAGE)
        yield mapped


Scan = Callable[[int, int, int], Iterator[Stretches]]


def scan(
    pagemap: int, memory: mmap.mmap, pages: int = MANY, way: Scan = iter_populated
) -> list[list[tuple[int, int]]]:
    """Return the parts that were told, of the first pages of the memory and counted from there."""
    first = ctypes.addressof(ctypes.c_char.from_buffer(memory)) // PAGE
    return [
        [(start - first, end - first) for start, end in part.tolist()]
        for part in way(pagemap, first, first + pages)
    ]


def test_memory_that_was_not_touched_is_empty(pagemap: int, memory: mmap.mmap) -> None:
    assert scan(pagemap, memory) == []
    assert scan(pagemap, memory, 0) == []


def test_what_was_written_is_found(pagemap: int, memory: mmap.mmap) -> None:
    for page in (0, 5, 6, MANY - 1):
        memory[page * PAGE] = 1
    assert scan(pagemap, memory) == [[(0, 1), (5, 7), (MANY - 1, MANY)]]
    assert scan(pagemap, memory, 6) == [[(0, 1), (5, 6)]]


def test_more_regions_than_fit_come_in_parts(
    pagemap: int, memory: mmap.mmap, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_REGIONS", 512)
    for page in range(0, MANY, 2):
        memory[page * PAGE] = 1
    parts = scan(pagemap, memory)
    found = [region for part in parts for region in part]
    assert found == [(page, page + 1) for page in range(0, MANY, 2)]
    assert len(parts) > 2


def test_nothing_comes_twice_in_parts_of_many_regions(pagemap: int, memory: mmap.mmap) -> None:
    """Seen to fail on 6.18 with the kernel's word for where it ended taken as it is."""
    for page in range(0, VERY_MANY, 2):
        memory[page * PAGE] = 1
    parts = scan(pagemap, memory, VERY_MANY)
    assert [len(part) for part in parts] == [module._REGIONS, 3 * 256 + 4]
    found = [region for part in parts for region in part]
    assert found == [(page, page + 1) for page in range(0, VERY_MANY, 2)]


def test_regions_end_where_categories_change(
    pagemap: int, memory: mmap.mmap, tmp_path: Path
) -> None:
    """Seen to fail with the categories of one kind of page not asked for."""
    for page in (1, 3, 4):
        assert memory[page * PAGE] == 0
    for page in (2, 3):
        memory[page * PAGE] = 1
    assert tell_regions(pagemap, memory, 8) == [
        (1, 2, Category.PRESENT | Category.PFNZERO),
        (2, 4, Category.PRESENT),
        (4, 5, Category.PRESENT | Category.PFNZERO),
    ]
    path = tmp_path / "pages"
    path.write_bytes(bytes(4 * PAGE))
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as copied:
        copied[2 * PAGE] = 1
        assert copied[0] == copied[PAGE] == copied[3 * PAGE] == 0
        assert tell_regions(pagemap, copied, 4) == [
            (0, 2, Category.PRESENT | Category.FILE),
            (2, 3, Category.PRESENT),
            (3, 4, Category.PRESENT | Category.FILE),
        ]


def test_regions_of_huge_pages_are_told_as_such(pagemap: int) -> None:
    """What is in one may be zeros, so it is to be looked at."""
    size_bytes = 8 << 20
    with mmap.mmap(-1, size_bytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.madvise(mmap.MADV_HUGEPAGE)
        memory[::PAGE] = b"x" * (size_bytes // PAGE)
        if not re.search(r"AnonHugePages: +[1-9]", Path("/proc/self/smaps_rollup").read_text()):
            pytest.skip("the kernel gave no huge page")
        categories = {each for *_, each in tell_regions(pagemap, memory, size_bytes // PAGE)}
    assert Category.PRESENT | Category.HUGE in categories
    assert categories <= {Category.PRESENT | Category.HUGE, Category.PRESENT}


def tell_regions(pagemap: int, memory: mmap.mmap, pages: int) -> list[tuple[int, int, int]]:
    """Return the regions of the first pages of the memory, counted from there."""
    first = ctypes.addressof(ctypes.c_char.from_buffer(memory)) // PAGE
    return [
        (start - first, end - first, categories)
        for part in iter_regions(pagemap, first, first + pages)
        for start, end, categories in part.tolist()
    ]


def test_parts_have_a_bounded_number_of_pages(
    pagemap: int, memory: mmap.mmap, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAGES_PER_CALL", 5)
    for page in (*range(7), 8, *range(10, 14)):
        memory[page * PAGE] = 1
    parts = scan(pagemap, memory)
    assert [sum(end - start for start, end in part) for part in parts] == [5, 5, 2]
    found = [page for part in parts for start, end in part for page in range(start, end)]
    assert found == [*range(7), 8, *range(10, 14)]


def test_range_past_the_end_of_the_address_space_is_refused(pagemap: int) -> None:
    with pytest.raises(OSError, match="Bad address"):
        list(iter_populated(pagemap, 0, 2**63 // PAGE))


def test_memory_that_was_not_touched_is_empty_to_who_reads(pagemap: int, memory: mmap.mmap) -> None:
    assert scan(pagemap, memory, way=iter_populated_by_reading) == []
    assert scan(pagemap, memory, 0, way=iter_populated_by_reading) == []


@pytest.mark.parametrize("pages_at_once", [64, 128, 65_536])
@pytest.mark.parametrize("count", [1, 63, 64, 65, 200, MANY])
def test_who_reads_finds_what_was_written_with_its_neighbours(
    pagemap: int,
    memory: mmap.mmap,
    count: int,
    pages_at_once: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Seen to fail with the last pages, which fill no step, left out."""
    monkeypatch.setattr(module, "PAGES_PER_CALL", pages_at_once)
    written = {0, 70, 100, 195, 1000, MANY - 1}
    for page in written:
        memory[page * PAGE] = 1
    parts = scan(pagemap, memory, count, way=iter_populated_by_reading)
    assert all(sum(end - start for start, end in part) <= pages_at_once for part in parts)
    found = [page for part in parts for start, end in part for page in range(start, end)]
    steps = {page // 64 for page in written if page < count}
    assert found == [page for page in range(count) if page // 64 in steps]


def test_who_reads_past_the_end_of_the_address_space_comes_up_short(pagemap: int) -> None:
    with pytest.raises(ShortReadError):
        list(iter_populated_by_reading(pagemap, 2**63 // PAGE, 2**63 // PAGE + 1))
