# SPDX-License-Identifier: Apache-2.0
"""The pages of a buffer of this process: what each is, and which have been copied.

Runs with the caller's own rights. The buffer is neither read nor written, so asking changes none of
its pages. numpy is imported here, and this with the first question.
"""

import os
import textwrap
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cowd._backend import Backend, BackendName, ask
from cowd._buffers import Memory, Span, as_array
from cowd._errors import Aborted, Error, FailedPrecondition, InvalidRequest
from cowd._kpageflags import format_letters
from cowd._mappings import Mapping, MappingKind
from cowd._page_scan import has_pagemap_scan
from cowd._pages import DisclosureMasks, PageAttributes, PageChunk, PageState
from cowd._process import open_process
from cowd._runs import Run, Segment, iter_runs, iter_segments

__all__ = ["Pages", "Summary", "copied", "pages"]

_LINE_WIDTH: Final = 80


class Summary(NamedTuple):
    """How many pages are what.

    Attributes:
        page_count: all of them.
        copied_page_count: pages that are private copies.
        size_bytes, copied_size_bytes: the same in bytes, whole pages.
        page_count_by_state: for the states that occur.
    """

    page_count: int
    copied_page_count: int
    size_bytes: int
    copied_size_bytes: int
    page_count_by_state: dict[PageState, int]


@dataclass(frozen=True, eq=False)
class Pages:
    """The pages that a buffer lies in, one element a page in each array.

    Attributes:
        span: where the buffer lies, and which of its bytes each page holds. It may start and end
            inside a page; such a page counts in full.
        backend: who answered, "daemon" or "local".
        fallback_error: why it was not the daemon, if that was asked first; else None.
        mappings: that the pages are in, in address order.
        masks: the flags that `kpageflags` may hold, all others being hidden; None if it is None.
        states: values of PageState; shape (pages,), dtype uint8.
        attributes: bits of PageAttributes; shape (pages,), dtype uint8.
        kpageflags: words of the kernel (see KernelPageFlags) after the daemon's masks, 0 where no
            page is present; shape (pages,), dtype uint64. None without the daemon.
    """

    span: Span
    backend: str
    fallback_error: Error | None
    mappings: Sequence[Mapping]
    masks: DisclosureMasks | None
    states: NDArray[np.uint8]
    attributes: NDArray[np.uint8]
    kpageflags: NDArray[np.uint64] | None

    def __len__(self) -> int:
        return len(self.states)

    @property
    def copied(self) -> NDArray[np.bool_]:
        """Whether each page is a private copy of its file's page; shape (pages,), dtype bool.

        Where the buffer starts or ends inside a page, a store to the page's other bytes has copied
        it just as well.

        Raises:
            InvalidRequest: a page is in anonymous memory, where there is no file to copy from.
            Aborted: what a page is changed with every look.
            FailedPrecondition: what a page is cannot be told without the daemon.
        """
        for segment in self._segments:
            _verify_has_original(segment)
        is_unknown = (self.states == PageState.UNKNOWN) & self._is_in_private_mapping
        unknown = np.flatnonzero(is_unknown)
        if len(unknown):
            first = int(unknown[0])
            if self.attributes[first] & PageAttributes.UNSTABLE:
                raise Aborted(f"page {first} changed with every look at it: ask again")
            raise FailedPrecondition(f"the {self.backend} backend cannot tell what page {first} is")
        return self._is_anonymous  # no page of a shared mapping is

    def runs(self) -> list[Run]:
        """Return the pages as runs of neighbours that are alike."""
        if not len(self):
            return []
        words = self.kpageflags
        chunk = PageChunk(
            pid=os.getpid(),
            page_size_bytes=self.span.page_size_bytes,
            address=self.span.address,
            page_count=len(self),
            start_time_ticks=0,
            masks=self.masks,
            stretch_addresses=array("Q", [self.span.address]),
            stretch_page_counts=array("I", [len(self)]),
            kpageflags=None if words is None else array("Q", words.tobytes()),
            states=self.states.tobytes(),
            attributes=self.attributes.tobytes(),
        )
        return list(iter_runs([chunk], self._segments, each=False))

    def summary(self) -> Summary:
        """Return how many pages are what."""
        states, counts = np.unique(self.states, return_counts=True)
        is_copied = self._is_anonymous & self._is_in_private_mapping
        copied_page_count = int(np.count_nonzero(is_copied))
        return Summary(
            page_count=len(self),
            copied_page_count=copied_page_count,
            size_bytes=len(self) * self.span.page_size_bytes,
            copied_size_bytes=copied_page_count * self.span.page_size_bytes,
            page_count_by_state={
                PageState(state): count
                for state, count in zip(states.tolist(), counts.tolist(), strict=True)
            },
        )

    def __str__(self) -> str:
        """Return a line for each run, and what there is to say of the answer as a whole."""
        rows = [("PAGES", "STATE", "COPIED", "FLAGS"), *map(self._describe_run, self.runs())]
        widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
        lines = [
            " ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        if self.span.starts_inside_page:
            lines.append("The buffer starts inside its first page.")
        if self.span.ends_inside_page:
            lines.append("The buffer ends inside its last page.")
        if self.kpageflags is None:
            why = str(self.fallback_error or "only the daemon can tell them")
            lines += textwrap.wrap(
                f"No kernel flags: {why}",
                _LINE_WIDTH,
                break_long_words=False,  # A path stays in one piece.
                break_on_hyphens=False,
            )
        return "\n".join(lines)

    def _describe_run(self, run: Run) -> tuple[str, str, str, str]:
        first = (run.address - self.span.address) // self.span.page_size_bytes
        last = first + run.page_count - 1
        return (
            str(first) if first == last else f"{first}-{last}",
            run.state.name.lower(),
            {True: "yes", False: "no", None: "-"}[run.copied],
            "-" if run.kpageflags is None else format_letters(run.kpageflags),
        )

    @cached_property
    def _segments(self) -> list[Segment]:
        return list(iter_segments(self.mappings, self.span.address, self.span.end))

    @property
    def _is_anonymous(self) -> NDArray[np.bool_]:
        """Where a page is one of no file, present or swapped out."""
        is_anonymous: NDArray[np.bool_] = (self.states == PageState.ANON) | (
            self.states == PageState.ANON_SWAPPED
        )
        return is_anonymous

    @property
    def _is_in_private_mapping(self) -> NDArray[np.bool_]:
        is_private = np.zeros(len(self), np.bool_)
        for segment in self._segments:
            if segment.mapping and segment.mapping.kind is MappingKind.PRIVATE_FILE:
                first = (segment.start - self.span.address) // self.span.page_size_bytes
                last = (segment.end - self.span.address) // self.span.page_size_bytes
                is_private[first:last] = True
        return is_private


def pages(buffer: Memory, *, backend: Backend | BackendName = "auto") -> Pages:
    """Return what the pages of a buffer are.

    Args:
        buffer: contiguous memory of this process: mmap, numpy.memmap, memoryview, bytearray, any
            array. A page that it only starts or ends in counts as well (see `Pages.span`).
        backend: who is asked. "daemon" knows the kernel's flags; "local" asks the kernel alone;
            "auto" asks the daemon, and the kernel alone if the daemon cannot be reached or refuses.
            With a `cowd.Client` instead of a name, many questions go over one connection.

    Raises:
        Error: a subclass of it, see `cowd.Error`.
    """
    memory = as_array(buffer)  # until the answer is there
    span = Span(memory.ctypes.data, memory.nbytes)
    ranges = [(span.address, span.page_count)] if span.page_count else []

    def question(source: Backend) -> tuple[str, _Collected]:
        collected = _Collected(span)
        for chunk in source.stream_page_flags(os.getpid(), ranges):
            collected.add(chunk)
        return source.name, collected

    (name, found), refusal = ask(backend, question)
    return Pages(
        span=span,
        backend=name,
        fallback_error=refusal,
        mappings=_list_mappings(span),
        masks=found.masks,
        states=found.states,
        attributes=found.attributes,
        kpageflags=found.kpageflags,
    )


class _Collected:
    """The pages of a span, of which every chunk fills its part."""

    def __init__(self, span: Span) -> None:
        self._span = span
        self.masks: DisclosureMasks | None = None
        self.states = np.full(span.page_count, PageState.ABSENT, np.uint8)
        self.attributes = np.zeros(span.page_count, np.uint8)
        self.kpageflags: NDArray[np.uint64] | None = None

    def add(self, chunk: PageChunk) -> None:
        """Put the pages that are listed in their places."""
        places = self._find_places(chunk)
        self.states[places] = np.frombuffer(chunk.states, np.uint8)
        self.attributes[places] = np.frombuffer(chunk.attributes, np.uint8)
        if chunk.kpageflags is not None:
            if self.kpageflags is None:
                self.masks = chunk.masks
                self.kpageflags = np.zeros(len(self.states), np.uint64)
            self.kpageflags[places] = np.asarray(chunk.kpageflags)

    def _find_places(self, chunk: PageChunk) -> slice | NDArray[np.intp]:
        addresses = np.asarray(chunk.stretch_addresses)
        counts = np.asarray(chunk.stretch_page_counts, np.intp)
        page_size_bytes = np.uint64(self._span.page_size_bytes)
        firsts = ((addresses - np.uint64(self._span.address)) // page_size_bytes).astype(np.intp)
        if len(firsts) == 1:
            return slice(firsts[0], firsts[0] + counts[0])
        # Each page's place among those listed, and how far its stretch is shifted.
        shifts = firsts - (np.cumsum(counts) - counts)
        places: NDArray[np.intp] = np.arange(len(chunk.states)) + np.repeat(shifts, counts)
        return places


def copied(buffer: Memory, *, backend: Backend | BackendName = "auto") -> NDArray[np.bool_]:
    """Return which pages of a buffer are private copies of their file's pages.

    "Has a private copy" is not "was modified": see `Pages.copied`, which this is, and the words in
    the README. For this question the kernel alone is mostly enough where it has PAGEMAP_SCAN (Linux
    6.7), so there "auto" asks the daemon only if a page looks swapped out or cannot be told, which
    may be a marker of userfaultfd: no connection, and no grpc in a process that may fork.

    Args:
        buffer: as `pages` takes it, in a mapping of a file.
        backend: as `pages` takes it.

    Returns:
        Shape (pages,), dtype bool.

    Raises:
        Error: a subclass of it, see `cowd.Error` and `Pages.copied`.
    """
    if backend == "auto" and has_pagemap_scan():
        found = pages(buffer, backend="local")
        doubtful = (found.states == PageState.UNKNOWN) | (found.states == PageState.ANON_SWAPPED)
        if not doubtful.any():
            return found.copied
    return pages(buffer, backend=backend).copied


def _list_mappings(span: Span) -> list[Mapping]:
    """Return the mappings of this process that have a part in `span`."""
    if not span.page_count:
        return []
    with open_process(os.getpid()) as process:
        return process.list_mappings(span.address, span.end)


def _verify_has_original(segment: Segment) -> None:
    kind = segment.mapping.kind if segment.mapping else None
    if kind not in (MappingKind.PRIVATE_FILE, MappingKind.SHARED_FILE):
        what = "anonymous" if kind is MappingKind.ANONYMOUS else "no file's"
        raise InvalidRequest(
            f"the memory at {segment.start:#x} is {what}, there is nothing that its pages could "
            "be copied from: cowd.pages() tells what they are"
        )
