# SPDX-License-Identifier: Apache-2.0
"""A real opener, of a process that plays the broker; the test is its worker.

The broker has a child of a child too, as the zygote has workers: cowd's own, which are refused.
"""

import json
import os
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

from cowdaemon import wire
from cowdaemon.broker.opener import run_opener
from cowdaemon.broker.peers import Credential
from cowdaemon.errors import Reason
from cowdaemon.system.confinement import SystemCallFilter, bind_to_parent
from cowdaemon.system.journal import Journal
from cowdaemon.system.privileges import Capability
from cowdaemon.system.processes import Child, fork_child
from cowdaemon.system.system_calls import OPENER
from harness.processes import wait_to_be_killed

FILTER = SystemCallFilter(OPENER)
SECONDS = 10.0
PAGE = os.sysconf("SC_PAGE_SIZE")
FRAME = (1 << 55) - 1
NONE = Capability(0)
EVERY = Capability.SYS_PTRACE | Capability.DAC_READ_SEARCH
"""What of a root caller's capabilities an opener holds."""


class Opener:
    """The worker's end of an opener, and the broker that it belongs to."""

    def __init__(self, credential: Credential, granted: wire.Detail, journal: Journal) -> None:
        self._end, remote = wire.seqpacket_pair()
        self._end.settimeout(SECONDS)
        reader, writer = os.pipe()
        self._broker: Child = fork_child(
            "cowd-broker",
            lambda: play_broker(credential, granted, remote, journal, writer),
            keep=[remote.fileno(), writer, *journal.descriptors],
        )
        remote.close()
        os.close(writer)
        self._news = open(reader, encoding="utf-8")  # noqa: SIM115 - closed in close()
        self.pids: dict[str, int] = json.loads(self._news.readline())
        self._received: list[int] = []

    def ask(
        self, pid: int, purpose: wire.Purpose = wire.Purpose.PAGES
    ) -> tuple[Reason | None, int, list[int]]:
        """Return why `pid` was not opened, if it was not, its start time and its descriptors."""
        wire.send(self._end, wire.OpenRequest(purpose, pid).pack())
        message, descriptors = wire.receive(self._end, 2)
        self._received += descriptors
        reply = wire.OpenReply.unpack(message)
        assert reply.pid == pid
        reason = Reason.from_number(reply.outcome) if reply.outcome else None
        expected = 1 if purpose is wire.Purpose.LIST else 2
        assert len(descriptors) == (0 if reason else expected)
        return reason, reply.start_time_ticks, descriptors

    def refusal(self, pid: int, purpose: wire.Purpose = wire.Purpose.PAGES) -> Reason | None:
        """Return why `pid` was not opened."""
        return self.ask(pid, purpose)[0]

    def send(self, message: bytes, descriptors: tuple[int, ...] = ()) -> None:
        """Say something to an opener that may have ended by itself already."""
        with suppress(BrokenPipeError):
            wire.send(self._end, message, descriptors)

    def read_end(self) -> int:
        """Return the exit status of an opener that ends without another message."""
        try:
            assert wire.receive(self._end) == (b"", [])
        except ConnectionResetError:
            pass  # it has not even read the last request
        return int(self._news.readline())

    def close_end(self) -> int:
        """Close the worker's end; return the opener's exit status."""
        self._end.close()
        return int(self._news.readline())

    def kill_broker(self) -> None:
        signal.pidfd_send_signal(self._broker.pidfd, signal.SIGKILL)

    def close(self) -> None:
        self._end.close()
        self._news.close()
        for descriptor in self._received:
            os.close(descriptor)
        self.kill_broker()  # and with it whatever is bound to it
        self._broker.reap()


def play_broker(
    credential: Credential,
    granted: wire.Detail,
    end: socket.socket,
    journal: Journal,
    news: int,
) -> NoReturn:
    """Fork an opener, and a child with a child; write their pids, and the opener's exit status."""
    broker = os.getpid()
    reader, writer = os.pipe()

    def play_zygote() -> NoReturn:
        bind_to_parent(broker)
        zygote = os.getpid()

        def play_worker() -> NoReturn:
            bind_to_parent(zygote)
            os.write(writer, str(os.getpid()).encode())
            wait_to_be_killed()

        fork_child("cowd-worker", play_worker, keep=[writer])
        wait_to_be_killed()

    zygote = fork_child("cowd-zygote", play_zygote, keep=[writer])
    os.close(writer)
    worker = int(os.read(reader, 16) or b"0")  # where no process can be bound to another, none
    opener = fork_child(
        "cowd-opener",
        lambda: run_opener(credential, granted, end, journal, FILTER, broker),
        keep=[end.fileno(), *journal.descriptors],
    )
    end.close()
    pids = {"broker": broker, "opener": opener.pid, "zygote": zygote.pid, "worker": worker}
    os.write(news, json.dumps(pids).encode() + b"\n")
    os.write(news, b"%d\n" % opener.reap())
    wait_to_be_killed()


StartOpener = Callable[..., Opener]
