# SPDX-License-Identifier: Apache-2.0
"""Probing says of the kernel what another way of trying says."""

import ctypes
import fcntl
import mmap
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from cowdaemon.worker import features as module
from cowdaemon.worker.features import KernelFeatures, probe_features
from cowdaemon.worker.page_states import Kpageflags, PageState, classify

PAGE = mmap.PAGESIZE
MADV_GUARD_INSTALL = 102
MADV_WITHOUT_MEANING = 12_345
PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
IOCTL_WITHOUT_MEANING = 0xC0606601

pytestmark = [
    pytest.mark.usefixtures("nothing_is_left"),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: swap types show to root alone"),
]


@pytest.fixture
def pagemap() -> Iterator[int]:
    with open("/proc/self/pagemap", "rb", buffering=0) as file:
        yield file.fileno()


def address_of(memory: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


def read_entry(pagemap: int, address: int) -> int:
    return int.from_bytes(os.pread(pagemap, 8, address // PAGE * 8), "little")


def test_marker_type_is_the_same_by_guard_and_by_userfaultfd(pagemap: int) -> None:
    guard, uffd = module._read_guard_entry(pagemap), module._read_uffd_marker_entry(pagemap)
    if guard is None or uffd is None:
        pytest.skip("this kernel lacks guard regions or userfaultfd write-protection")
    assert guard & 31 == uffd & 31 == probe_features().layout.marker_type
    assert guard != uffd


def test_guard_region_is_recognised_where_there_are_any(pagemap: int) -> None:
    features = probe_features()
    with mmap.mmap(-1, PAGE, PRIVATE) as memory:
        try:
            memory.madvise(MADV_GUARD_INSTALL)
        except OSError:
            assert not features.has_guard_regions
            return
        entry = read_entry(pagemap, address_of(memory))
    assert features.has_guard_regions
    entries = np.array([entry], np.uint64)
    states, _ = classify(entries, np.zeros(1, np.uint64), features.layout)
    assert states.tolist() == [PageState.GUARD]


def test_pagemap_scan_is_there_if_it_finds_what_was_written(pagemap: int) -> None:
    """The ioctl used in earnest: which of eight pages are present."""
    present, categories = 8, 0
    region = (ctypes.c_uint64 * 3)()
    with mmap.mmap(-1, 8 * PAGE, PRIVATE) as memory:
        memory.madvise(mmap.MADV_NOHUGEPAGE)
        memory[2 * PAGE] = memory[3 * PAGE] = 1
        start = address_of(memory)
        argument = struct.pack(
            "=12Q",
            *(96, 0, start, start + 8 * PAGE, 0, ctypes.addressof(region), 1, 0),
            *(categories, present, 0, present),
        )
        try:
            fcntl.ioctl(pagemap, module.PAGEMAP_SCAN, argument)
            found = (region[0] - start, region[1] - start) == (2 * PAGE, 4 * PAGE)
        except OSError:
            found = False
    assert probe_features().has_pagemap_scan == found


def test_soft_dirty_is_there_if_it_makes_a_round_trip(pagemap: int) -> None:
    """Cleared, it reads 0; after a write it reads 1. Without it, clearing succeeds all the same."""
    with mmap.mmap(-1, PAGE, PRIVATE) as memory:
        memory[0] = 1
        address = address_of(memory)
        Path("/proc/self/clear_refs").write_text("4")
        cleared = read_entry(pagemap, address) >> 55 & 1
        memory[0] = 2
        written = read_entry(pagemap, address) >> 55 & 1
    assert probe_features().layout.has_soft_dirty == ((cleared, written) == (0, 1))


def probe_without(monkeypatch: pytest.MonkeyPatch, *names: str) -> KernelFeatures:
    """Probe as on a kernel that lacks something: by asking for what no kernel has."""
    lacking = {
        "_MADV_GUARD_INSTALL": MADV_WITHOUT_MEANING,
        "_UFFDIO_REGISTER": IOCTL_WITHOUT_MEANING,
        "_SYS_USERFAULTFD": {},
    }
    for name in names:
        monkeypatch.setattr(module, name, lacking[name])
    return probe_features()


def test_kernel_without_guard_regions_still_has_its_markers(
    monkeypatch: pytest.MonkeyPatch, pagemap: int
) -> None:
    uffd = module._read_uffd_marker_entry(pagemap)
    features = probe_without(monkeypatch, "_MADV_GUARD_INSTALL")
    assert not features.has_guard_regions
    assert features.layout.marker_type == (None if uffd is None else uffd & 31)


@pytest.mark.parametrize("uffd", ["_SYS_USERFAULTFD", "_UFFDIO_REGISTER"])
def test_kernel_without_markers(monkeypatch: pytest.MonkeyPatch, uffd: str) -> None:
    features = probe_without(monkeypatch, "_MADV_GUARD_INSTALL", uffd)
    assert features.layout.marker_type is None
    assert not features.has_guard_regions


def test_file_without_the_ioctl_has_no_pagemap_scan(make_file: Callable[[bytes], int]) -> None:
    """As pagemap answers on kernels before 6.7: ENOTTY."""
    assert not module._has_pagemap_scan(make_file(b""))


def read_flags(entry: int) -> int:
    with open("/proc/kpageflags", "rb", buffering=0) as file:
        return int.from_bytes(os.pread(file.fileno(), 8, (entry & (1 << 55) - 1) * 8), "little")


def test_frames_of_zeros_are_those_of_pages_that_were_read(pagemap: int) -> None:
    """In other memory than was probed, at places far from each other."""
    with mmap.mmap(-1, 3000 * PAGE, PRIVATE) as memory:
        memory.madvise(mmap.MADV_NOHUGEPAGE)
        for page in range(0, 3000, 7):
            assert memory[page * PAGE] == 0
            entry = read_entry(pagemap, address_of(memory) + page * PAGE)
            assert entry & (1 << 55) - 1 in probe_features().layout.zero_frames
            assert read_flags(entry) & Kpageflags.ZERO_PAGE


def test_huge_page_of_zeros_lies_as_its_addresses_do(pagemap: int) -> None:
    """A read of untouched memory maps it, and its first frame is a multiple of its size."""
    pages = probe_features().layout.huge_page_pages
    if not pages:
        assert not Path("/sys/kernel/mm/transparent_hugepage").exists()
        return
    with mmap.mmap(-1, 2 * pages * PAGE, PRIVATE) as memory:
        memory.madvise(mmap.MADV_HUGEPAGE)
        start = -address_of(memory) % (pages * PAGE)
        assert memory[start] == 0
        first, last = (
            read_entry(pagemap, address_of(memory) + start + page * PAGE) for page in (0, pages - 1)
        )
    if not read_flags(first) & Kpageflags.THP:
        pytest.skip("this kernel gives no huge page of zeros (use_zero_page, or THP is off)")
    assert read_flags(last) & Kpageflags.ZERO_PAGE
    assert (first & (1 << 55) - 1) % pages == 0
    assert last - first == pages - 1


def test_page_copiers_are_told_if_a_fork_takes_the_flag_away(pagemap: int) -> None:
    """Of a page that two processes may write to; after a write it is one's alone again."""
    with mmap.mmap(-1, PAGE, PRIVATE) as memory:
        memory[0] = 1
        flags = [read_flags(read_entry(pagemap, address_of(memory)))]
        with forked():
            flags.append(read_flags(read_entry(pagemap, address_of(memory))))
            memory[0] = 2
            flags.append(read_flags(read_entry(pagemap, address_of(memory))))
    is_exclusive = [bool(word >> 34 & 1) for word in flags]
    assert probe_features().has_page_copiers == (is_exclusive == [True, False, True])


@contextmanager
def forked() -> Iterator[None]:
    """Have a child that does nothing, until this ends."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writing)
        os.read(reading, 1)
        os._exit(0)
    try:
        yield
    finally:
        os.close(reading)
        os.close(writing)
        os.waitpid(child, 0)


def test_what_cannot_be_read_counts_as_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it the reader asks for more flags, and says the same."""
    monkeypatch.setattr(module, "_read_kpageflags", lambda _: 0)
    monkeypatch.setattr(module, "_HUGE_PAGE_BYTES", Path("/absent"))
    features = probe_features()
    assert features.layout.zero_frames == ()
    assert features.layout.huge_page_pages == 0
    assert not features.has_page_copiers
