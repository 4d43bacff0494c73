# SPDX-License-Identifier: Apache-2.0
"""Whole processes: how many of their pages are what, and what two of them have in common.

Runs with the caller's own rights. Comparing takes frames, so it needs the daemon; the numbers of
one process do not.
"""

from collections.abc import Iterable, Iterator
from mmap import PAGESIZE
from operator import attrgetter
from typing import Final, SupportsIndex

from cowd._arguments import as_pids
from cowd._backend import Backend, BackendName, ask
from cowd._client import Client
from cowd._comparison_runs import cut_at_borders
from cowd._comparisons import ComparedPages, Comparison, MappingComparison, add_up
from cowd._errors import AccessDenied, InternalError, Unavailable
from cowd._mappings import MappingList
from cowd._shares import Shares, count_shares
from cowd._summaries import ProcessSummary

__all__ = [
    "compare",
    "compare_mappings",
    "iter_shares",
    "mappings",
    "open_client",
    "summarize",
]

_OUTSIDE: Final = b"[vsyscall]"
"""Past the end of the address space: pagemap has nothing to say of it."""
_CLOSE_BYTES: Final = 1 << 28
"""Of empty addresses, which cost less than a range more, also where all of them are looked at."""


def mappings(
    pid: int, *, backend: Backend | BackendName = "auto", address: str | None = None
) -> MappingList:
    """Return all mappings of a process, with how many of their pages are what.

    Args:
        pid: of the process, not of a thread.
        backend: "daemon"; "local", the kernel alone; "auto", the second where the first cannot be
            reached or does not let you look; or one of your own, `cowd.Client` or `cowd.Local`.
        address: of the daemon, as in `cowd.Client`.

    Returns:
        Mappings in address order. The `page_counts` of each add up to its size.

    Raises:
        Error: a subclass of it, see `cowd.Error`.
    """
    listed, _ = ask(
        backend, lambda chosen: chosen.list_mappings(pid, with_page_counts=True), address=address
    )
    return listed


def summarize(
    pids: Iterable[SupportsIndex] | None = None,
    *,
    backend: Backend | BackendName = "auto",
    address: str | None = None,
) -> list[ProcessSummary]:
    """Return how many pages of processes are what, by kind of mapping.

    Args:
        pids: of processes, not of threads; None for every process that you may inspect.
        backend: as in `cowd.mappings`. The daemon may have been told to let you see more processes
            than the kernel alone does.
        address: of the daemon, as in `cowd.Client`.

    Returns:
        A summary of each pid in their order, one that cannot be answered about with its `failure`;
        of all processes, in ascending order of pids, without those.

    Raises:
        Error: a subclass of it, see `cowd.Error`, if it concerns no single process.
    """
    wanted = None if pids is None else as_pids(pids)  # which may be asked for twice
    found, _ = ask(
        backend, lambda chosen: list(chosen.summarize_processes(wanted)), address=address
    )
    return found


def compare(pid: int, other_pid: int, *, address: str | None = None) -> Comparison:
    """Return what two whole processes have in common, mapping by mapping.

    After a fork this says what the two still share, and what has been copied, by whom. There is no
    answer without the daemon: whether two pages have one frame is for root.

    Args:
        pid: of the first process, not of a thread: of the parent, say.
        other_pid: of the second one.
        address: of the daemon, as in `cowd.Client`.

    Returns:
        A `MappingComparison` wherever one of them has a mapping, cut at the borders of the mappings
        of both, in address order. What is mapped after it began is not in it, and what is unmapped
        counts as NEITHER.

    Raises:
        Error: a subclass of it, see `cowd.Error`, for either process.
    """
    with open_client(address) as client:
        return compare_mappings(client, client.list_mappings(pid), client.list_mappings(other_pid))


def open_client(address: str | None) -> Client:
    """Return a client of a daemon that is there.

    Raises:
        Unavailable: there is none.
        AccessDenied: the caller may not connect.
    """
    client = Client(address)
    try:
        client.get_server_info()
    except (Unavailable, AccessDenied) as error:
        client.close()
        raise type(error)(
            f"{error}. Comparing processes needs the daemon: `cowctl doctor` says what keeps it "
            "from answering",
            reason=error.reason,
        ) from error
    except BaseException:
        client.close()
        raise
    return client


def compare_mappings(client: Client, listed: MappingList, other: MappingList) -> Comparison:
    """Return what two processes have in common, whose mappings are these."""
    segments = [
        segment
        for segment in cut_at_borders(listed.mappings, other.mappings)
        if _OUTSIDE not in (mapping.path for mapping in segment.mappings if mapping is not None)
    ]
    told = client.count_compared_pages(
        listed.pid,
        other.pid,
        [(segment.start, segment.page_count) for segment in segments],
        expected_start_time_ticks=listed.start_time_ticks,
        other_expected_start_time_ticks=other.start_time_ticks,
    )
    compared = []
    for segment in segments:
        totals: list[ComparedPages] = []
        address = segment.start
        while address < segment.end:
            part = next(told, None)
            if part is None or part.address != address:
                raise InternalError("cowd's answer is not about the pages asked for")
            address += part.page_count * PAGESIZE
            totals += part.totals
        compared.append(
            MappingComparison(segment.start, segment.end, *segment.mappings, tuple(add_up(totals)))
        )
    return Comparison(
        pid=listed.pid,
        other_pid=other.pid,
        page_size_bytes=PAGESIZE,
        start_time_ticks=listed.start_time_ticks,
        other_start_time_ticks=other.start_time_ticks,
        mappings=compared,
    )


def iter_shares(client: Client, listed: MappingList, other: MappingList) -> Iterator[Shares]:
    """Yield who has which pages of two processes, whose mappings are these; not who has copied.

    Part by part, as it is found; all together is the answer. That takes less than
    `compare_mappings`: mappings that lie close are asked about as one, and so is what lies between
    them, of which both have nothing.
    """
    ranges: list[list[int]] = []
    for mapping in sorted((*listed.mappings, *other.mappings), key=attrgetter("start_address")):
        if mapping.path == _OUTSIDE:
            continue
        if not ranges or mapping.start_address - ranges[-1][1] > _CLOSE_BYTES:
            ranges.append([mapping.start_address, mapping.end_address])
        ranges[-1][1] = max(ranges[-1][1], mapping.end_address)
    told = client.count_compared_pages(
        listed.pid,
        other.pid,
        [(start, (end - start) // PAGESIZE) for start, end in ranges],
        expected_start_time_ticks=listed.start_time_ticks,
        other_expected_start_time_ticks=other.start_time_ticks,
        with_copiers=False,
    )
    for part in told:
        yield count_shares(part.totals)
