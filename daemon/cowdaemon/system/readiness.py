# SPDX-License-Identifier: Apache-2.0
"""Descriptors that are watched, and what is done when one turns readable.

Used by root, in the broker.
"""

import selectors
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Protocol

__all__ = ["Readiness", "ReadinessError"]


class _HasDescriptor(Protocol):
    def fileno(self) -> int: ...


class ReadinessError(Exception):
    """A descriptor cannot be watched: whatever it belongs to would be left behind."""


class Readiness:
    """What is watched; has as many elements."""

    def __init__(self) -> None:
        self._selector: Final = selectors.DefaultSelector()

    def __len__(self) -> int:
        return len(self._selector.get_map())

    def watch(self, descriptor: int | _HasDescriptor, handle: Callable[[], None]) -> None:
        """Call `handle` whenever there is something to read, or the other end has closed.

        Raises:
            ReadinessError: there is no memory for it.
        """
        try:
            self._selector.register(descriptor, selectors.EVENT_READ, handle)
        except OSError as error:
            raise ReadinessError(f"cannot watch another descriptor: {error}") from error

    def forget(self, descriptor: int | _HasDescriptor) -> None:
        """Watch it no more; it may have been closed, or may never have been watched."""
        with suppress(KeyError, ValueError):
            self._selector.unregister(descriptor)

    def wait(self, seconds: float | None) -> None:
        """Do what there is to do, or wait for it; for ever, without `seconds`."""
        for key, _ in self._selector.select(seconds):
            key.data()
