# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the broker's tests: processes in namespaces, openers, pairs."""

import gc
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from cowdaemon import wire
from cowdaemon.broker import pairs
from cowdaemon.broker.pairs import Pair
from cowdaemon.broker.peers import Credential
from cowdaemon.broker.privileges import Capability
from harness.processes import read_children
from harness.programs import NOBODY, User
from unit.broker.opener_client import NONE, Opener, StartOpener
from unit.broker.pairing import Pairing


def count_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture
def nothing_is_left() -> Iterator[None]:
    """Fail if the test leaves a descriptor behind."""
    before = count_descriptors()
    yield
    if count_descriptors() != before:
        gc.collect()  # what pytest.raises() caught holds frames, and is held by one of them
    assert count_descriptors() <= before  # less where an earlier test had failed


class Placed:
    """A process in some namespaces; `pid` is its number in ours."""

    def __init__(self, *command: str) -> None:
        self.process = subprocess.Popen(
            [*command, "cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
        )
        assert self.process.stdin
        assert self.process.stdout
        try:
            self.process.stdin.write(b"x")
            self.is_there = self.process.stdout.read(1) == b"x"  # in its namespaces by now
        except BrokenPipeError:
            self.is_there = False
        children = read_children(self.process.pid)
        self.pid = children[0].pid if children else self.process.pid
        self.pidfd = os.pidfd_open(self.pid) if self.is_there else -1

    def close(self) -> None:
        self.process.communicate()
        if self.is_there:
            os.close(self.pidfd)


@pytest.fixture
def start_placed() -> Iterator[Callable[..., Placed]]:
    """Return a function that starts a process which waits, by a command that runs it."""
    with ExitStack() as stack:

        def start(*command: str) -> Placed:
            placed = Placed(*command)
            stack.callback(placed.close)
            if not placed.is_there:
                pytest.skip(f"no such namespace can be had here: {command}")
            return placed

        yield start


@pytest.fixture
def real_pairing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Pairing]:
    """Pairs with real openers."""
    with ExitStack() as stack:
        pairing = Pairing(tmp_path, stack)
        monkeypatch.setattr(pairs.time, "monotonic", lambda: pairing.now)
        yield pairing
        for pair in pairing.pairs:
            pairing.pairs.remove(pair)
            if pair.opener:
                pair.opener.reap()


@pytest.fixture
def pairing(real_pairing: Pairing, monkeypatch: pytest.MonkeyPatch) -> Pairing:
    """Pairs without openers: their workers' ends lead nowhere."""

    def start_no_opener(_: Pair, __: Credential) -> socket.socket:
        local, remote = wire.seqpacket_pair()
        local.close()
        return remote

    monkeypatch.setattr(pairs, "_start_opener", start_no_opener)
    return real_pairing


@pytest.fixture
def start_opener() -> Iterator[StartOpener]:
    with ExitStack() as stack:

        def start(user: User = NOBODY, capabilities: Capability = NONE) -> Opener:
            opener = Opener(Credential(user.uid, user.gid, user.groups, capabilities))
            stack.callback(opener.close)
            return opener

        yield start
