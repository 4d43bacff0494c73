# SPDX-License-Identifier: Apache-2.0
"""What one thread may end that another one waits for. Needs no grpc."""

from contextvars import ContextVar
from threading import Lock
from typing import Final, Protocol

__all__ = ["CANCELLATION", "Cancellation"]


class _Call(Protocol):
    def cancel(self) -> object:
        """End the call, here and in the daemon; it may be over already."""


class Cancellation:
    """Ends the calls that are attached to it, and all that are from then on. Threads share it."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._call: _Call | None = None
        self._is_cancelled = False

    @property
    def is_cancelled(self) -> bool:
        """Whether nobody waits any more."""
        return self._is_cancelled

    def attach(self, call: _Call) -> None:
        """Have this call end with `cancel`, in the place of the one before."""
        with self._lock:
            self._call = call
            is_cancelled = self._is_cancelled
        if is_cancelled:
            call.cancel()

    def cancel(self) -> None:
        """End the call that was attached last. Does not block."""
        with self._lock:
            self._is_cancelled = True
            call, self._call = self._call, None
        if call is not None:
            call.cancel()


CANCELLATION: Final[ContextVar[Cancellation | None]] = ContextVar("CANCELLATION", default=None)
"""Of what this thread waits for; None where no other thread has to end that."""
