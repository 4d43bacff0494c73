# SPDX-License-Identifier: Apache-2.0
"""Every kind of page, however it is asked about: the few alone, among many, and in streams."""

from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from conftest import MakeDirectory
from cowproto.v1 import pageflags_pb2
from harness.changed_zygote import in_zygote
from harness.daemon import Daemon
from harness.kernel_flags import VOLATILE_FLAGS
from harness.older_kernels import WITHOUT_PAGEMAP_SCAN
from harness.programs import (
    NOBODY,
    PAGE_BYTES,
    Caller,
    StartSubject,
    iter_stretches,
    parse_pages,
)
from harness.small_steps import SCATTERED, SMALL_STEPS
from harness.states import Answer, ask
from harness.streams import begin_stream, finish_stream, stream_pages

MANY_PAGES = 300
"""More than few_pages.FEW_PAGES."""
CHANGES = {
    "in small steps": SMALL_STEPS,
    "scattered": SMALL_STEPS + SCATTERED,
    "without the ioctl": WITHOUT_PAGEMAP_SCAN,
    "without the ioctl, in small steps": SMALL_STEPS + WITHOUT_PAGEMAP_SCAN,
}


@pytest.fixture(scope="module")
def streamers(nobody: Caller, make_directory: MakeDirectory) -> Iterator[dict[str, Caller]]:
    """Return callers of daemons that read in different ways."""
    with ExitStack() as stack:
        callers = {"as it is": nobody}
        for name, change in CHANGES.items():
            daemon = Daemon(make_directory(), change=in_zygote(change))
            stack.callback(daemon.stop)
            callers[name] = stack.enter_context(closing(Caller(NOBODY, daemon.socket_path)))
            features = callers[name].get_server_info().kernel_features
            assert features.pagemap_scan == ("ioctl" not in name)
        yield callers


def without_volatile(answers: list[Answer]) -> list[Answer]:
    return [answer._replace(kpageflags=answer.kpageflags & ~VOLATILE_FLAGS) for answer in answers]


def test_kind_is_the_same_however_it_is_asked_about(
    kind: tuple[str, ...],
    nobody: Caller,
    streamers: dict[str, Caller],
    start_subject: StartSubject,
) -> None:
    """Seen to fail with guards, or with pages that are swapped out, taken for nothing."""
    subject = start_subject(*kind)
    for stretch in iter_stretches(parse_pages(subject.description)):
        pid, address, count = stretch[0].pid, stretch[0].address, len(stretch)
        told = without_volatile(ask(nobody, pid, address, count))
        start = address - MANY_PAGES * PAGE_BYTES
        among_many = ask(nobody, pid, start, MANY_PAGES + count)[MANY_PAGES:]
        assert without_volatile(among_many) == told
        # With what is around it, from its middle on, and alone.
        ranges = [
            (start, MANY_PAGES + count),
            (address + count // 2 * PAGE_BYTES, count - count // 2),
            (address, count),
        ]
        due = told + told[count // 2 :] + told
        for name, streamer in streamers.items():
            streamed = stream_pages(streamer, pid, ranges)[MANY_PAGES:]
            assert without_volatile(streamed) == due, name


def test_stream_tells_what_the_single_answer_does(
    nobody: Caller, start_subject: StartSubject
) -> None:
    """Which masks were applied, and of which process it is."""
    subject = start_subject("anonymous")
    alone = nobody.get_page_flags(subject.pid, subject.address)
    begin_stream(nobody, subject.pid, [(subject.address, 1)])
    [response] = finish_stream(nobody)
    for answer in alone, response:
        answer.kpageflags[0] &= ~VOLATILE_FLAGS  # such as "lru", which comes a moment later
    assert response == pageflags_pb2.StreamPageFlagsResponse(
        page_size_bytes=alone.page_size_bytes,
        address=alone.address,
        count=1,
        start_time_ticks=alone.start_time_ticks,
        masks=alone.masks,
        stretch_address=[alone.address],
        stretch_page_count=[1],
        kpageflags=alone.kpageflags,
        state=alone.state,
        attributes=alone.attributes,
    )
    assert alone.masks.private_flags_mask


def test_file_of_every_state(
    nobody: Caller, start_subject: StartSubject, public_directory: Path
) -> None:
    """Mappings side by side, with what lies between them."""
    subject = start_subject("neighbours", public_directory)
    pages = parse_pages(subject.description)
    told = stream_pages(nobody, subject.pid, [(pages[0].address, len(pages))])
    assert all(page.state in due.states for page, due in zip(told, pages, strict=True))
