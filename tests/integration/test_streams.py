# SPDX-License-Identifier: Apache-2.0
"""StreamPageFlags of a real daemon: how it fails, and when it stops.

That its answers are right is shown by tests/kernel. Here is one process whose pages are asked about
again and again: much to read, and answers that nobody has to keep.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from cowdaemon.errors import Code
from cowdaemon.limits import CALLS_PER_WORKER, PAGES_PER_CALL, RANGES_PER_CALL
from cowproto.v1 import pageflags_pb2, twins_pb2
from harness.changed_zygote import in_zygote
from harness.comparisons import make_request
from harness.daemon import ROOT, StartDaemon
from harness.endings import ENDINGS
from harness.outcomes import ABSENT, ABSENT_PID, DENIED, GONE, KERNEL_THREAD, WITHOUT_MEMORY
from harness.programs import (
    GAMES,
    NOBODY,
    PAGE_BYTES,
    Caller,
    Program,
    StartCaller,
    StartSubject,
    Subject,
    User,
)
from harness.streams import begin_stream, finish_stream, try_stream

READER = ROOT / "tests" / "integration" / "stream_reader.py"
TIMES = 200
"""So often all pages of a subject are asked about in one call: 13 million pages."""
READ_BYTES = PAGES_PER_CALL * 3 * 8
"""What a worker reads for as many pages: two looks at their entries, and their flags."""
MOST_PIECES = 40
"""Read for a client that takes no more: those under way, and what gRPC and sockets hold of them."""
COMPARED_BYTES = PAGES_PER_CALL * 4 * 8
"""The same for two processes: two looks at the entries of each."""
MOST_COMPARED = 60
"""Answers about them are smaller, so gRPC and sockets hold more."""
SMALL_SCANS = "limits.SCANNED_PAGES = 1 << 14"
MOST_CHUNKS = 200_000
"""So small, of so many more as a terabyte makes, that 256 times: gRPC holds a good many of them."""
LOOK_SECONDS = 0.05
SETTLED_LOOKS = 5
SECONDS = 30.0
SOON_ASK_AGAIN = in_zygote("from cowdaemon import limits\nlimits.TARGET_KEPT_SECONDS = 0.01")
GRANT = """
[[grant]]
group = "operator"
detail = "pages"
"""
INSPECTOR = NOBODY._replace(groups=(37,))


class Taken(NamedTuple):
    """What responses were like, and how the call failed if it did."""

    responses: list[tuple[int, int, int, list[str]]]
    outcome: tuple[str, str] | None


class StreamReader(Program):
    """The program; its calls are numbered from 0."""

    def __init__(self, user: User, socket_path: Path) -> None:
        super().__init__(user.command([sys.executable, str(READER), str(socket_path)]))
        self.read()

    def begin(self, subject: Subject, times: int = TIMES) -> None:
        """Start a call about all that a subject has, many times."""
        wanted = pageflags_pb2.PageRange(
            address=subject.address, count=subject.description["count"]
        )
        request = pageflags_pb2.StreamPageFlagsRequest(pid=subject.pid, ranges=[wanted] * times)
        self.write({"begin": request.SerializeToString().hex()})
        self.read()

    def begin_comparison(self, subject: Subject) -> None:
        """Start a call that compares all that a subject and its child have, many times."""
        wanted = [(subject.address, subject.description["count"])] * TIMES
        request = make_request(subject.pid, subject.description["child"], wanted)
        self.write({"compare": request.SerializeToString().hex()})
        self.read()

    def take(self, most: int, index: int = 0) -> Taken:
        """Return the next responses: of pages that have all been written, or of no page."""
        self.write({"take": most, "index": index})
        answer = self.read(SECONDS)
        for _, count, listed, states in answer["taken"]:
            assert (listed, states) in ((count, ["PAGE_STATE_ANON"]), (0, []))
        return Taken(answer["taken"], answer["failure"] and name_failure(*answer["failure"]))

    def cancel(self, index: int = 0) -> None:
        """Want no more."""
        self.write({"cancel": index})
        self.read()


def name_failure(code: int, details: str) -> tuple[str, str]:
    """Return the name of a code and the reason."""
    status = twins_pb2.Status.FromString(bytes.fromhex(details))
    reasons = [twins_pb2.ErrorInfo.FromString(detail.value).reason for detail in status.details]
    return Code(code).name, reasons[0] if reasons else ""


@pytest.fixture
def start_reader() -> Iterator[Any]:
    """Return a function that starts a reader of streams."""
    with ExitStack() as stack:

        def start(user: User, socket_path: Path) -> StreamReader:
            reader = StreamReader(user, socket_path)
            stack.callback(reader.close)
            return reader

        yield start


def await_settled_bytes(pid: int) -> int:
    """Return what a process has read of files once it reads no more."""
    most, looks, deadline = 0, 0, time.monotonic() + SECONDS
    while looks < SETTLED_LOOKS:
        assert time.monotonic() < deadline
        time.sleep(LOOK_SECONDS)  # nobody tells that nothing happens
        fields = Path(f"/proc/{pid}/io").read_text().split()
        now = int(fields[fields.index("rchar:") + 1])
        looks = looks + 1 if now == most else 0
        most = now
    return most


def count_threads(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def test_every_refusal(nobody: Caller, start_subject: StartSubject) -> None:
    """Before anything is told."""
    mine, theirs = start_subject("threaded"), start_subject("anonymous", user=GAMES)
    undumpable, zombie = start_subject("undumpable"), start_subject("zombie")
    good = (mine.address, 1)
    ticks = nobody.get_page_flags(mine.pid, mine.address).start_time_ticks
    invalid = "INVALID_ARGUMENT"
    refused: list[tuple[int, list[tuple[int, int]], int, tuple[str, str] | None]] = [
        (mine.pid, [good], 0, None),
        (mine.pid, [good], ticks, None),
        (mine.pid, [good] * RANGES_PER_CALL, 0, None),
        (mine.pid, [], 0, (invalid, "INVALID_RANGE_COUNT")),
        (mine.pid, [good] * (RANGES_PER_CALL + 1), 0, (invalid, "INVALID_RANGE_COUNT")),
        (mine.pid, [good, (mine.address + 1, 1)], 0, (invalid, "UNALIGNED_ADDRESS")),
        (mine.pid, [good, (mine.address, 0)], 0, (invalid, "INVALID_COUNT")),
        (mine.pid, [good, (PAGE_BYTES, 2**64 // PAGE_BYTES)], 0, (invalid, "RANGE_OVERFLOW")),
        (mine.pid, [(0, 2**64 - 1)], 0, (invalid, "RANGE_OVERFLOW")),
        (0, [good], 0, (invalid, "INVALID_PID")),
        (-1, [good], 0, (invalid, "INVALID_PID")),
        (mine.pid, [good, (2**63, 1)], 0, ("OUT_OF_RANGE", "OUT_OF_ADDRESS_SPACE")),
        (mine.pid, [(0, 2**64 // PAGE_BYTES)], 0, ("OUT_OF_RANGE", "OUT_OF_ADDRESS_SPACE")),
        (mine.pid, [good], ticks + 1, ("FAILED_PRECONDITION", "START_TIME_DIFFERS")),
        (mine.description["thread"], [good], 0, ABSENT),
        (ABSENT_PID, [good], 0, ABSENT),
        (theirs.pid, [good], 0, DENIED),
        (undumpable.pid, [good], 0, DENIED),
        (zombie.description["zombie"], [good], 0, WITHOUT_MEMORY),
    ]
    for pid, ranges, expected_ticks, outcome in refused:
        assert try_stream(nobody, pid, ranges, expected_ticks) == outcome
    assert try_stream(nobody, KERNEL_THREAD, [good]) in {DENIED, ABSENT, WITHOUT_MEMORY}


def test_most_that_can_be_asked_for_fits_a_request(
    nobody: Caller, start_subject: StartSubject
) -> None:
    """As many ranges as are allowed, each as long on the wire as can be."""
    subject = start_subject("anonymous")
    ranges = [(2**64 - PAGE_BYTES, 2**64 - 1)] * RANGES_PER_CALL
    outcome = try_stream(nobody, subject.pid, ranges, 2**64 - 1)
    assert outcome == ("INVALID_ARGUMENT", "RANGE_OVERFLOW")
    most = nobody.get_server_info().maximum_range_count
    assert most == RANGES_PER_CALL


@pytest.mark.parametrize("ending", ENDINGS)
def test_process_that_ends_in_mid_stream(
    start_daemon: StartDaemon, start_reader: Any, start_subject: StartSubject, ending: str
) -> None:
    """What has been read is told whole, and then the call fails: nothing is absent for that.

    Seen to fail with what is not read any more filled up with zeros, and no look whether it lives.
    """
    daemon = start_daemon()
    subject = start_subject("large")
    reader = start_reader(NOBODY, daemon.socket_path)
    reader.begin(subject)
    assert len(reader.take(3).responses) == 3
    if ending == "exit":
        subject.kill()
    else:
        subject.write({"execute": True})
        subject.write({"heard": "by the program that is executed"})
        subject.read()
    taken = reader.take(TIMES)
    assert taken.outcome == GONE
    assert len(taken.responses) < MOST_PIECES
    assert all(listed for _, _, listed, _ in taken.responses)


def test_process_of_which_nothing_is_there_ends_in_mid_stream(
    start_daemon: StartDaemon, start_reader: Any, start_subject: StartSubject
) -> None:
    """PAGEMAP_SCAN finds no less in it than before. Seen to fail with is_alive() always true."""
    daemon = start_daemon(change=in_zygote(f"from cowdaemon import limits\n{SMALL_SCANS}"))
    subject = start_subject("reserved-empty")
    reader = start_reader(NOBODY, daemon.socket_path)
    reader.begin(subject, RANGES_PER_CALL)
    assert len(reader.take(3).responses) == 3
    subject.kill()
    taken = reader.take(MOST_CHUNKS)
    assert taken.outcome == GONE
    assert len(taken.responses) < MOST_CHUNKS


def test_access_that_is_lost_in_mid_stream(
    start_daemon: StartDaemon, start_reader: Any, start_subject: StartSubject
) -> None:
    """Seen to fail without asking again while the call lasts."""
    daemon = start_daemon(change=SOON_ASK_AGAIN, config=GRANT)
    subject = start_subject("large")
    reader = start_reader(NOBODY, daemon.socket_path)
    by_grant = start_reader(INSPECTOR, daemon.socket_path)
    for each in (reader, by_grant):
        each.begin(subject)
        assert len(each.take(3).responses) == 3
    subject.write({"undumpable": True})
    subject.read()
    taken = reader.take(TIMES)
    assert taken.outcome == DENIED
    assert len(taken.responses) < MOST_PIECES
    taken = by_grant.take(TIMES)
    assert taken.outcome is None
    assert len(taken.responses) == TIMES - 3


@pytest.mark.parametrize("way", ["cancelled", "unread", "killed"])
def test_client_that_takes_no_more_stops_the_reading(
    start_daemon: StartDaemon, start_reader: Any, start_subject: StartSubject, way: str
) -> None:
    """What is read ahead for it is bounded. Seen to fail with a read-ahead that is not."""
    daemon = start_daemon()
    subject = start_subject("large")
    reader = start_reader(NOBODY, daemon.socket_path)
    reader.begin(subject)
    assert len(reader.take(1).responses) == 1
    [worker] = daemon.tree().workers
    if way == "cancelled":
        reader.cancel()
    elif way == "killed":
        reader.kill()
    assert await_settled_bytes(worker) < MOST_PIECES * READ_BYTES
    if way == "unread":
        assert len(reader.take(TIMES).responses) == TIMES - 1
        assert await_settled_bytes(worker) > TIMES * READ_BYTES / 2  # it is what is looked at


@pytest.mark.parametrize("way", ["cancelled", "unread"])
def test_client_that_takes_no_more_stops_a_comparison(
    start_daemon: StartDaemon, start_reader: Any, start_subject: StartSubject, way: str
) -> None:
    """As it does a stream. Seen to fail with a read-ahead that is not bounded."""
    daemon = start_daemon()
    subject = start_subject("large-forked")
    reader = start_reader(NOBODY, daemon.socket_path)
    reader.begin_comparison(subject)
    assert len(reader.take(1).responses) == 1
    [worker] = daemon.tree().workers
    if way == "cancelled":
        reader.cancel()
    assert await_settled_bytes(worker) < MOST_COMPARED * COMPARED_BYTES
    if way == "unread":
        assert len(reader.take(TIMES).responses) == TIMES - 1
        assert await_settled_bytes(worker) > TIMES * COMPARED_BYTES / 2


def test_threads_of_a_stream_end_with_it(
    start_daemon: StartDaemon, start_reader: Any, start_subject: StartSubject
) -> None:
    """Those that read for all calls stay. Seen to fail with what is read ahead never abandoned.

    gRPC has some that come and go: what stays behind would make even the fewest more and more.
    """
    daemon = start_daemon()
    subject = start_subject("large")
    reader = start_reader(NOBODY, daemon.socket_path)

    counts = []
    for index in range(4 * CALLS_PER_WORKER):
        reader.begin(subject)
        assert len(reader.take(1, index).responses) == 1
        reader.cancel(index)
        [worker] = daemon.tree().workers
        await_settled_bytes(worker)
        counts.append(count_threads(worker))
    half = len(counts) // 2
    assert min(counts[half:]) <= max(counts[:half])


def test_calls_that_were_cancelled_give_back_their_threads(
    start_caller: StartCaller, start_subject: StartSubject
) -> None:
    """Every one of a worker's is busy, for longer than a call waits."""
    subject = start_subject("large")
    ranges = [(subject.address, subject.description["count"])] * RANGES_PER_CALL
    callers = [start_caller() for _ in range(CALLS_PER_WORKER)]
    for caller in callers:
        begin_stream(caller, subject.pid, ranges, most=1)
    for caller in callers:
        assert len(finish_stream(caller)) == 1
    assert callers[0].get_server_info().version


def test_deadline_ends_a_stream(nobody: Caller, start_subject: StartSubject) -> None:
    subject = start_subject("large")
    ranges = [(subject.address, subject.description["count"])] * RANGES_PER_CALL
    begin_stream(nobody, subject.pid, ranges, seconds=0.05)
    answer = nobody.read()
    assert answer["code"] == Code.DEADLINE_EXCEEDED
    assert nobody.get_page_flags(subject.pid, subject.address).state[0]


def test_others_are_served_beside_streams_that_nobody_reads(
    start_daemon: StartDaemon,
    start_reader: Any,
    start_caller: StartCaller,
    start_subject: StartSubject,
) -> None:
    """Of the same credential as long as a thread is left, of others always."""
    daemon = start_daemon()
    subject, theirs = start_subject("large"), start_subject("anonymous", user=GAMES)
    readers = [start_reader(NOBODY, daemon.socket_path) for _ in range(CALLS_PER_WORKER)]
    for reader in readers[1:]:
        reader.begin(subject)
        assert len(reader.take(1).responses) == 1
    same = start_caller(NOBODY, daemon.socket_path)
    other = start_caller(GAMES, daemon.socket_path)
    assert same.get_page_flags(subject.pid, subject.address).state[0]
    begin_stream(same, subject.pid, [(subject.address, PAGES_PER_CALL)])
    assert len(finish_stream(same)) == 1
    readers[0].begin(subject)
    assert len(readers[0].take(1).responses) == 1
    assert other.get_page_flags(theirs.pid, theirs.address).state[0]
    readers[0].kill()
    assert same.get_page_flags(subject.pid, subject.address).state[0]
