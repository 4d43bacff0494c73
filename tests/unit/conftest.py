# SPDX-License-Identifier: Apache-2.0
"""Fixtures of many tests: children that change in our place, a libc that fails.

The tests that draw their examples have no stop-watch, and the same examples wherever CI runs.
"""

import ctypes
import os
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from cowdaemon import confinement
from cowdaemon.broker import privileges
from cowdaemon.broker.processes import fork_child
from hypothesis import settings

settings.register_profile("cowd", deadline=None, derandomize="COWD_REQUIRE_ALL" in os.environ)
settings.load_profile("cowd")

RunInChild = Callable[[Callable[[], Any]], Any]
"""The fixture run_in_child."""


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
    """Return a function that breaks one function of libc, for cowdaemon alone."""

    def break_function(name: str, result: int, error: int = 0, after_calls: int = 0) -> None:
        broken = BrokenLibc(name, result, error, after_calls)
        for module in (confinement, privileges):
            monkeypatch.setattr(module, "_libc", broken)

    return break_function
