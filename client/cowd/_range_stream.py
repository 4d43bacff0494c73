# SPDX-License-Identifier: Apache-2.0
"""What the streaming calls about ranges of pages have in common: how far their answers have come.

Sees protobuf, as the transport does that asks. An answer that is not what was asked for raises
InternalError: nothing that a server sends makes a list of pages that is not in order.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Sized
from itertools import islice, repeat
from mmap import PAGESIZE
from operator import add, le, mul
from typing import TYPE_CHECKING, ClassVar, Final, Generic, Protocol, TypeVar

from cowproto.v1 import pageflags_pb2
from google.protobuf.message import Message

from cowd._errors import InternalError, InvalidRequest

if TYPE_CHECKING:
    from array import array

__all__ = ["RangeStream", "has_entries_for_all", "has_stretches_in_place"]

_MOST_LISTED: Final = 1 << 20
"""Pages in one answer: many times what a daemon lists."""


class _Part(Protocol):
    @property
    def address(self) -> int: ...

    @property
    def page_count(self) -> int: ...


class _Chunk(_Part, Protocol):
    @property
    def end_address(self) -> int: ...

    @property
    def stretch_addresses(self) -> "array[int]": ...

    @property
    def stretch_page_counts(self) -> "array[int]": ...


_Answer = TypeVar("_Answer", bound=Message)
_PartType = TypeVar("_PartType", bound=_Part)


class RangeStream(ABC, Generic[_Answer, _PartType]):
    """The ranges of one call, and how far its answers have come.

    Args:
        pid: of the process, for errors; None if there are several.
        ranges: address, in bytes, and number of pages.
        start_times_ticks: that each process must have; 0 takes that of the first answer.
    """

    begins_anew: ClassVar[bool] = False

    def __init__(
        self,
        pid: int | None,
        ranges: Iterable[tuple[int, int]],
        start_times_ticks: tuple[int, ...],
    ) -> None:
        self.pid = pid
        self._rest = deque(ranges)
        self._start_times_ticks = start_times_ticks

    @property
    def is_complete(self) -> bool:
        """Whether there have been answers about every page."""
        return not self._rest

    def make_request(self) -> Message:
        """Return the request for all that is missing.

        Raises:
            InvalidRequest: a number is none, or does not fit.
        """
        try:
            return self._fill_request(
                [
                    pageflags_pb2.PageRange(address=address, count=count)
                    for address, count in self._rest
                ]
            )
        except (TypeError, ValueError) as error:
            raise InvalidRequest(f"the request cannot be sent: {error}") from error

    def take(self, answer: _Answer) -> _PartType:
        """Return the pages of the next answer.

        Raises:
            InternalError: it does not go on where the last one ended, or is not one.
        """
        address, left = self._rest[0] if self._rest else (0, 0)
        found = self._convert(answer)
        if found is None:
            raise self._make_error()
        part, start_times_ticks = found
        if (
            part.address != address
            or not 0 < part.page_count <= left
            or not all(map(_agree, self._start_times_ticks, start_times_ticks))
        ):
            raise self._make_error()
        self._start_times_ticks = start_times_ticks
        self._rest[0] = address + part.page_count * PAGESIZE, left - part.page_count
        if part.page_count == left:
            self._rest.popleft()
        return part

    def finish(self) -> None:
        """Raise InternalError if an answer is missing."""
        if self._rest:
            raise InternalError("cowd's answer ends before the pages asked for", pid=self.pid)

    @abstractmethod
    def _fill_request(self, ranges: list[pageflags_pb2.PageRange]) -> Message:
        """Return the request for these ranges."""

    @abstractmethod
    def _convert(self, answer: _Answer) -> tuple[_PartType, tuple[int, ...]] | None:
        """Return an answer that is whole, with the start time of each process; else None."""

    def _make_error(self) -> InternalError:
        return InternalError("cowd's answer is not about the pages asked for", pid=self.pid)


def _agree(expected_ticks: int, told_ticks: int) -> bool:
    return expected_ticks in (0, told_ticks)


def has_entries_for_all(page_counts: "array[int]", lists: Iterable[Sized]) -> bool:
    """Whether each list has an entry for each page of all stretches, and not for too many."""
    listed_count = sum(page_counts)
    return listed_count <= _MOST_LISTED and all(len(each) == listed_count for each in lists)


def has_stretches_in_place(chunk: _Chunk) -> bool:
    """Whether stretches have whole pages, ascend, do not overlap, and lie in the chunk.

    There may be many thousand: no loop of Python's looks at them.
    """
    starts, counts = chunk.stretch_addresses, chunk.stretch_page_counts
    if not starts:
        return True
    ends = list(map(add, starts, map(mul, counts, repeat(PAGESIZE))))
    return (
        all(counts)
        and not any(map((PAGESIZE - 1).__and__, starts))
        and chunk.address <= starts[0]
        and all(map(le, ends, islice(starts, 1, None)))
        and ends[-1] <= chunk.end_address
    )
