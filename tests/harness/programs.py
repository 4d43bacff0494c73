# SPDX-License-Identifier: Apache-2.0
"""Programs that run as some user and talk in lines of JSON: callers of the daemon, and subjects.

Runs as root in the test process. `setpriv` changes the user and then executes the interpreter, so
that the process is dumpable, as any ordinary program is. A program that dies or does not answer in
time raises AssertionError.
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from cowdaemon.errors import Code
from cowproto.v1 import pageflags_pb2, twins_pb2
from google.protobuf.message import Message

from harness.daemon import PYTHON_PATH, ROOT

ANSWER_SECONDS = 30.0
"""For a program to answer: generous, other tests share the machine."""
EVERY = 2**31
"""More responses than there can be."""
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
SUBJECTS = ROOT / "tests" / "kernel" / "subjects.py"
CALLER = ROOT / "tests" / "caller.py"
SERVICE = "/cowd.v1.PageFlagsService/"


class User(NamedTuple):
    """Whom a program runs as."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    options: tuple[str, ...] = ()
    """More for setpriv, such as the capabilities to keep."""

    def command(self, arguments: Sequence[str]) -> list[str]:
        """Return `arguments` as a command that root runs to have this user run them."""
        groups = ["--groups", ",".join(map(str, self.groups))] if self.groups else []
        groups = groups or ["--clear-groups"]
        ids = ["--reuid", str(self.uid), "--regid", str(self.gid)]
        return ["setpriv", *ids, *groups, *self.options, "--", *arguments]


ROOT_USER = User("root", 0, 0)
DAEMON = User("daemon", 1, 1)
"""The user of the workers under test."""
GAMES = User("games", 5, 60)
NOBODY = User("nobody", 65534, 65534)
HOLDING_NET_RAW = NOBODY._replace(options=("--inh-caps=+net_raw", "--ambient-caps=+net_raw"))
"""Nobody, whose programs keep a capability, as those with file capabilities do."""


def environment() -> dict[str, str]:
    """Return the environment of an unprivileged program."""
    return {
        "PATH": os.defpath,
        "PYTHONPATH": PYTHON_PATH,
        "PYTHONDONTWRITEBYTECODE": "1",
        "GRPC_VERBOSITY": "NONE",
    }


class CallError(Exception):
    """A gRPC call that failed, with what its status carried."""

    def __init__(self, answer: dict[str, Any]) -> None:
        self.code: int = answer["code"]
        self.message: str = answer["message"]
        self.details = bytes.fromhex(answer["details"])
        """grpc-status-details-bin."""
        self.raw = bytes.fromhex(answer["raw"])
        """Everything that the server said: message, initial and trailing metadata."""
        self.seconds: float = answer["seconds"]
        self.status = twins_pb2.Status.FromString(self.details)
        self.info = twins_pb2.ErrorInfo()
        for detail in self.status.details:
            if detail.type_url == "type.googleapis.com/google.rpc.ErrorInfo":
                self.info = twins_pb2.ErrorInfo.FromString(detail.value)
        super().__init__(f"{self.outcome}: {self.message}")

    @property
    def outcome(self) -> tuple[str, str]:
        """Name of the gRPC code, and the reason; "" where it has none."""
        known = self.code in Code.__members__.values()
        return (Code(self.code).name if known else str(self.code), self.info.reason)


class Program:
    """A child that answers lines of JSON with lines of JSON and ends when its input does."""

    def __init__(self, command: Sequence[str], descriptors: Sequence[int] = ()) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=descriptors,
            cwd="/",
            env=environment(),
        )

    @property
    def pid(self) -> int:
        """The process: commands that change the user execute the program in place."""
        return self._process.pid

    def write(self, message: dict[str, Any]) -> None:
        """Send one line."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps(message).encode() + b"\n")
        self._process.stdin.flush()

    def read(self, seconds: float = ANSWER_SECONDS) -> dict[str, Any]:
        """Receive one line."""
        assert self._process.stdout
        readable, _, _ = select.select([self._process.stdout], [], [], seconds)
        assert readable, f"no answer from {self._process.args!r} within {seconds} s"
        line = self._process.stdout.readline()
        assert line, f"{self._process.args!r} ended with exit status {self._process.wait()}"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def kill(self) -> None:
        """End it at once, and collect it."""
        self._process.kill()
        self.close()

    def close(self) -> None:
        """End it by the end of its input, and collect it."""
        assert self._process.stdin
        assert self._process.stdout
        with contextlib.suppress(BrokenPipeError):  # it has ended already
            self._process.stdin.close()
        try:
            self._process.wait(ANSWER_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise
        finally:
            self._process.stdout.close()


class Page(NamedTuple):
    """What is known by construction of one page; see subjects.py."""

    pid: int
    address: int
    states: tuple[str, ...]
    copied: bool | None
    mapping: str
    flags_set: frozenset[str]
    flags_clear: frozenset[str]
    attributes_set: frozenset[str]
    attributes_clear: frozenset[str]
    marker: bool
    """Whether something stands in the page table that is neither a page nor a swapped one."""


class Subject(Program):
    """A process with pages of a known kind, or of a known nature."""

    def __init__(
        self, user: User, kind: str, *arguments: str, descriptors: Sequence[int] = ()
    ) -> None:
        command = [sys.executable, str(SUBJECTS), kind, *arguments]
        super().__init__(user.command(command), descriptors)
        self.description = self.read()
        """What subjects.py said: pid, pages, and what else the kind has."""

    @property
    def address(self) -> int:
        """Where its first page is."""
        address: int = self.description["pages"][0]["address"]
        return address

    @property
    def unavailable(self) -> str | None:
        """Why this machine cannot have such pages, if it cannot."""
        reason: str | None = self.description.get("unavailable")
        return reason

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """Have it hold still."""
        os.kill(self.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED)
        try:
            yield
        finally:
            os.kill(self.pid, signal.SIGCONT)


def parse_pages(description: dict[str, Any]) -> list[Page]:
    """Return the pages of a subject's description, in its order."""
    return [
        Page(
            page.get("pid", description["pid"]),
            page["address"],
            tuple(page["state"].split("|")),
            page["copied"],
            page["mapping"],
            frozenset(page.get("flags_set", ())),
            frozenset(page.get("flags_clear", ())),
            frozenset(page.get("attributes_set", ())),
            frozenset(page.get("attributes_clear", ())),
            page.get("marker", False),
        )
        for page in description["pages"]
    ]


def iter_stretches(pages: Sequence[Page]) -> Iterator[list[Page]]:
    """Yield runs of pages of one process and mapping that follow each other: one call's pages."""

    def place(item: tuple[int, Page]) -> tuple[int, str, int]:
        number, page = item
        return page.pid, page.mapping, page.address - number * PAGE_BYTES

    for _, run in groupby(enumerate(pages), place):
        yield [page for _, page in run]


class Caller(Program):
    """A client of the daemon: plain grpc, whole messages, no library of ours."""

    def __init__(
        self,
        user: User,
        socket_path: Path,
        prefix: Sequence[str] = (),
        suffix: Sequence[str] = (),
        options: Sequence[str] = (),
    ) -> None:
        """Start it.

        Args:
            user: whom it runs as.
            socket_path: where the daemon listens.
            prefix: a command that runs, as root, the command that changes the user.
            suffix: a command that runs, as the user, the interpreter.
            options: those of caller.py.
        """
        command = [*suffix, sys.executable, str(CALLER), str(socket_path), *options]
        super().__init__([*prefix, *user.command(command)])
        self.read()

    def begin(
        self,
        method: str,
        request: Message | bytes,
        seconds: float = 20.0,
        wait: bool = False,
        metadata: Sequence[tuple[str, str]] = (),
        most: int | None = None,
    ) -> None:
        """Start a call of `method`, a full path or a name of cowd's service.

        With `wait`, a server that is not there is waited for, up to `seconds`. With `most`, the
        response is a stream, and cancelled after that many of it.
        """
        message = request if isinstance(request, bytes) else request.SerializeToString()
        call = {
            "method": method if method.startswith("/") else SERVICE + method,
            "request": message.hex(),
            "timeout": seconds,
            "wait": wait,
            "metadata": metadata,
        }
        self.write(call | ({} if most is None else {"most": most}))

    def finish(self) -> bytes:
        """Return the response's bytes of the call begun longest ago, or raise CallError."""
        return self.finish_timed()[0]

    def finish_timed(self) -> tuple[bytes, float]:
        """Return the response's bytes and how many seconds the call took; raise CallError."""
        answer = self._read_answer()
        [response] = answer["responses"]
        return bytes.fromhex(response), answer["seconds"]

    def finish_raw(self) -> bytes:
        """Return all that the server said, metadata included, whether the call failed or not."""
        try:
            answer = self._read_answer()
        except CallError as failure:
            return failure.raw
        return b"\n".join(bytes.fromhex(part) for part in [*answer["responses"], answer["raw"]])

    def _read_answer(self) -> dict[str, Any]:
        answer = self.read()
        if "responses" not in answer:
            raise CallError(answer)
        return answer

    def call_bytes(self, method: str, request: Message | bytes) -> bytes:
        """Return the bytes of the response, or raise CallError."""
        self.begin(method, request)
        return self.finish()

    def refusal(self, method: str, request: Message | bytes) -> CallError:
        """Return how a call failed that must not succeed."""
        try:
            response = self.call_bytes(method, request)
        except CallError as failure:
            return failure
        raise AssertionError(f"{method} was answered with {response.hex()}")

    def get_page_flags(
        self, pid: int, address: int, count: int = 1, expected_start_time_ticks: int = 0
    ) -> pageflags_pb2.GetPageFlagsResponse:
        """Call GetPageFlags."""
        request = pageflags_pb2.GetPageFlagsRequest(
            pid=pid,
            address=address,
            count=count,
            expected_start_time_ticks=expected_start_time_ticks,
        )
        response = self.call_bytes("GetPageFlags", request)
        return pageflags_pb2.GetPageFlagsResponse.FromString(response)

    def refused_page_flags(
        self, pid: int, address: int, count: int = 1, expected_start_time_ticks: int = 0
    ) -> tuple[str, str]:
        """Return the code and reason with which GetPageFlags fails."""
        request = pageflags_pb2.GetPageFlagsRequest(
            pid=pid,
            address=address,
            count=count,
            expected_start_time_ticks=expected_start_time_ticks,
        )
        return self.refusal("GetPageFlags", request).outcome

    def list_mappings(
        self, pid: int, with_page_counts: bool = False
    ) -> list[pageflags_pb2.Mapping]:
        """Return every mapping of `pid`, by as many calls of ListMappings as it takes."""
        request = pageflags_pb2.ListMappingsRequest(pid=pid, with_page_counts=with_page_counts)
        mappings: list[pageflags_pb2.Mapping] = []
        while True:
            response = pageflags_pb2.ListMappingsResponse.FromString(
                self.call_bytes("ListMappings", request)
            )
            mappings.extend(response.mappings)
            if not response.next_start_address:
                return mappings
            assert response.next_start_address > request.start_address
            request.start_address = response.next_start_address

    def get_server_info(self) -> pageflags_pb2.GetServerInfoResponse:
        """Call GetServerInfo."""
        response = self.call_bytes("GetServerInfo", pageflags_pb2.GetServerInfoRequest())
        return pageflags_pb2.GetServerInfoResponse.FromString(response)

    def begin_summaries(self, pids: Sequence[int], most: int = EVERY) -> None:
        """Start SummarizeProcesses; of no pids, of all."""
        request = pageflags_pb2.SummarizeProcessesRequest(pids=pids)
        self.begin("SummarizeProcesses", request, most=most)

    def finish_stream(self) -> list[bytes]:
        """Return the bytes of every response of the call begun longest ago; raise CallError."""
        return [bytes.fromhex(response) for response in self._read_answer()["responses"]]

    def finish_summaries(self) -> list[pageflags_pb2.SummarizeProcessesResponse]:
        """Return the responses of the call begun longest ago, or raise CallError."""
        parse = pageflags_pb2.SummarizeProcessesResponse.FromString
        return [parse(response) for response in self.finish_stream()]

    def summarize(self, pids: Sequence[int]) -> list[pageflags_pb2.SummarizeProcessesResponse]:
        """Call SummarizeProcesses; of no pids, of all."""
        self.begin_summaries(pids)
        return self.finish_summaries()

    def create(self, kind: str, *arguments: str) -> dict[str, Any]:
        """Make the pages of a kind of subjects.py in the caller itself; return its description."""
        self.write({"create": kind, "arguments": arguments})
        return self.read()


StartSubject = Callable[..., Subject]
"""The fixture start_subject."""
StartCaller = Callable[..., Caller]
"""The fixture start_caller."""
