# SPDX-License-Identifier: Apache-2.0
"""Streams of the backend without a daemon: what is there is listed, what is not costs nothing."""

import mmap
import os

import cowd
import pytest
from cowd import Local, PageState, _local, _page_scan
from cowd._buffers import Span, as_array

PAGE = mmap.PAGESIZE
WRITABLE = mmap.PROT_READ | mmap.PROT_WRITE
MAP_NORESERVE = 0x4000  # asm-generic/mman.h; in mmap from Python 3.13 on


def map_anonymously(page_count):
    return mmap.mmap(-1, page_count * PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, WRITABLE)


def address_of(memory):
    return as_array(memory).ctypes.data


def failure(kind, reason, ask, *arguments):
    with pytest.raises(kind) as caught:
        ask(*arguments)
    assert caught.value.reason == reason


def stream(memory, count=None):
    span = Span(address_of(memory), len(memory))
    return list(Local().stream_page_flags(os.getpid(), [(span.address, count or span.page_count)]))


def reserve(size_bytes):
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
    return mmap.mmap(-1, size_bytes, flags, WRITABLE)


def test_reserved_memory_is_not_looked_at(monkeypatch):
    """Seen to fail where the whole range is read: 2^40 bytes are a second and a half of that."""
    if not _page_scan.has_pagemap_scan():
        pytest.skip("this kernel has no PAGEMAP_SCAN")
    looks = []
    read_entries = _local.Process.read_entries

    def read(process, address, count):
        looks.append(count)
        return read_entries(process, address, count)

    monkeypatch.setattr(_local.Process, "read_entries", read)
    with reserve(1 << 40) as memory:
        memory.madvise(mmap.MADV_NOHUGEPAGE)
        for place in 0, 1 << 39, (1 << 40) - PAGE:
            memory[place] = 1
        [chunk] = stream(memory)
        start = address_of(memory)
    assert (chunk.address, chunk.page_count) == (start, (1 << 40) // PAGE)
    places = [address - start for address in chunk.stretch_addresses]
    assert places == [0, 1 << 39, (1 << 40) - PAGE]
    assert chunk.stretch_page_counts.tolist() == [1, 1, 1]
    assert (chunk.states, chunk.attributes) == (bytes([PageState.ANON] * 3), bytes([1] * 3))
    assert (chunk.kpageflags, chunk.masks, chunk.pid) == (None, None, os.getpid())
    assert sum(looks) < 10


@pytest.mark.usefixtures("kernel")
def test_a_stream_tells_what_is_there_and_folds_what_is_not(monkeypatch):
    monkeypatch.setattr(_local, "PAGES_PER_PART", 256)
    with map_anonymously(2000) as memory:
        memory.madvise(mmap.MADV_NOHUGEPAGE)
        written = [0, 1, 7, 255, 256, 700, 1999]
        for page in written:
            memory[page * PAGE] = 1
        chunks = stream(memory)
        start = address_of(memory)
    assert [chunk.address for chunk in chunks][1:] == [chunk.end_address for chunk in chunks][:-1]
    assert (chunks[0].address, chunks[-1].end_address) == (start, start + 2000 * PAGE)
    assert all(len(chunk.states) <= 256 for chunk in chunks)
    states = b"".join(part.states for chunk in chunks for part in chunk.iter_parts())
    assert [page for page, state in enumerate(states) if state != PageState.ABSENT] == written
    assert sum(len(chunk.states) for chunk in chunks) < 1500


@pytest.mark.usefixtures("kernel")
def test_no_chunk_is_of_no_page(monkeypatch):
    monkeypatch.setattr(_local, "PAGES_PER_PART", 4)
    with map_anonymously(8) as memory:
        memory[:] = b"x" * 8 * PAGE
        assert [chunk.page_count for chunk in stream(memory)] == [4, 4]


@pytest.mark.parametrize("step", [1, 2, 200])
def test_populated_stretches_have_every_region(monkeypatch, step):
    """However near they are, in however many looks."""
    monkeypatch.setattr(_page_scan, "_REGIONS", 3)
    if not _page_scan.has_pagemap_scan():
        pytest.skip("this kernel has no PAGEMAP_SCAN")
    with map_anonymously(2001) as memory, open("/proc/self/pagemap", "rb") as pagemap:
        memory.madvise(mmap.MADV_NOHUGEPAGE)
        start = address_of(memory)
        for page in range(0, 2001, step):
            memory[page * PAGE] = 1
        found = list(_page_scan.iter_populated(pagemap.fileno(), start, start + 2001 * PAGE))
    borders = [((first - start) // PAGE, (last - start) // PAGE) for first, last in found]
    assert borders == (
        [(page, page + 1) for page in range(0, 2001, 200)] if step == 200 else [(0, 2001)]
    )


def test_dense_memory_is_not_one_endless_stretch(monkeypatch):
    monkeypatch.setattr(_page_scan, "_LONG_BYTES", 100 * PAGE)
    monkeypatch.setattr(_page_scan, "PAGES_PER_PART", 100)
    if not _page_scan.has_pagemap_scan():
        pytest.skip("this kernel has no PAGEMAP_SCAN")
    with map_anonymously(450) as memory, open("/proc/self/pagemap", "rb") as pagemap:
        memory.madvise(mmap.MADV_NOHUGEPAGE)
        start = address_of(memory)
        for page in range(450):
            memory[page * PAGE] = 1
        found = list(_page_scan.iter_populated(pagemap.fileno(), start, start + 450 * PAGE))
    assert [(last - first) // PAGE for first, last in found] == [100, 100, 100, 100, 50]


@pytest.mark.usefixtures("kernel")
def test_a_range_past_the_address_space_is_refused_before_it_is_read():
    failure(
        cowd.InvalidRequest,
        "OUT_OF_ADDRESS_SPACE",
        next,
        Local().stream_page_flags(os.getpid(), [(0, 1 << 51)]),
    )


@pytest.mark.usefixtures("kernel")
def test_a_process_that_ends_is_not_empty(child, monkeypatch):
    """The ioctl finds nothing then, or says ESRCH."""
    iter_populated = _local.iter_populated

    def end_and_scan(*arguments):
        child.kill()
        child.wait()
        return iter_populated(*arguments)

    monkeypatch.setattr(_local, "iter_populated", end_and_scan)
    if not _page_scan.has_pagemap_scan():
        monkeypatch.setattr(_local, "_read_chunk", lambda *_: child.kill() or child.wait())
    chunks = Local().stream_page_flags(child.pid, [(0x1000, 1 << 20)])
    failure(cowd.Aborted, "PROCESS_GONE", next, chunks)


def test_a_stream_that_is_left_closes_the_process():
    def count():
        return len(os.listdir("/proc/self/fd"))

    before = count()
    with map_anonymously(1) as memory:
        chunks = Local().stream_page_flags(os.getpid(), [(address_of(memory), 1)] * 2)
        next(chunks)
        assert count() == before + 2
        chunks.close()
    assert count() == before
