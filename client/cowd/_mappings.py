# SPDX-License-Identifier: Apache-2.0
"""The mappings of a process, as plain values without protobuf."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from cowd._counts import PageCounts
from cowd._pages import PageState

__all__ = ["Mapping", "MappingKind", "MappingList", "is_copied"]


class MappingKind(IntEnum):
    """What backs a mapping (cowd.v1.MappingKind)."""

    UNSPECIFIED = 0
    PRIVATE_FILE = 1
    SHARED_FILE = 2
    ANONYMOUS = 3
    SPECIAL = 4

    @classmethod
    def _missing_(cls, value: object) -> "MappingKind":  # noqa: ARG003
        return cls.UNSPECIFIED  # Of a newer daemon.


def is_copied(kind: MappingKind | None, state: PageState) -> bool | None:
    """Say whether a page is a private copy of its file's page.

    Args:
        kind: what backs the mapping that the page is in; None outside any mapping.
        state: what the page is.

    Returns:
        None where the question has no meaning (only a private mapping of a file has an original
        to be copied from) or no answer is known.
    """
    if kind is not MappingKind.PRIVATE_FILE or state is PageState.UNKNOWN:
        return None
    return state in (PageState.ANON, PageState.ANON_SWAPPED)


@dataclass(frozen=True, slots=True)
class Mapping:
    """One line of /proc/PID/maps.

    Attributes:
        start_address: first address, in bytes.
        end_address: first address after the mapping, in bytes.
        permissions: four characters, such as "rw-p".
        path: as the kernel writes it. File names are bytes; they may hold anything.
        page_counts: its pages, which add up to its size; None if they were not asked for.
    """

    start_address: int
    end_address: int
    permissions: str
    file_offset_bytes: int
    path: bytes
    kind: MappingKind
    page_counts: PageCounts | None = None

    @property
    def size_bytes(self) -> int:
        """Size of the mapping."""
        return self.end_address - self.start_address


@dataclass(frozen=True, slots=True)
class MappingList:
    """All mappings of one process in address order."""

    pid: int
    start_time_ticks: int
    mappings: Sequence[Mapping]
