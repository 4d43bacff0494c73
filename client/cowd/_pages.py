# SPDX-License-Identifier: Apache-2.0
"""What the client returns: pages and the server, as plain values without protobuf."""

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import KEEP, IntEnum, IntFlag
from typing import Final, Self

__all__ = [
    "PAGES_PER_PART",
    "CallerCredential",
    "Confinement",
    "DisclosureMasks",
    "GrantDetail",
    "KernelFeatures",
    "PageAttributes",
    "PageChunk",
    "PageFlags",
    "PageState",
    "ServerInfo",
]

PAGES_PER_PART: Final = 65_536
"""Most pages that are listed at once: an array of their flags has 512 KiB."""


class PageState(IntEnum):
    """What one page of an address space is (cowd.v1.PageState)."""

    ABSENT = 1
    FILE = 2
    ANON = 3
    ANON_SWAPPED = 4
    ZERO = 5
    GUARD = 6
    UNKNOWN = 7

    @classmethod
    def _missing_(cls, value: object) -> "PageState":  # noqa: ARG003
        return cls.UNKNOWN  # Of a newer daemon.

    @property
    def is_present(self) -> bool:
        """Whether the page has a frame, and so kernel flags."""
        return self in (PageState.FILE, PageState.ANON, PageState.ZERO)


class PageAttributes(IntFlag, boundary=KEEP):
    """Further bits about one page (cowd.v1.PageAttribute)."""

    EXCLUSIVE = 1
    SOFT_DIRTY = 2
    UFFD_WP = 4
    LAZYFREE = 8
    UNSTABLE = 16

    @property
    def names(self) -> tuple[str, ...]:
        """Lower-case names of the bits that are set, lowest first; `bit_NN` if not known."""
        bits = (1 << bit for bit in range(self.bit_length()))
        return tuple(
            (PageAttributes(bit).name or f"bit_{bit.bit_length() - 1:02}").lower()
            for bit in bits
            if self & bit
        )


@dataclass(frozen=True, slots=True)
class DisclosureMasks:
    """The kernel's flags that an answer may hold; all others read 0 because they are hidden.

    `private_flags_mask` is for pages that are certainly private, `shared_flags_mask` for others.
    """

    private_flags_mask: int
    shared_flags_mask: int


@dataclass(frozen=True, slots=True)
class PageFlags:
    """Consecutive pages of one process, one element a page in each of the last three fields.

    Attributes:
        address: of the first page, in bytes.
        start_time_ticks: when the process started, in clock ticks since boot.
        masks: the flags that `kpageflags` may hold; None if it is None.
        kpageflags: array of type "Q": words of /proc/kpageflags (see KernelPageFlags) after the
            masks; 0 where no page is present. Supports the buffer protocol: numpy.asarray takes
            it without a copy. None if the answer came without the daemon: flags are for root.
        states: values of PageState.
        attributes: bits of PageAttributes.
    """

    pid: int
    page_size_bytes: int
    address: int
    start_time_ticks: int
    masks: DisclosureMasks | None
    kpageflags: "array[int] | None"
    states: bytes
    attributes: bytes

    @property
    def end_address(self) -> int:
        """First address after the pages, in bytes."""
        return self.address + len(self.states) * self.page_size_bytes


@dataclass(frozen=True, slots=True)
class PageChunk:
    """Consecutive pages of one process; those that are listed lie in stretches.

    Every other page is ABSENT and has neither flags nor attributes, so that reserved memory takes
    no room. A page that is listed may be ABSENT as well.

    Attributes:
        address: of the first page, in bytes.
        page_count: number of pages, listed or not; at least 1.
        start_time_ticks: when the process started, in clock ticks since boot.
        masks: the flags that `kpageflags` may hold; None if it is None.
        stretch_addresses: array of type "Q": where each stretch starts, in bytes, ascending.
        stretch_page_counts: array of type "I": number of pages of each stretch, at least 1.
        kpageflags, states, attributes: as in PageFlags, with an element for each page listed, those
            of the first stretch first.
    """

    pid: int
    page_size_bytes: int
    address: int
    page_count: int
    start_time_ticks: int
    masks: DisclosureMasks | None
    stretch_addresses: "array[int]"
    stretch_page_counts: "array[int]"
    kpageflags: "array[int] | None"
    states: bytes
    attributes: bytes

    @property
    def end_address(self) -> int:
        """First address after the pages, in bytes."""
        return self.address + self.page_count * self.page_size_bytes

    @classmethod
    def from_pages(cls, pages: PageFlags) -> Self:
        """Return a chunk that lists all of these pages, which are not copied."""
        return cls(
            pid=pages.pid,
            page_size_bytes=pages.page_size_bytes,
            address=pages.address,
            page_count=len(pages.states),
            start_time_ticks=pages.start_time_ticks,
            masks=pages.masks,
            stretch_addresses=array("Q", [pages.address]),
            stretch_page_counts=array("I", [len(pages.states)]),
            kpageflags=pages.kpageflags,
            states=pages.states,
            attributes=pages.attributes,
        )

    def iter_stretches(self) -> Iterator[PageFlags]:
        """Yield the pages of each stretch. If there is just one, nothing is copied."""
        first = 0
        for address, count in zip(self.stretch_addresses, self.stretch_page_counts, strict=True):
            last = first + count
            words = self.kpageflags
            if words is not None and count < len(words):
                words = words[first:last]
            yield self._make_part(
                address, words, self.states[first:last], self.attributes[first:last]
            )
            first = last

    def iter_parts(self) -> Iterator[PageFlags]:
        """Yield all the pages, at most 65,536 at a time, listed or not.

        If one stretch has all of them, and they are no more than that, nothing is copied.
        """
        if (
            len(self.states) == self.page_count <= PAGES_PER_PART
            and len(self.stretch_addresses) == 1
        ):
            yield from self.iter_stretches()
            return
        stretches = self._iter_places()
        position, first, count = next(stretches)
        for start in range(0, self.page_count, PAGES_PER_PART):
            end = min(start + PAGES_PER_PART, self.page_count)
            states = bytearray([PageState.ABSENT]) * (end - start)
            attributes = bytearray(end - start)
            words = None if self.kpageflags is None else array("Q", bytes(8 * (end - start)))
            while position < end:
                number = min(count, end - position)
                here = slice(position - start, position - start + number)
                listed = slice(first, first + number)
                states[here] = self.states[listed]
                attributes[here] = self.attributes[listed]
                if words is not None and self.kpageflags is not None:
                    memoryview(words)[here] = memoryview(self.kpageflags)[listed]
                position, first, count = position + number, first + number, count - number
                if not count:
                    position, first, count = next(stretches)
            address = self.address + start * self.page_size_bytes
            yield self._make_part(address, words, bytes(states), bytes(attributes))

    def _iter_places(self) -> Iterator[tuple[int, int, int]]:
        """Yield each stretch's place among the pages, and among those listed, and its length.

        Last comes one of no pages, after all.
        """
        first = 0
        for address, count in zip(self.stretch_addresses, self.stretch_page_counts, strict=True):
            yield (address - self.address) // self.page_size_bytes, first, count
            first += count
        yield self.page_count, first, 0

    def _make_part(
        self, address: int, kpageflags: "array[int] | None", states: bytes, attributes: bytes
    ) -> PageFlags:
        return PageFlags(
            pid=self.pid,
            page_size_bytes=self.page_size_bytes,
            address=address,
            start_time_ticks=self.start_time_ticks,
            masks=self.masks,
            kpageflags=kpageflags,
            states=states,
            attributes=attributes,
        )


@dataclass(frozen=True, slots=True)
class CallerCredential:
    """Who the daemon takes the caller for."""

    uid: int
    gid: int
    groups: Sequence[int]


@dataclass(frozen=True, slots=True)
class KernelFeatures:
    """What the running kernel can tell the daemon, found by trying it."""

    soft_dirty: bool
    guard_regions: bool
    markers: bool
    pagemap_scan: bool
    page_copiers: bool


class GrantDetail(IntEnum):
    """What the caller may ask of processes that the kernel alone would keep from it.

    The values are those of cowd.v1.GrantDetail: NONE is nothing, SUMMARY the numbers of pages of
    whole processes, PAGES everything.
    """

    UNSPECIFIED = 0
    NONE = 1
    SUMMARY = 2
    PAGES = 3

    @classmethod
    def _missing_(cls, value: object) -> "GrantDetail":  # noqa: ARG003
        return cls.UNSPECIFIED  # Of a newer daemon.


@dataclass(frozen=True, slots=True)
class Confinement:
    """What confines the process of the daemon that answers, besides having no privilege.

    Attributes:
        seccomp: only the system calls that it needs are there for it.
        landlock_abi: version of the kernel's interface that keeps it from files, and from 6 on from
            other processes; 0 if there is none.
    """

    seccomp: bool
    landlock_abi: int


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What the daemon is and allows."""

    version: str
    page_size_bytes: int
    caller: CallerCredential
    maximum_page_count: int
    maximum_mapping_count: int
    maximum_range_count: int
    maximum_pid_count: int
    maximum_concurrent_call_count: int
    masks: DisclosureMasks
    kernel_features: KernelFeatures
    confinement: Confinement
    granted: GrantDetail
