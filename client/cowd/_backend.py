# SPDX-License-Identifier: Apache-2.0
"""Who answers: the daemon, the kernel alone, or the first of the two that does."""

from collections.abc import Callable, Iterable, Iterator
from typing import Final, Literal, Protocol, TypeAlias, TypeVar

from cowd._client import Client
from cowd._errors import AccessDenied, Error, InvalidRequest, Unavailable
from cowd._local import Local
from cowd._pages import MappingList, PageFlags

__all__ = ["BACKENDS", "Backend", "BackendName", "ask"]

BackendName: TypeAlias = Literal["auto", "daemon", "local"]
BACKENDS: Final[tuple[BackendName, ...]] = ("auto", "daemon", "local")

_Answer = TypeVar("_Answer")


class Backend(Protocol):
    """What `cowd.Client` and `cowd.Local` have in common."""

    @property
    def name(self) -> str:
        """Either "daemon" or "local"."""

    def get_page_flags(
        self, pid: int, address: int, count: int, *, expected_start_time_ticks: int = 0
    ) -> PageFlags:
        """Return what is known about pages that follow each other."""

    def iter_page_flags(
        self,
        pid: int,
        ranges: Iterable[tuple[int, int]],
        *,
        expected_start_time_ticks: int = 0,
    ) -> Iterator[PageFlags]:
        """Yield what is known about ranges of pages."""

    def list_mappings(self, pid: int, *, expected_start_time_ticks: int = 0) -> MappingList:
        """Return all mappings of a process."""


def ask(
    backend: Backend | BackendName,
    question: Callable[[Backend], _Answer],
    *,
    address: str | None = None,
    on_fallback: Callable[[Error], None] = lambda _: None,
) -> _Answer:
    """Return the answer to `question` of one backend.

    Args:
        backend: one, or the name of one; "auto" is the daemon, or the kernel alone where the daemon
            cannot be reached or does not let the caller look.
        question: is put to one backend, or to a second one if it raised.
        address: of the daemon, as in `cowd.Client`.
        on_fallback: is called with the daemon's error before the kernel alone is asked.

    Raises:
        Error: from `question`; InvalidRequest if there is no such backend.
    """
    if not isinstance(backend, str):
        return question(backend)
    if backend not in BACKENDS:
        names = ", ".join(BACKENDS)
        raise InvalidRequest(f"there is no backend {backend!r}: there are {names}")
    if backend == "local":
        return question(Local())
    try:
        with Client(address) as client:
            return question(client)
    except (Unavailable, AccessDenied) as error:
        if backend == "daemon":
            raise
        on_fallback(error)
        return question(Local())
