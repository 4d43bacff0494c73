# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the broker's tests: children that change in our place, openers, pairs."""

import ctypes
import gc
import os
import pickle
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from cowdaemon import wire
from cowdaemon.broker import pairs, privileges
from cowdaemon.broker.pairs import Pair
from cowdaemon.broker.peers import Credential
from cowdaemon.system.privileges import Capability
from cowdaemon.system.processes import fork_child
from harness.processes import read_children
from harness.programs import NOBODY, User
from unit.broker.opener_client import NONE, Opener, StartOpener
from unit.broker.pairing import Pairing

RunInChild = Callable[[Callable[[], Any]], Any]
"""The fixture run_in_child."""


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


@pytest.fixture
def run_in_child() -> RunInChild:
    """Return a function that calls another in a forked child, and returns or raises as that did."""

    def run(function: Callable[[], Any]) -> Any:
        reader, writer = os.pipe()

        def call() -> None:
            try:
                outcome = (function(), None)
            except Exception as error:  # noqa: BLE001 - it is raised again by the parent
                outcome = (None, error)
            os.write(writer, pickle.dumps(outcome))

        child = fork_child("cowd-test", call, keep=[writer])
        os.close(writer)
        with open(reader, "rb") as file:
            written = file.read()
        assert child.reap() == 0
        result, error = pickle.loads(written)
        if error:
            raise error
        return result

    return run


class BrokenLibc:
    """libc with one function that, after some calls, does nothing and returns what it is told."""

    def __init__(self, name: str, result: int, error: int, after_calls: int) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._name = name
        self._outcome = (result, error)
        self._calls_left = after_calls

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._libc, name)
        if name != self._name:
            return function
        self._calls_left -= 1
        return function if self._calls_left >= 0 else self._do_nothing

    def _do_nothing(self, *_: object) -> int:
        result, error = self._outcome
        ctypes.set_errno(error)
        return result


@pytest.fixture
def break_libc(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that breaks one function of libc, for the module privileges alone."""

    def break_function(name: str, result: int, error: int = 0, after_calls: int = 0) -> None:
        monkeypatch.setattr(privileges, "_libc", BrokenLibc(name, result, error, after_calls))

    return break_function


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
