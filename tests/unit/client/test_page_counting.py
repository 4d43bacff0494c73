# SPDX-License-Identifier: Apache-2.0
"""Pages counted without the daemon: as many as there are, one by one."""

import mmap
import os
import signal
import subprocess
import sys
from collections import Counter

import cowd
import pytest
from cowd import Local, MappingKind, PageCounts, PageState, _page_counting, _page_scan

PAGE = mmap.PAGESIZE
KTHREADD = 2
ABSENT_PID = 2**22 + 1
"""Above what the kernel gives (PID_MAX_LIMIT)."""

HOLD = """
import mmap, os, sys
PAGE = mmap.PAGESIZE
MAP_NORESERVE = 0x4000
memory = mmap.mmap(-1, 1 << 40, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE)
memory.madvise(mmap.MADV_NOHUGEPAGE)
for page in 5, 6, 7, 300, 99_999, 1 << 27:
    memory[page * PAGE] = 1
memory[400 * PAGE]  # of zeros
file = mmap.mmap(os.open(sys.executable, os.O_RDONLY), 4 * PAGE, mmap.MAP_PRIVATE)
file[0] = file[0]
print(flush=True)
input()
"""


@pytest.fixture
def holder():
    """Return a process that holds 2^40 bytes, and six pages of them."""
    if not _page_scan.has_pagemap_scan():
        pytest.skip("this kernel has no PAGEMAP_SCAN: all of that would be read")
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    process.stdout.readline()
    os.kill(process.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED)
    yield process
    process.kill()
    process.communicate()


def count_one_by_one(pid, mapping):
    place = mapping.start_address, mapping.size_bytes // PAGE
    numbers = Counter()
    for chunk in Local().stream_page_flags(pid, [place]):
        numbers.update(chunk.states)
        numbers[PageState.ABSENT] += chunk.page_count - len(chunk.states)
    return PageCounts(*(numbers[state] for state in PageState))


def test_numbers_are_those_of_the_pages(holder):
    """Seen to fail where stretches that begin before a mapping are counted from its start."""
    told = cowd.mappings(holder.pid, backend="local").mappings
    assert [each.page_counts for each in told if each.path != b"[vsyscall]"] == [
        count_one_by_one(holder.pid, each) for each in told if each.path != b"[vsyscall]"
    ]
    [reserved] = [each for each in told if each.size_bytes >= 1 << 40]
    assert reserved.page_counts.anon >= 6
    assert reserved.page_counts.zero >= 1
    assert reserved.page_counts.total == reserved.size_bytes // PAGE


@pytest.mark.usefixtures("kernel")
def test_numbers_are_those_of_the_pages_of_any_process(child):
    os.kill(child.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, child.pid, os.WSTOPPED)
    told = cowd.mappings(child.pid, backend="local").mappings
    for each in told:
        if each.path != b"[vsyscall]":
            assert each.page_counts == count_one_by_one(child.pid, each), each


def test_small_pieces_make_the_same_numbers(holder, monkeypatch):
    """Seen to fail where a mapping that ends in a piece is not looked for in the next one."""
    due = cowd.mappings(holder.pid, backend="local")
    monkeypatch.setattr(_page_counting, "PAGES_PER_PART", 7)
    assert cowd.mappings(holder.pid, backend="local") == due


def test_vsyscall_is_unknown(child):
    told = cowd.mappings(child.pid, backend="local").mappings
    outside = [each for each in told if each.path == b"[vsyscall]"]
    if not outside:
        pytest.skip("this kernel maps no [vsyscall]")
    assert outside[0].page_counts == PageCounts(unknown=1)


def test_a_summary_is_of_all_mappings(holder):
    [summary] = Local().summarize_processes([holder.pid])
    listed = cowd.mappings(holder.pid, backend="local")
    assert summary.start_time_ticks == listed.start_time_ticks
    assert [each.kind for each in summary.totals] == [
        kind for kind in MappingKind if any(each.kind is kind for each in listed.mappings)
    ]
    for totals in summary.totals:
        mappings = [each for each in listed.mappings if each.kind is totals.kind]
        assert totals.mapping_count == len(mappings)
        assert totals.page_counts == sum((each.page_counts for each in mappings), PageCounts())
    assert summary.copied_page_count >= 1


def test_a_process_that_fails_says_so_in_its_place(child):
    wanted = {
        child.pid: type(None),
        0: cowd.InvalidRequest,
        ABSENT_PID: cowd.NoSuchProcess,
        KTHREADD: cowd.FailedPrecondition,
    }
    told = cowd.summarize(wanted, backend="local")
    assert [each.pid for each in told] == list(wanted)
    assert [type(each.failure) for each in told] == list(wanted.values())
    assert {each.page_counts.total for each in told[1:]} == {0}


@pytest.mark.parametrize("wanted", [["x"], [1.5]])
def test_pids_that_are_none_are_invalid(wanted):
    with pytest.raises(cowd.InvalidRequest):
        cowd.summarize(wanted, backend="local")


def test_all_processes_are_those_that_can_be_told(child):
    told = cowd.summarize(backend="local")
    pids = [each.pid for each in told]
    assert pids == sorted(set(pids))
    assert {child.pid, os.getpid()} <= set(pids)
    assert KTHREADD not in pids
    assert not any(each.failure for each in told)


def test_a_process_that_goes_meanwhile_is_said(child, monkeypatch):
    """To the ioctl it is empty then. Seen to fail without a last look."""
    iter_stretches = _page_counting._iter_stretches

    def end_and_iterate(process, mappings):
        child.kill()
        child.wait()
        return [] if process.pid == child.pid else iter_stretches(process, mappings)

    monkeypatch.setattr(_page_counting, "_iter_stretches", end_and_iterate)
    with pytest.raises(cowd.Aborted):
        cowd.mappings(child.pid, backend="local")
