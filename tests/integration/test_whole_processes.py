# SPDX-License-Identifier: Apache-2.0
"""The library about whole processes, with a real daemon: counted, compared, and from asyncio.

Each process of a test has its own memory for what the test is about; of its other memory only sums
are known, which smaps has as well.
"""

import asyncio
import ctypes
import mmap
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Iterator
from pathlib import Path

import cowd
import pytest
from cowd import MemoryGroup, PageComparison
from cowdaemon.limits import CALLS_PER_WORKER
from harness.daemon import Daemon
from harness.outcomes import ABSENT_PID, KERNEL_THREAD
from harness.programs import PAGE_BYTES

SECONDS = 20.0

FORK = """
import mmap, os, sys
PAGE = mmap.PAGESIZE
memory = mmap.mmap(-1, 100 * PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory.madvise(mmap.MADV_NOHUGEPAGE)
for page in range(40):
    memory[page * PAGE] = 1
file = mmap.mmap(os.open(sys.argv[1], os.O_RDONLY), 20 * PAGE, mmap.MAP_PRIVATE)
file[0] = 1
sum(file[page * PAGE] for page in range(20))
read_end, write_end = os.pipe()
child = os.fork()
if child == 0:
    for page in range(10):  # copied by the child
        memory[page * PAGE] = 2
    memory[50 * PAGE] = 2  # its own
    file[PAGE] = 2
    os.write(write_end, b"x")
    sys.stdin.read()
    os._exit(0)
os.read(read_end, 1)
for page in range(5, 12):  # 5 to 9 by both, 10 and 11 by the parent
    memory[page * PAGE] = 3
memory[60 * PAGE] = 3
import ctypes
maps = [line for line in open("/proc/self/maps") if sys.argv[1] in line]
address = int(maps[0].split("-")[0], 16)
print(child, ctypes.addressof(ctypes.c_char.from_buffer(memory)), address, flush=True)
sys.stdin.read()
os.waitpid(child, 0)
"""


class Forked:
    """A parent and its child, and what both have: 100 pages of memory, 20 of a file."""

    def __init__(self, file: Path) -> None:
        file.write_bytes(b"f" * 20 * PAGE_BYTES)
        self.process = subprocess.Popen(
            [sys.executable, "-c", FORK, str(file)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout
        self.pid = self.process.pid
        self.child, self.memory, self.file = map(int, self.process.stdout.readline().split())


@pytest.fixture
def forked(public_directory: Path) -> Iterator[Forked]:
    """Return the two: each has written to some pages since the fork."""
    made = Forked(public_directory / "file")
    yield made
    made.process.communicate()


def test_a_family_is_what_it_was_made(daemon: Daemon, forked: Forked) -> None:
    address = str(daemon.socket_path)
    told = cowd.family(forked.pid, address=address)
    assert (told.pid, told.skipped) == (forked.pid, ())
    [child] = told.children
    assert child.pid == forked.child
    assert child.groups[MemoryGroup.FILE].copied_by_child == 1
    with cowd.Client(address) as client:
        parts = client.count_compared_pages(forked.pid, forked.child, [(forked.memory, 100)])
        numbers = cowd.Comparison(
            *(forked.pid, forked.child, PAGE_BYTES, 0, 0),
            [cowd.MappingComparison(0, 0, None, None, part.totals) for part in parts],
        )
        tells_copiers = client.get_server_info().kernel_features.page_copiers
    due = {"SAME": 28, "DIFFERENT": 12, "ONLY_FIRST": 1, "ONLY_SECOND": 1, "NEITHER": 58}
    for name, page_count in due.items():
        assert numbers.count(PageComparison[name]) == page_count
    copiers = {
        each.copied_by.name: each.page_count
        for each in numbers.totals
        if each.comparison is PageComparison.DIFFERENT
    }
    if tells_copiers:
        assert copiers == {"FIRST": 2, "SECOND": 5, "BOTH": 5}
    else:
        assert copiers == {"UNSPECIFIED": 12}


def test_pages_are_those_of_a_chunk(daemon: Daemon, forked: Forked) -> None:
    """Page by page, and of the file as well."""
    neither = PageComparison.NEITHER
    with cowd.Client(str(daemon.socket_path)) as client:
        ranges = [(forked.memory, 100), (forked.file, 20)]
        found = {
            start + number * PAGE_BYTES: comparison
            for chunk in client.compare_pages(forked.pid, forked.child, ranges)
            for start, number, comparison in list_pages(chunk)
        }
    memory, file = (
        {page: found.get(start + page * PAGE_BYTES, neither) for page in range(count)}
        for start, count in ranges
    )
    due = dict.fromkeys(range(12), PageComparison.DIFFERENT)
    due |= dict.fromkeys(range(12, 40), PageComparison.SAME)
    due |= {50: PageComparison.ONLY_SECOND, 60: PageComparison.ONLY_FIRST}
    assert {page: each for page, each in memory.items() if each != neither} == due
    assert (file[0], file[1]) == (PageComparison.SAME, PageComparison.DIFFERENT)


def list_pages(chunk: cowd.ComparisonChunk) -> Iterator[tuple[int, int, int]]:
    """Yield each page that is listed: where its stretch starts, its number there, what it is."""
    comparisons = iter(chunk.comparisons)
    for start, length in zip(chunk.stretch_addresses, chunk.stretch_page_counts, strict=True):
        for number in range(length):
            yield start, number, next(comparisons)


def read_smaps(pid: int, key: str) -> int:
    """Return the sum of a figure of all mappings, in pages."""
    lines = Path(f"/proc/{pid}/smaps").read_text().splitlines()
    return (
        sum(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))
        * 1024
        // (PAGE_BYTES)
    )


def test_a_family_adds_up_to_smaps(daemon: Daemon, forked: Forked) -> None:
    """Exactly, as both are stopped. Seen to fail where [vdso] is left out, as [vsyscall] is."""
    pids = forked.pid, forked.child
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    for pid in pids:
        wait_until_stopped(pid)
    try:
        told = cowd.family(forked.pid, address=str(daemon.socket_path))
        [child] = told.children
        for pid, counts in zip(pids, (told.parent, child.page_counts), strict=True):
            assert counts.resident == read_smaps(pid, "Rss")
            assert counts.anon == read_smaps(pid, "Anonymous")
            assert counts.anon_swapped == read_smaps(pid, "Swap")
        compared = child.comparison
        both = compared.count(PageComparison.SAME) + compared.count(PageComparison.DIFFERENT)
        assert compared.count(PageComparison.UNKNOWN) == 0
        for pid, alone in zip(
            pids, (PageComparison.ONLY_FIRST, PageComparison.ONLY_SECOND), strict=True
        ):
            due = read_smaps(pid, "Rss") + read_smaps(pid, "Swap")
            assert both + compared.count(alone) == due
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def wait_until_stopped(pid: int) -> None:
    """Wait for a process that has been told to; a grandchild sends its parent the news."""
    while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        os.sched_yield()


def test_the_kernel_alone_counts_as_the_daemon(daemon: Daemon, forked: Forked) -> None:
    """Of processes that have nothing that the README's table has."""
    address = str(daemon.socket_path)
    pids = [forked.pid, forked.child]
    for pid in pids:
        local = cowd.mappings(pid, backend="local")
        assert local == cowd.mappings(pid, backend="daemon", address=address)
    assert cowd.summarize(pids, backend="local") == cowd.summarize(pids, address=address)


def test_failures_are_those_of_the_daemon(daemon: Daemon) -> None:
    """Of processes that are asked for by pid. INVALID_PID says another sentence."""
    pids = [ABSENT_PID, KERNEL_THREAD, 0, -1]
    told = cowd.summarize(pids, address=str(daemon.socket_path))
    local = cowd.summarize(pids, backend="local")
    for one, other in zip(told, local, strict=True):
        assert (type(one.failure), one.failure.reason) == (  # type: ignore[union-attr]
            type(other.failure),
            other.failure.reason,  # type: ignore[union-attr]
        )
        assert one.pid == other.pid == other.failure.pid  # type: ignore[union-attr]


# With asyncio


@pytest.fixture
def zeros() -> Iterator[tuple[int, int]]:
    """Return address and number of pages of memory that has a page of zeros everywhere."""
    page_count = 1 << 16
    memory = mmap.mmap(-1, page_count * PAGE_BYTES, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    assert not any(memory[::PAGE_BYTES])
    exported = (ctypes.c_char * 1).from_buffer(memory)
    yield ctypes.addressof(exported), page_count
    del exported
    memory.close()


def test_streams_that_tasks_leave_end_in_the_daemon(daemon: Daemon, zeros: tuple[int, int]) -> None:
    """It works on four calls at once: the last one would not be answered in time.

    Seen to fail where calls are neither cancelled nor forgotten.
    """

    async def ask() -> int:
        address = str(daemon.socket_path)
        async with cowd.aio.Client(address) as client:
            for _ in range(3 * CALLS_PER_WORKER):
                stream = client.stream_page_flags(os.getpid(), [zeros] * 200)
                await anext(stream)
                waiting = asyncio.create_task(collect(stream))
                await asyncio.sleep(0)
                waiting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await waiting
                del stream
            async with cowd.aio.Client(address, timeout_seconds=5) as hasty:
                listed = await hasty.list_mappings(os.getpid(), with_page_counts=True)
                return len(listed.mappings)

    assert asyncio.run(asyncio.wait_for(ask(), 3 * SECONDS))


async def collect(iterator: AsyncIterator[cowd.PageChunk]) -> int:
    return sum([chunk.page_count async for chunk in iterator])


def test_tasks_ask_side_by_side(daemon: Daemon, forked: Forked, zeros: tuple[int, int]) -> None:
    """And get what they get one after the other."""
    address = str(daemon.socket_path)

    async def ask() -> list[object]:
        async with cowd.aio.Client(address) as client:
            return list(
                await asyncio.gather(
                    collect(client.stream_page_flags(os.getpid(), [zeros] * 20)),
                    client.list_mappings(forked.pid, with_page_counts=True),
                    list_all(client.summarize_processes([forked.pid, forked.child])),
                    catch(client.list_mappings(KERNEL_THREAD)),
                )
            )

    read, listed, told, error = asyncio.run(asyncio.wait_for(ask(), 3 * SECONDS))
    assert read == 20 * zeros[1]
    assert listed == cowd.mappings(forked.pid, address=address)
    assert told == cowd.summarize([forked.pid, forked.child], address=address)
    assert isinstance(error, cowd.FailedPrecondition)
    assert (error.reason, error.pid) == ("NO_ADDRESS_SPACE", KERNEL_THREAD)


async def list_all(iterator: AsyncIterator[cowd.ProcessSummary]) -> list[cowd.ProcessSummary]:
    return [each async for each in iterator]


async def catch(question: Awaitable[object]) -> object:
    try:
        return await question
    except cowd.Error as error:
        return error
