# SPDX-License-Identifier: Apache-2.0
"""The backend without a daemon, on pages of this process and its children."""

import errno
import mmap
import os
import signal
import threading

import cowd
import pytest
from cowd import (
    Local,
    MappingKind,
    PageAttributes,
    PageState,
    _page_scan,
    _pagemap,
    _pages,
    _process,
)
from cowd._buffers import Span, as_array

PAGE = mmap.PAGESIZE
WRITABLE = mmap.PROT_READ | mmap.PROT_WRITE


def map_anonymously(page_count):
    return mmap.mmap(-1, page_count * PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, WRITABLE)


def address_of(memory):
    return as_array(memory).ctypes.data


def read_states(memory, **options):
    span = Span(address_of(memory), len(memory))
    flags = Local().get_page_flags(os.getpid(), span.address, span.page_count, **options)
    return [PageState(state).name for state in flags.states]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"original".ljust(PAGE) * 4)
    with path.open("r+b") as opened:
        yield opened


@pytest.mark.usefixtures("kernel")
def test_copies_of_a_file(file):
    with mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE, WRITABLE) as memory:
        memory[0] = memory[2 * PAGE] = 1
        first, second, third, fourth = read_states(memory)
    assert (first, third) == ("ANON", "ANON")
    assert {second, fourth} <= {"FILE", "ABSENT"}


@pytest.mark.usefixtures("kernel")
def test_a_shared_mapping_has_the_pages_of_the_file(file):
    with mmap.mmap(file.fileno(), 0, mmap.MAP_SHARED, WRITABLE) as memory:
        memory[0] = 1
        assert read_states(memory)[0] == "FILE"


def test_the_page_of_zeros_is_told_or_said_to_be_unknown(kernel):
    with map_anonymously(4) as memory:
        memory[0] = 1
        memory[PAGE], memory[3 * PAGE]
        zero = "ZERO" if kernel else "UNKNOWN"
        assert read_states(memory) == ["ANON", zero, "ABSENT", zero]


def test_the_answer_says_that_it_has_no_flags():
    with map_anonymously(1) as memory:
        flags = Local().get_page_flags(os.getpid(), address_of(memory), 1)
    assert (flags.kpageflags, flags.masks) == (None, None)
    assert (flags.pid, flags.page_size_bytes) == (os.getpid(), PAGE)


def test_exclusive_is_told():
    with map_anonymously(1) as memory:
        memory[0] = 1
        flags = Local().get_page_flags(os.getpid(), address_of(memory), 1)
    assert flags.attributes == bytes([PageAttributes.EXCLUSIVE])


def test_long_ranges_come_in_parts(monkeypatch):
    monkeypatch.setattr(_pages, "PAGES_PER_PART", 4)
    with map_anonymously(10) as memory:
        memory[9 * PAGE] = 1
        parts = list(Local().iter_page_flags(os.getpid(), [(address_of(memory), 10)]))
        assert [part.address - address_of(memory) for part in parts] == [0, 4 * PAGE, 8 * PAGE]
    assert [len(part.states) for part in parts] == [4, 4, 2]
    assert b"".join(part.states for part in parts)[-1] == PageState.ANON


def test_many_stretches_of_zeros_take_several_scans(monkeypatch):
    monkeypatch.setattr(_page_scan, "_REGIONS", 3)
    if not _page_scan.has_pagemap_scan():
        pytest.skip("this kernel has no PAGEMAP_SCAN")
    with map_anonymously(40) as memory:
        for page in range(0, 40, 2):
            memory[page * PAGE]
        assert read_states(memory) == ["ZERO", "ABSENT"] * 20


def test_pages_that_change_between_two_looks_are_looked_at_again(monkeypatch):
    looks = []
    read_entries = _process.Process.read_entries

    def read(process, address, count):
        looks.append(count)
        entries = read_entries(process, address, count)
        if len(looks) == 1:
            memory[PAGE] = 1
        return entries

    monkeypatch.setattr(_process.Process, "read_entries", read)
    monkeypatch.setattr(_page_scan, "has_pagemap_scan", lambda: True)
    with map_anonymously(3) as memory:
        for page in range(3):
            memory[page * PAGE]
        assert read_states(memory) == ["ZERO", "ANON", "ZERO"]
    assert looks == [3, 3, 1]


def test_pages_that_never_settle_are_unknown_and_unstable(monkeypatch):
    high = [0]

    def read(process, address, count):  # noqa: ARG001
        high[0] ^= 0x04
        return bytes([0, 0, 0, 0, 0, 0, 0, 0x80 | high[0]]) * count

    monkeypatch.setattr(_process.Process, "read_entries", read)
    with map_anonymously(2) as memory:
        flags = Local().get_page_flags(os.getpid(), address_of(memory), 2)
    assert flags.states == bytes([PageState.UNKNOWN] * 2)
    assert flags.attributes == bytes([PageAttributes.UNSTABLE] * 2)


def test_mappings_of_this_process(file):
    with mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE, WRITABLE) as memory:
        listed = Local().list_mappings(os.getpid())
        [mapping] = [each for each in listed.mappings if each.path == os.fsencode(file.name)]
        assert mapping.start_address == address_of(memory)
        assert mapping.kind is MappingKind.PRIVATE_FILE
    assert listed.mappings == sorted(listed.mappings, key=lambda each: each.start_address)


def test_another_process_of_ones_own(child):
    listed = Local().list_mappings(child.pid)
    [stack] = [each for each in listed.mappings if each.path == b"[stack]"]
    count = (stack.end_address - stack.start_address) // PAGE
    flags = Local().get_page_flags(
        child.pid,
        stack.start_address,
        count,
        expected_start_time_ticks=listed.start_time_ticks,
    )
    assert PageState.ANON in flags.states
    assert flags.start_time_ticks == listed.start_time_ticks > 0


def failure(kind, reason, ask, *arguments, **options):
    with pytest.raises(kind) as caught:
        ask(*arguments, **options)
    assert caught.value.reason == reason
    return str(caught.value)


def test_another_start_time_is_another_process(child):
    text = failure(
        cowd.FailedPrecondition,
        "START_TIME_DIFFERS",
        Local().list_mappings,
        child.pid,
        expected_start_time_ticks=1,
    )
    assert "another process" in text


def test_no_such_process(child):
    child.kill()
    child.wait()
    failure(cowd.NoSuchProcess, "NO_SUCH_PROCESS", Local().list_mappings, child.pid)


def test_a_thread_is_no_process():
    thread_ids, leave = [], threading.Event()
    started = threading.Event()

    def run():
        thread_ids.append(threading.get_native_id())
        started.set()
        leave.wait()

    thread = threading.Thread(target=run)
    thread.start()
    started.wait()
    try:
        failure(cowd.NoSuchProcess, "NO_SUCH_PROCESS", Local().list_mappings, thread_ids[0])
    finally:
        leave.set()
        thread.join()


def test_a_zombie_has_no_address_space(child):
    child.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    failure(cowd.FailedPrecondition, "NO_ADDRESS_SPACE", Local().list_mappings, child.pid)


def test_a_process_that_ends_while_it_is_read(child):
    parts = Local().iter_page_flags(child.pid, [(0x1000, 1), (0x2000, 1)])
    next(parts)
    child.kill()
    child.wait()
    failure(cowd.Aborted, "PROCESS_GONE", next, parts)


@pytest.mark.parametrize(
    ("kind", "reason", "arguments"),
    [
        (cowd.InvalidRequest, "INVALID_PID", (0, 0, 1)),
        (cowd.InvalidRequest, "INVALID_PID", (-5, 0, 1)),
        (cowd.InvalidRequest, "INVALID_PID", (1 << 31, 0, 1)),
        (cowd.InvalidRequest, "UNALIGNED_ADDRESS", (os.getpid(), 5, 1)),
        (cowd.InvalidRequest, "INVALID_COUNT", (os.getpid(), 0, 0)),
        (cowd.InvalidRequest, "INVALID_COUNT", (os.getpid(), 0, -1)),
        (cowd.InvalidRequest, "RANGE_OVERFLOW", (os.getpid(), (1 << 64) - PAGE, 2)),
        (cowd.InvalidRequest, "RANGE_OVERFLOW", (os.getpid(), -PAGE, 1)),
        (cowd.InvalidRequest, "OUT_OF_ADDRESS_SPACE", (os.getpid(), 0xFFFFFFFFFF600000, 1)),
    ],
)
def test_what_cannot_be_asked(kind, reason, arguments):
    failure(kind, reason, Local().get_page_flags, *arguments)


@pytest.mark.parametrize("arguments", [("1", 0, 1), (1.5, 0, 1), (None, 0, 1)])
def test_a_pid_must_be_a_number(arguments):
    with pytest.raises(cowd.InvalidRequest, match="is no pid: give an int"):
        Local().get_page_flags(*arguments)


@pytest.mark.parametrize(
    ("arguments", "options"),
    [(("0", 1), {}), ((0, 1.0), {}), ((0, 1), {"expected_start_time_ticks": "5"})],
)
def test_the_rest_must_be_numbers_too(arguments, options):
    with pytest.raises(cowd.InvalidRequest, match="give an int"):
        Local().get_page_flags(os.getpid(), *arguments, **options)


def test_one_call_has_the_bounds_of_the_daemons():
    with pytest.raises(cowd.InvalidRequest, match="ask for 1 to 65536 pages a call"):
        Local().get_page_flags(os.getpid(), 0, 65_537)


def test_a_process_that_ends_before_the_second_look_has_gone(child, monkeypatch):
    """The ioctl then says ESRCH."""
    mappings = Local().list_mappings(child.pid).mappings
    address = next(each.start_address for each in mappings if each.path == b"[stack]")

    def end_and_scan(*arguments):
        child.kill()
        child.wait()
        return scan(*arguments)

    scan = _page_scan._scan
    assert _page_scan.has_pagemap_scan()
    monkeypatch.setattr(_page_scan, "_scan", end_and_scan)
    monkeypatch.setattr(_pagemap, "MAYBE_ZERO", bytes(range(256)))
    failure(cowd.Aborted, "PROCESS_GONE", Local().get_page_flags, child.pid, address, 1)


@pytest.fixture
def unprobed():
    """Have the kernel asked anew whether it has PAGEMAP_SCAN, and afterwards again."""
    _page_scan._try_pagemap_scan.cache_clear()
    yield
    _page_scan._try_pagemap_scan.cache_clear()


@pytest.mark.usefixtures("unprobed")
@pytest.mark.parametrize(
    ("number", "times"), [(errno.EMFILE, 2), (errno.ENOTTY, 1), (errno.EINVAL, 1)]
)
def test_only_an_answer_of_the_kernel_is_remembered(monkeypatch, number, times):
    asked = []

    def refuse(*_):
        asked.append(number)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(_page_scan, "_scan", refuse)
    assert not _page_scan.has_pagemap_scan()
    assert not _page_scan.has_pagemap_scan()
    assert len(asked) == times


def test_a_kernel_without_pagemap_is_said():
    error = _process._translate(FileNotFoundError(errno.ENOENT, "No such file", "pagemap"), 7)
    assert isinstance(error, cowd.FailedPrecondition)
    assert "CONFIG_PROC_PAGE_MONITOR" in str(error)


def test_ranges_must_be_pairs_of_numbers():
    with pytest.raises(cowd.InvalidRequest, match="a range is an address and a count"):
        list(Local().iter_page_flags(os.getpid(), [("0x1000", 1)]))
