# SPDX-License-Identifier: Apache-2.0
"""Who answers: the daemon, or the kernel alone by choice, or where the daemon does not."""

from collections.abc import Callable, Iterable, Iterator
from typing import Final, Literal, Protocol, SupportsIndex, TypeAlias, TypeVar

from cowd._client import Client
from cowd._errors import AccessDenied, Error, InvalidRequest, Unavailable
from cowd._mappings import MappingList
from cowd._pages import PageChunk, PageFlags
from cowd._summaries import ProcessSummary

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
        """Yield what is known about every page of several ranges."""

    def stream_page_flags(
        self,
        pid: int,
        ranges: Iterable[tuple[int, int]],
        *,
        expected_start_time_ticks: int = 0,
    ) -> Iterator[PageChunk]:
        """Yield the same without a list of what is absent."""

    def list_mappings(
        self, pid: int, *, with_page_counts: bool = False, expected_start_time_ticks: int = 0
    ) -> MappingList:
        """Return all mappings of a process; on request with the numbers of their pages."""

    def summarize_processes(
        self, pids: Iterable[SupportsIndex] | None = None
    ) -> Iterator[ProcessSummary]:
        """Yield how many pages of processes are what; None for all that the caller may inspect."""


def ask(
    backend: Backend | BackendName,
    question: Callable[[Backend], _Answer],
    *,
    address: str | None = None,
) -> tuple[_Answer, Error | None]:
    """Return the answer to `question`, and why it is not the daemon's if that was asked first.

    Args:
        backend: one, or the name of one; "auto" is the daemon, or the kernel alone where the daemon
            cannot be reached or does not let the caller look.
        question: is put to one backend, or to a second one if it raised.
        address: of the daemon, as in `cowd.Client`.

    Raises:
        Error: from `question`, the daemon's being the cause of the other's; InvalidRequest if
            there is no such backend.
    """
    if not isinstance(backend, str) and hasattr(backend, "stream_page_flags"):
        return question(backend), None
    if backend not in BACKENDS:
        names = ", ".join(BACKENDS)
        raise InvalidRequest(f"there is no backend {backend!r}: there are {names}")
    if backend == "local":
        return question(_make_local()), None
    try:
        with Client(address) as client:
            return question(client), None
    except (Unavailable, AccessDenied) as error:
        if backend == "daemon":
            raise
        refusal = error
    try:
        return question(_make_local()), refusal
    except Error as error:
        raise error from refusal


def _make_local() -> Backend:
    from cowd._local import Local  # With all that reads /proc, when it is needed.

    return Local()
