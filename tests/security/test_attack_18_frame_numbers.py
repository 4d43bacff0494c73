# SPDX-License-Identifier: Apache-2.0
"""No byte that a client receives, and no line of the log, tells a frame number.

The test reads the subjects' frames as root and searches every answer for them, in every form that
a careless program might send. Random bytes may look like a frame number: only what is found in two
rounds, with other processes and so other frames, counts. Swap slots are too small as numbers to
search for: test_page_kinds.py shows that such a page has no flags and documented attributes only.
"""

from collections.abc import Iterable
from pathlib import Path

import pytest
from cowproto.v1 import pageflags_pb2
from harness.author import AuthorsMethod
from harness.daemon import Daemon
from harness.kernel_flags import PAGEMAP_FRAME, PAGEMAP_PRESENT
from harness.programs import GAMES, Caller, Page, StartSubject, iter_stretches, parse_pages

LOWEST_FRAME = 1 << 16
"""Lower ones, in the first 256 MiB, have patterns so short that they turn up by chance."""
PAGES = 8
"""Asked for one by one, of each subject."""
SHIFTS = (0, 5, 9, 12)
"""A frame number, one beside a swap type, an index of a huge page's frames, an address."""
ROUNDS = 2


def encode_frame(frame: int) -> dict[str, bytes]:
    """Return the forms in which a frame number could be told, by name."""
    forms = {
        "decimal": str(frame).encode(),
        "hexadecimal": f"{frame:x}".encode(),
        "HEXADECIMAL": f"{frame:X}".encode(),
        "varint": encode_varint(frame),
        "zigzag": encode_varint(frame << 1),
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
        pageflags_pb2.Mapping(file_offset_bytes=FRAME << 12).SerializeToString(),
        f"frame {FRAME} is busy".encode(),
        f"frame {FRAME:#x} is busy".encode(),
    ],
)
def test_the_search_can_find(leak: bytes) -> None:
    assert find_frames(b"before" + leak + b"after", [FRAME + 0x1234, FRAME])
    assert not find_frames(b"before" + leak + b"after", [FRAME + 0x1234])


@pytest.mark.parametrize("kind", ["file", "anonymous", "thp", "fork"])
def test_no_answer_tells_a_frame(
    kind: str,
    daemon: Daemon,
    nobody: Caller,
    start_subject: StartSubject,
    author: AuthorsMethod,
    public_directory: Path,
) -> None:
    """Seen to fail with pagemap's entries for flags, and with a frame's number in the log."""
    found = []
    for _ in range(ROUNDS):
        subject = start_subject(kind, *([public_directory] if kind == "file" else []))
        pages = parse_pages(subject.description)
        frames = read_frames(pages, author)
        heard = listen(nobody, pages) + daemon.log().encode()
        found.append(find_frames(heard, frames))
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
    return frames


def listen(caller: Caller, pages: list[Page]) -> bytes:
    """Return every byte that the daemon says about processes, refusals included."""
    heard = [caller.call_bytes("GetServerInfo", pageflags_pb2.GetServerInfoRequest())]
    for stretch in iter_stretches(pages):
        pid, address = stretch[0].pid, stretch[0].address
        listing = pageflags_pb2.ListMappingsRequest(pid=pid)
        heard.append(caller.call_bytes("ListMappings", listing))
        request = pageflags_pb2.GetPageFlagsRequest(pid=pid, address=address, count=len(stretch))
        heard.append(caller.call_bytes("GetPageFlags", request))
        for page in stretch[:PAGES]:
            request = pageflags_pb2.GetPageFlagsRequest(pid=pid, address=page.address, count=1)
            heard.append(caller.call_bytes("GetPageFlags", request))
            request.expected_start_time_ticks = 1
            heard.append(caller.refusal("GetPageFlags", request).raw)
            request.address += 1
            heard.append(caller.refusal("GetPageFlags", request).raw)
    return b"\n".join(heard)


def test_no_refusal_tells_a_frame(
    nobody: Caller, start_subject: StartSubject, author: AuthorsMethod
) -> None:
    subject = start_subject("anonymous", user=GAMES)
    pages = parse_pages(subject.description)
    frames = read_frames(pages, author)
    for page in pages:
        request = pageflags_pb2.GetPageFlagsRequest(pid=page.pid, address=page.address, count=1)
        failure = nobody.refusal("GetPageFlags", request)
        assert not find_frames(failure.raw, frames)
