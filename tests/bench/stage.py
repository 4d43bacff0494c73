# SPDX-License-Identifier: Apache-2.0
"""Everything a measurement needs: a private daemon, its users, what they ask about, C programs.

Runs as root in the process of the benchmark. What is started here ends with the stage.
"""

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

from harness.daemon import Daemon
from harness.programs import NOBODY, PAGE_BYTES, Program, User

from bench.programs import CProgram

HERE = Path(__file__).parent
PAGES = 1_000_000
"""Of the large scenes."""
ANSWER_SECONDS = 120.0
"""For a scene to be made, or a range to be read: generous, the machine may be busy."""


class Pages(NamedTuple):
    """A range of pages of a process."""

    pid: int
    address: int
    count: int

    def order(self, deed: str, **more: Any) -> dict[str, Any]:
        """Return what asks an asker to do something with them."""
        return {"do": deed, **self._asdict(), **more}


class Stage:
    """A daemon on a socket of its own, and what has been started for it.

    Args:
        directory: its own, empty, on a disk file system, to be entered by everyone.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._programs: dict[str, CProgram] = {}
        self._askers: dict[User, Program] = {}
        self._noop_path = directory / "noop" / "noop.sock"
        with ExitStack() as stack:
            (directory / "daemon").mkdir()
            self.daemon = Daemon(directory / "daemon")
            stack.callback(self.daemon.stop)
            stack.callback(self._start_noop_server().close)
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def _start_noop_server(self) -> Program:
        self._noop_path.parent.mkdir()
        os.chown(self._noop_path.parent, NOBODY.uid, NOBODY.gid)
        self._noop_path.parent.chmod(0o755)
        server = start(NOBODY, "noop_server.py", os.fspath(self._noop_path))
        server.read()
        self._noop_path.chmod(0o777)
        return server

    def program(self, name: str) -> CProgram:
        """Return the C program of that name, compiled and running."""
        if name not in self._programs:
            program = CProgram(name, self._directory)
            self._stack.callback(program.close)
            self._programs[name] = program
        return self._programs[name]

    def asker(self, user: User = NOBODY) -> Program:
        """Return that user's client of the daemon; see asker.py."""
        if user not in self._askers:
            self._askers[user] = self._stack.enter_context(self.start_asker(user))
        return self._askers[user]

    @contextmanager
    def another_daemon(self) -> Iterator[Daemon]:
        """Have a daemon for a while that nobody else asks."""
        directory = self._directory / "another"
        directory.mkdir()
        daemon = Daemon(directory)
        try:
            yield daemon
        finally:
            daemon.stop()
            shutil.rmtree(directory)

    @contextmanager
    def start_asker(self, user: User) -> Iterator[Program]:
        """Have another client of that user for a while."""
        paths = self.daemon.socket_path, self._noop_path
        asker = start(user, "asker.py", *map(os.fspath, paths))
        try:
            yield asker
        finally:
            asker.close()

    @contextmanager
    def start_buffers(self) -> Iterator[Program]:
        """Have a process that asks about buffers of its own; see own_buffers.py."""
        program = start(NOBODY, "own_buffers.py", os.fspath(self.daemon.socket_path))
        try:
            program.read(ANSWER_SECONDS)
            yield program
        finally:
            program.close()

    @contextmanager
    def scene(
        self, kind: str, user: User = NOBODY, file: Path | None = None, count: int = 0
    ) -> Iterator[dict[str, Pages]]:
        """Have a process with pages of a kind of scene.py, by their names there."""
        arguments = [os.fspath(file)] if file else [str(count)] if count else []
        scene = start(user, "scene.py", kind, *arguments)
        try:
            told = scene.read(ANSWER_SECONDS)
            yield {
                name: Pages(told["forks"].get(name, told["pid"]), *place)
                for name, place in told["ranges"].items()
            }
        finally:
            scene.close()

    @contextmanager
    def hole(self) -> Iterator[Path]:
        """Have a file of PAGES pages that hold nothing."""
        path = self._directory / "pages"
        with path.open("wb") as file:
            file.truncate(PAGES * PAGE_BYTES)
        path.chmod(0o644)
        try:
            yield path
        finally:
            path.unlink()


def start(user: User, script: str, *arguments: str) -> Program:
    """Start one of the scripts beside this file as a user."""
    return Program(user.command([sys.executable, os.fspath(HERE / script), *arguments]))


def ask(asker: Program, order: dict[str, Any]) -> dict[str, Any]:
    """Have an asker do something, and return its answer."""
    asker.write(order)
    return asker.read(ANSWER_SECONDS)
