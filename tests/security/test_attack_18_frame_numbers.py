# SPDX-License-Identifier: Apache-2.0
"""Attack 18: find a frame number in what the daemon says, which would help Rowhammer.

No byte that a client receives, and no line of the log, tells one. The test reads the subjects'
frames as root and searches every answer for them, in every form that a careless program might send.
Random bytes may look like a frame number: only what is found in every round, with other processes
and so other frames, counts. Swap slots are too small as numbers to search for: test_page_kinds.py
shows that such a page has no flags and documented attributes only.
"""

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from cowproto.v1 import pageflags_pb2, twins_pb2
from google.protobuf.message import Message
from harness.author import AuthorsMethod
from harness.comparisons import make_request
from harness.daemon import Daemon
from harness.kernel_flags import PAGEMAP_FRAME, PAGEMAP_PRESENT
from harness.programs import (
    EVERY,
    GAMES,
    NOBODY,
    PAGE_BYTES,
    ROOT_USER,
    Caller,
    Page,
    StartCaller,
    StartSubject,
    iter_stretches,
    parse_pages,
)
from harness.streams import Range, begin_stream

LOWEST_FRAME = 1 << 16
"""Lower ones, in the first 256 MiB, have patterns so short that they turn up by chance."""
PAGES = 8
"""Asked for one by one, of each subject."""
SHIFTS = (0, 5, 9, 12)
"""A frame number, one beside a swap type, an index of a huge page's frames, an address."""
MOST_FRAMES = 16
"""Searched for: on a small machine their patterns are short, and of many one turns up by chance."""
AROUND_PAGES = 100_000
"""Listed or not, before and behind the pages: more than are read without threads."""
ROUNDS = 3
LAST_PAGE = 2**64 - PAGE_BYTES


def encode_frame(frame: int) -> dict[str, bytes]:
    """Return the forms in which a frame number could be told, by name."""
    forms = {
        "decimal": str(frame).encode(),
        "hexadecimal": f"{frame:x}".encode(),
        "HEXADECIMAL": f"{frame:X}".encode(),
        "varint": encode_varint(frame),
        "zigzag": encode_varint(frame << 1),
        "little-endian 4": (frame & 2**32 - 1).to_bytes(4, "little"),
    }
    for shift in SHIFTS:
        for length in (5, 8):
            word = (frame << shift) & (2 ** (8 * length) - 1)
            forms[f"little-endian {length} << {shift}"] = word.to_bytes(length, "little")
            forms[f"big-endian {length} << {shift}"] = word.to_bytes(length, "big")
        forms[f"varint << {shift}"] = encode_varint(frame << shift)
        forms[f"hexadecimal << {shift}"] = f"{frame << shift:x}".encode()
    return forms


def encode_varint(number: int) -> bytes:
    """Return a number as protocol buffers write it."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*encoded, number])


def find_frames(text: bytes, frames: Iterable[int]) -> set[str]:
    """Return the names of the forms in which any of `frames` is in `text`."""
    return {name for frame in frames for name, form in encode_frame(frame).items() if form in text}


FRAME = 0x2F3A7B
"""A frame number of a machine with 24 GiB."""


@pytest.mark.parametrize(
    "leak",
    [
        pageflags_pb2.GetPageFlagsResponse(kpageflags=[0x5828, FRAME]).SerializeToString(),
        pageflags_pb2.GetPageFlagsResponse(kpageflags=[FRAME << 5]).SerializeToString(),
        pageflags_pb2.GetPageFlagsResponse(kpageflags=[FRAME | 1 << 63]).SerializeToString(),
        pageflags_pb2.GetPageFlagsResponse(start_time_ticks=FRAME).SerializeToString(),
        pageflags_pb2.GetPageFlagsResponse(attributes=[FRAME]).SerializeToString(),
        pageflags_pb2.StreamPageFlagsResponse(kpageflags=[1, FRAME]).SerializeToString(),
        pageflags_pb2.StreamPageFlagsResponse(stretch_page_count=[FRAME]).SerializeToString(),
        pageflags_pb2.ComparePagesResponse(
            totals=[pageflags_pb2.ComparedPages(page_count=FRAME)]
        ).SerializeToString(),
        pageflags_pb2.Mapping(file_offset_bytes=FRAME << 12).SerializeToString(),
        f"frame {FRAME} is busy".encode(),
        f"frame {FRAME:#x} is busy".encode(),
    ],
)
def test_the_search_can_find(leak: bytes) -> None:
    assert find_frames(b"before" + leak + b"after", [FRAME + 0x1234, FRAME])
    assert not find_frames(b"before" + leak + b"after", [FRAME + 0x1234])


@pytest.mark.parametrize("kind", ["file", "anonymous", "thp", "fork", "fork-parent"])
def test_no_answer_tells_a_frame(
    kind: str,
    daemon: Daemon,
    start_caller: StartCaller,
    start_subject: StartSubject,
    author: AuthorsMethod,
    public_directory: Path,
) -> None:
    """To no caller, root included, nor to one that is refused.

    Seen to fail with workers that tell it as flags, as a count of compared pages, in a
    sentence, in metadata, or to the log.
    """
    callers = [
        start_caller(NOBODY),
        start_caller(ROOT_USER),
        start_caller(GAMES),
        start_caller(NOBODY, suffix=["unshare", "--user"]),
    ]
    found = []
    for _ in range(ROUNDS):
        subject = start_subject(kind, *([public_directory] if kind == "file" else []))
        pages = parse_pages(subject.description)
        frames = read_frames(pages, author)
        heard = [listen(caller, pages) for caller in callers]
        found.append(find_frames(b"\n".join([*heard, daemon.log().encode()]), frames))
    assert not set.intersection(*found)


def read_frames(pages: list[Page], author: AuthorsMethod) -> set[int]:
    """Return the numbers of the frames that hold `pages`, as root reads them."""
    frames = set()
    for stretch in iter_stretches(pages):
        for frame in author.read_frames(stretch[0].pid, stretch[0].address, len(stretch)):
            if frame.entry & PAGEMAP_PRESENT:
                frames.add(frame.entry & PAGEMAP_FRAME)
    frames = {frame for frame in frames if frame >= LOWEST_FRAME}
    assert frames, "no frame that can be searched for"
    return set(sorted(frames)[:MOST_FRAMES])


def listen(caller: Caller, pages: list[Page]) -> bytes:
    """Return every byte that a caller is told when it asks about `pages`, refusals included."""
    heard = []
    for method, request in iter_questions(pages):
        caller.begin(method, request)
        heard.append(caller.finish_raw())
    caller.begin_summaries(sorted({page.pid for page in pages}))
    heard.append(caller.finish_raw())
    for pid, ranges, expected_ticks in iter_streams(pages):
        begin_stream(caller, pid, ranges, expected_ticks)
        heard.append(caller.finish_raw())
    for request in iter_comparisons(pages):
        caller.begin("ComparePages", request, most=EVERY)
        heard.append(caller.finish_raw())
    return b"\n".join(heard)


def iter_comparisons(pages: list[Page]) -> Iterator[Message]:
    """Yield requests about any two processes of them, answered and not, by lists and by totals."""
    pids = sorted({page.pid for page in pages})
    for stretch in iter_stretches(pages):
        address, count = stretch[0].address, len(stretch)
        around = address - AROUND_PAGES * PAGE_BYTES
        for pid, other_pid in itertools.product(pids, pids):
            for ranges in [(address, count)], [(around, 2 * AROUND_PAGES)], [(LAST_PAGE, 1)], []:
                for ticks, totals_only in itertools.product(
                    ((0, 0), (1, 0), (0, 1)), (True, False)
                ):
                    yield make_request(pid, other_pid, ranges, ticks, totals_only)


def iter_streams(pages: list[Page]) -> Iterator[tuple[int, list[Range], int]]:
    """Yield pid, ranges and expected start time of streams, answered and not."""
    for stretch in iter_stretches(pages):
        pid, address, count = stretch[0].pid, stretch[0].address, len(stretch)
        around = address - AROUND_PAGES * PAGE_BYTES
        for ticks in (0, 1):
            yield pid, [(address, count)], ticks
            yield pid, [(page.address, 1) for page in reversed(stretch[:PAGES])], ticks
            yield pid, [(around, 2 * AROUND_PAGES)], ticks
        yield pid, [], 0
        yield pid, [(address + 1, 1)], 0
        yield pid, [(address, 0)], 0
        yield pid, [(LAST_PAGE, 1)], 0


def iter_questions(pages: list[Page]) -> Iterator[tuple[str, Message]]:
    """Yield requests of every call there is, answered and not. A new call is asked about here."""
    yield "GetServerInfo", pageflags_pb2.GetServerInfoRequest()
    yield "/grpc.health.v1.Health/Check", twins_pb2.HealthCheckRequest()
    yield "/grpc.health.v1.Health/Check", twins_pb2.HealthCheckRequest(service="none")
    yield "Nothing", pageflags_pb2.GetServerInfoRequest()
    for stretch in iter_stretches(pages):
        pid, address = stretch[0].pid, stretch[0].address
        for ticks in (0, 1):  # any, and another than it has
            for start in (0, address + 1):
                yield (
                    "ListMappings",
                    pageflags_pb2.ListMappingsRequest(
                        pid=pid, start_address=start, expected_start_time_ticks=ticks
                    ),
                )
            for first, count in (
                (address, len(stretch)),
                (address + 1, 1),  # not aligned
                (address, 0),
                (LAST_PAGE, 1),
                *((page.address, 1) for page in stretch[:PAGES]),
            ):
                yield (
                    "GetPageFlags",
                    pageflags_pb2.GetPageFlagsRequest(
                        pid=pid, address=first, count=count, expected_start_time_ticks=ticks
                    ),
                )
