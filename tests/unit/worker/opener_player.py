# SPDX-License-Identifier: Apache-2.0
"""An opener's end of its socket, played by a thread, with real descriptors of real processes."""

import array
import os
import socket
import threading
from collections.abc import Callable

from cowdaemon import wire

SECONDS = 10.0
START_TIME_TICKS = 12_345

Reply = tuple[int, list[int]]
"""The number of the outcome, and the descriptors handed over with it; they are closed here."""
Answer = Callable[[int], Reply | bytes | None]


class Opener:
    """An opener's end, served by a thread until the other end closes.

    `answer` gets the pid and returns the reply, bytes to send in its place, or None to be lost:
    then nothing more comes from this end. `lost` is set once the other end has closed.
    """

    def __init__(self, answer: Answer) -> None:
        self.asked: list[int] = []
        self.purposes: list[wire.Purpose] = []
        self.lost = threading.Event()
        self._answer = answer
        self._answering = threading.Lock()
        self._end, self.remote = wire.seqpacket_pair()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        with self._end:
            while message := wire.receive(self._end)[0]:
                with self._answering:
                    purpose, pid = wire.OpenRequest.unpack(message)
                    self.purposes.append(purpose)
                    self._reply(pid)
        self.lost.set()

    def _reply(self, pid: int) -> None:
        self.asked.append(pid)
        answer = self._answer(pid)
        if answer is None:
            self._end.shutdown(socket.SHUT_WR)
        elif isinstance(answer, bytes):
            wire.send(self._end, answer)
        else:
            outcome, descriptors = answer
            reply = wire.OpenReply(pid, outcome, 0 if outcome else START_TIME_TICKS + pid)
            wire.send(self._end, reply.pack(), descriptors)
            for descriptor in descriptors:
                os.close(descriptor)

    def count_descriptors(self) -> int:
        """Return how many are open, without those that it is about to close."""
        with self._answering:
            return len(os.listdir("/proc/self/fd"))

    def close(self) -> None:
        """Close the end that Targets has, as the end of its process does, and collect the rest."""
        self.remote.close()
        self._thread.join(SECONDS)
        assert not self._thread.is_alive()


PlayOpener = Callable[[Answer], Opener]
"""The fixture play_opener."""


def open_files(pid: int) -> Reply:
    """What an opener says that may open `pid`."""
    return 0, [os.open(f"/proc/{pid}/{name}", os.O_RDONLY) for name in ("pagemap", "maps")]


def open_own_files(_: int) -> Reply:
    return open_files(os.getpid())


def list_pids(*pids: int) -> Reply:
    """What an opener says that has found these pids."""
    descriptor = os.memfd_create("pids")
    os.pwrite(descriptor, array.array("i", pids).tobytes(), 0)
    return 0, [descriptor]
