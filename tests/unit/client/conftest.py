# SPDX-License-Identifier: Apache-2.0
"""A server for the client's tests: the contract's own typed messages, with made-up pages.

It stands for the daemon where a test needs answers that no real process gives at will. It packs
`pageflags_pb2`, the client unpacks twins, so these tests prove that both are the same bytes.
"""

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import ExitStack

import grpc
import pytest
from cowd import _page_scan
from cowd.cli.main import main
from cowdaemon.errors import DOMAIN, CowdError
from cowproto.v1 import pageflags_pb2, pageflags_pb2_grpc, twins_pb2
from harness.schemas import verify_json
from unit.client.fake_processes import FakeProcesses

PAGE_BYTES = 4096
START = 0x7F0000000000
STATES = {
    ".": pageflags_pb2.PAGE_STATE_ABSENT,
    "f": pageflags_pb2.PAGE_STATE_FILE,
    "a": pageflags_pb2.PAGE_STATE_ANON,
    "s": pageflags_pb2.PAGE_STATE_ANON_SWAPPED,
    "z": pageflags_pb2.PAGE_STATE_ZERO,
    "G": pageflags_pb2.PAGE_STATE_GUARD,
    "?": pageflags_pb2.PAGE_STATE_UNKNOWN,
}
WORDS = {"f": 0x808, "a": 0x5828, "z": 0x1000800}
KINDS = {
    "private": pageflags_pb2.MAPPING_KIND_PRIVATE_FILE,
    "shared": pageflags_pb2.MAPPING_KIND_SHARED_FILE,
    "anonymous": pageflags_pb2.MAPPING_KIND_ANONYMOUS,
    "special": pageflags_pb2.MAPPING_KIND_SPECIAL,
}


def make_mapping(
    start: int, page_count: int, path: bytes = b"/lib/x.so", kind: str = "private"
) -> pageflags_pb2.Mapping:
    return pageflags_pb2.Mapping(
        start_address=start,
        end_address=start + page_count * PAGE_BYTES,
        permissions="rw-s" if kind == "shared" else "rw-p",
        path=path,
        kind=KINDS[kind],
    )


def count_pages(mapping: pageflags_pb2.Mapping) -> None:
    """Say that one page is anonymous, and all others are absent."""
    size_pages = (mapping.end_address - mapping.start_address) // PAGE_BYTES
    mapping.page_counts.anon_page_count = 1
    mapping.page_counts.absent_page_count = size_pages - 1


class FakeDaemon(FakeProcesses, pageflags_pb2_grpc.PageFlagsServiceServicer):
    """Serves one made-up process.

    Attributes:
        pages: states of the pages from START on, by the characters of STATES.
        page_elsewhere: state of the pages outside of them.
        mappings: of the process; `listing_count` at most in one answer.
        start_times: of the process, one for each call; the last one stays.
        change_pages: is called with every answer about pages.
        count_pages: gives a mapping its numbers of pages, if asked for.
        next_start_address: of an answer of ListMappings, if not the right one, by its request.
        failure: raised by every call.
        lost_codes: statuses without a reason, for one call each, as gRPC itself makes them.
        stream_codes: the same, for one stream each, after its first answer.
        hold: what a stream waits for after its first answer.
        asked: (address, count) that GetPageFlags and StreamPageFlags were called with.
        info_count: how often GetServerInfo was called.
        answer_count: of streams.
        ended: is set when a stream is over, and however it is.
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path
        self.pages = "afa."
        self.page_elsewhere = "."
        self.mappings = [make_mapping(START, 4)]
        self.mappings_after_reading: list[pageflags_pb2.Mapping] | None = None
        self.listing_count = 2
        self.start_times = [500]
        self.maximum_page_count = 8
        self.shared_flags_mask = 0x14A5808
        self.failure: CowdError | None = None
        self.retry_after_seconds: float | None = None
        self.statistics = pageflags_pb2.GetStatisticsResponse()
        self.serving = True
        self.called = False
        self.delay_seconds = 0.0
        self.missing_page_count = 0
        self.change_pages = lambda _: None
        self.count_pages = count_pages
        self.next_start_address: Callable[..., int] | None = None
        self.lost_codes: list[grpc.StatusCode] = []
        self.stream_codes: list[grpc.StatusCode] = []
        self.hold: threading.Event | None = None
        self.maximum_range_count = 3
        self.maximum_pid_count = 2
        self.asked: list[tuple[int, int]] = []
        self.info_count = 0
        self.answer_count = 0
        self.ended = threading.Event()

    def GetPageFlags(self, request, context):  # noqa: N802 (a name of the contract)
        self._check(request, context)
        self.asked.append((request.address, request.count))
        self.mappings = self.mappings_after_reading or self.mappings
        states = self._states(request.address, request.count - self.missing_page_count)
        response = pageflags_pb2.GetPageFlagsResponse(
            page_size_bytes=PAGE_BYTES,
            address=request.address,
            start_time_ticks=self.start_times[0],
            masks=self._masks(),
            kpageflags=[WORDS.get(state, 0) for state in states],
            state=[STATES[state] for state in states],
            attributes=[1 if state == "a" else 0 for state in states],
        )
        self.change_pages(response)
        return response

    def StreamPageFlags(self, request, context):  # noqa: N802
        assert context.add_callback(self.ended.set)
        self._check(request, context)
        if not 1 <= len(request.ranges) <= self.maximum_range_count:
            refuse(context, "INVALID_COUNT", 3, "too many ranges, or none")
        self.asked += [(each.address, each.count) for each in request.ranges]
        self.mappings = self.mappings_after_reading or self.mappings
        for response in self._iter_chunks(request):
            self.answer_count += 1
            yield response
            if self.hold:
                self.hold.wait(20)
            if self.stream_codes:
                context.abort(self.stream_codes.pop(), "lost")

    def _iter_chunks(self, request):
        for each in request.ranges:
            if not each.count or each.address + each.count * PAGE_BYTES > 1 << 64:
                raise AssertionError("the fake daemon does not refuse such a range")
            for first in range(0, each.count, self.maximum_page_count):
                address = each.address + first * PAGE_BYTES
                count = min(self.maximum_page_count, each.count - first)
                yield self._make_chunk(address, count)

    def _make_chunk(self, address, count):
        """Return pages as a chunk; those that are "." are not listed."""
        states = self._states(address, count)
        listed = [state for state in states if state != "."]
        stretches = list(re.finditer(r"[^.]+", "".join(states)))
        response = pageflags_pb2.StreamPageFlagsResponse(
            page_size_bytes=PAGE_BYTES,
            address=address,
            count=count,
            start_time_ticks=self.start_times[0],
            masks=self._masks(),
            stretch_address=[address + each.start() * PAGE_BYTES for each in stretches],
            stretch_page_count=[len(each[0]) for each in stretches],
            kpageflags=[WORDS.get(state, 0) for state in listed],
            state=[STATES[state] for state in listed],
            attributes=[1 if state == "a" else 0 for state in listed],
        )
        del response.state[len(listed) - self.missing_page_count :]
        self.change_pages(response)
        return response

    def _states(self, address, count):
        first = (address - START) // PAGE_BYTES
        return [
            self.pages[index] if 0 <= index < len(self.pages) else self.page_elsewhere
            for index in range(first, first + count)
        ]

    def ListMappings(self, request, context):  # noqa: N802
        self._check(request, context)
        rest = [each for each in self.mappings if each.end_address > request.start_address]
        part = [pageflags_pb2.Mapping.FromString(each.SerializeToString()) for each in rest]
        del part[self.listing_count :]
        if request.with_page_counts:
            for each in part:
                self.count_pages(each)
        response = pageflags_pb2.ListMappingsResponse(
            start_time_ticks=self.start_times[0],
            mappings=part,
            next_start_address=part[-1].end_address if len(rest) > len(part) else 0,
        )
        if self.next_start_address:
            response.next_start_address = self.next_start_address(request)
        if len(self.start_times) > 1:
            del self.start_times[0]
        return response

    def GetServerInfo(self, request, context):  # noqa: N802
        del request
        self.info_count += 1
        self._fail(context)
        return pageflags_pb2.GetServerInfoResponse(
            version="9.8.7",
            page_size_bytes=PAGE_BYTES,
            caller=pageflags_pb2.CallerCredential(uid=1000, gid=100, groups=[4, 27]),
            maximum_page_count=self.maximum_page_count,
            maximum_mapping_count=self.listing_count,
            maximum_range_count=self.maximum_range_count,
            maximum_pid_count=self.maximum_pid_count,
            masks=self._masks(),
            kernel_features=pageflags_pb2.KernelFeatures(
                markers=True, pagemap_scan=True, page_copiers=True
            ),
            maximum_concurrent_call_count=4,
            confinement=pageflags_pb2.Confinement(seccomp=True, landlock_abi=7),
            granted=pageflags_pb2.GRANT_DETAIL_SUMMARY,
        )

    def GetStatistics(self, request, context):  # noqa: N802
        del request
        self._fail(context)
        return self.statistics

    def check_health(self, request, context):
        assert request.service == "cowd.v1.PageFlagsService"
        self._fail(context)
        health = twins_pb2.HealthCheckResponse
        return health(
            status=health.SERVING_STATUS_SERVING
            if self.serving
            else health.SERVING_STATUS_NOT_SERVING
        )

    def _masks(self):
        return pageflags_pb2.DisclosureMasks(
            private_flags_mask=0x2012E797D, shared_flags_mask=self.shared_flags_mask
        )

    def _check(self, request, context) -> None:
        self._fail(context)
        expected = request.expected_start_time_ticks
        if expected not in (0, self.start_times[0]):
            refuse(context, "START_TIME_DIFFERS", 9, "the pid now belongs to another process")

    def _fail(self, context) -> None:
        self.called = True
        if self.delay_seconds:
            time.sleep(self.delay_seconds)
        if self.lost_codes:
            context.abort(self.lost_codes.pop(), "lost")
        if self.failure is not None:
            reason = self.failure.reason
            refuse(context, reason.name, reason.code, str(self.failure), self.retry_after_seconds)


def refuse(context, reason, code, sentence, retry_after_seconds=None):
    """End a call as the daemon does."""
    details = [pack_any("ErrorInfo", twins_pb2.ErrorInfo(reason=reason, domain=DOMAIN))]
    if retry_after_seconds is not None:
        seconds, rest = divmod(retry_after_seconds, 1)
        delay = twins_pb2.Duration(seconds=int(seconds), nanos=int(rest * 1e9))
        details.append(pack_any("RetryInfo", twins_pb2.RetryInfo(retry_delay=delay)))
    status = twins_pb2.Status(code=code, message=sentence, details=details)
    context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
    status_code = next(each for each in grpc.StatusCode if each.value[0] == code)
    context.abort(status_code, sentence)


def pack_any(name, message):
    return twins_pb2.Any(
        type_url=f"type.googleapis.com/google.rpc.{name}", value=message.SerializeToString()
    )


@pytest.fixture
def socket_path(tmp_path) -> str:
    return os.fspath(tmp_path / "cowd.sock")


@pytest.fixture
def fakes() -> Iterator[ExitStack]:
    """Return what stops the fake daemons of the test."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def stop_fakes(fakes) -> Callable[[], None]:
    """Return a function that stops every fake daemon so far."""
    return fakes.close


@pytest.fixture
def start_fake(fakes) -> Callable[[str], FakeDaemon]:
    """Return a function that starts a FakeDaemon on a path."""

    def start(path: str) -> FakeDaemon:
        fake = FakeDaemon(path)
        server = grpc.server(
            fakes.enter_context(futures.ThreadPoolExecutor(2)),
            options=[("grpc.so_reuseport", 0)],
        )
        pageflags_pb2_grpc.add_PageFlagsServiceServicer_to_server(fake, server)
        check = grpc.unary_unary_rpc_method_handler(
            fake.check_health,
            request_deserializer=twins_pb2.HealthCheckRequest.FromString,
            response_serializer=twins_pb2.HealthCheckResponse.SerializeToString,
        )
        server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": check})]
        )
        assert server.add_insecure_port(f"unix:{path}")
        server.start()
        fakes.callback(lambda: server.stop(None).wait())
        return fake

    return start


@pytest.fixture
def fake(start_fake, socket_path, monkeypatch) -> FakeDaemon:
    """Return a fake daemon that COWD_SOCKET leads to."""
    monkeypatch.setenv("COWD_SOCKET", socket_path)
    monkeypatch.delenv("NO_COLOR", raising=False)
    return start_fake(socket_path)


@pytest.fixture
def mapping():
    """Return `make_mapping`: (start, page_count, path, kind) to a message."""
    return make_mapping


@pytest.fixture
def run(capsys):
    """Return a function that runs cowctl in this process: exit status, output, messages.

    JSON is checked against its schema.
    """

    def run(*arguments):
        status = main(arguments)
        written = capsys.readouterr()
        verify_json(arguments, written.out)
        return status, written.out, written.err

    return run


@pytest.fixture(params=["with PAGEMAP_SCAN", "without it"])
def kernel(request, monkeypatch):
    """Return whether the kernel tells the page of zeros, of both sorts of kernel."""
    if request.param == "with PAGEMAP_SCAN":
        if not _page_scan.has_pagemap_scan():
            pytest.skip("this kernel has no PAGEMAP_SCAN")
        return True
    monkeypatch.setattr(_page_scan, "has_pagemap_scan", lambda: False)
    return False


@pytest.fixture
def child():
    """Return a child of this process that waits."""
    with subprocess.Popen(
        [sys.executable, "-c", "print(flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        process.stdout.readline()  # It has started: its memory grows no more.
        yield process
        process.kill()
