# SPDX-License-Identifier: Apache-2.0
"""Reads pagemap entries and the kpageflags of their frames, as arrays, at one consistent moment.

Worker, unprivileged, through descriptors it was handed; no loop over pages. pagemap is read in one
large read. kpageflags is read by blocks of 32 frames: reading a frame costs the kernel about 100 ns
and a system call about 300 ns, so whole blocks beat single frames, and neighbouring blocks are one
read. Then pagemap is read again: where an entry has changed, the frame may have become another
page's in between, and both are read anew.
"""

import os
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cowdaemon.limits import SETTLE_ROUNDS
from cowdaemon.worker.features import KernelFeatures
from cowdaemon.worker.page_states import (
    Attribute,
    Bytes,
    EntryLayout,
    PageState,
    Words,
    classify,
    frames,
    is_contradictory,
    is_present,
)

__all__ = ["PageReadings", "Reader", "ShortReadError", "classify_readings", "read_entries"]

_PAGE_SIZE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_WORD_BYTES: Final = 8
_BLOCK_FRAMES: Final = 32
_BLOCK_SHIFT: Final = np.uint64(5)
_FRAME_IN_BLOCK: Final = np.uint64(_BLOCK_FRAMES - 1)
# Blocks are numbered by a table as wide as their span up to this many times their count; beyond,
# by sorting. A table of bytes this wide costs less than the sort.
_TABLE_SPAN_PER_BLOCK: Final = 64


class ShortReadError(Exception):
    """pagemap ended within the range: the address space does, or it is gone."""


@dataclass(frozen=True, slots=True)
class PageReadings:
    """What the kernel said of each page of a range; uint64 arrays, one element a page.

    `flags` is 0 where no page is present or its frame has no information, and where `unstable`,
    which marks pages that changed on every attempt.
    """

    entries: Words
    flags: Words
    unstable: NDArray[np.bool_]


def classify_readings(readings: PageReadings, layout: EntryLayout) -> tuple[Bytes, Bytes]:
    """Return what `classify` does, with state UNKNOWN for the pages that are unstable."""
    states, attributes = classify(readings.entries, readings.flags, layout)
    states[readings.unstable] = PageState.UNKNOWN
    attributes[readings.unstable] = Attribute.UNSTABLE
    return states, attributes


class Reader:
    """Reads any target's pages.

    Args:
        kpageflags: descriptor of /proc/kpageflags, opened as root.
        features: what the kernel was found to offer.
    """

    def __init__(self, kpageflags: int, features: KernelFeatures) -> None:
        self._kpageflags = kpageflags
        self.features: Final = features

    def close(self) -> None:
        """Give up kpageflags."""
        os.close(self._kpageflags)

    def read(self, pagemap: int, address: int, count: int) -> PageReadings:
        """Read the pages of a range of a target.

        Args:
            pagemap: descriptor of its /proc/PID/pagemap that shows frame numbers.
            address: of the first page, in bytes; a multiple of the page size.
            count: of pages, at least 1.

        Raises:
            ShortReadError: pagemap ended within the range.
        """
        entries = read_entries(pagemap, address, count)
        flags = self._read_flags(entries)
        suspects = np.arange(count)
        for _ in range(SETTLE_ROUNDS):
            # One read from the first to the last suspect: they are few and close, or all.
            first, last = int(suspects[0]), int(suspects[-1])
            again = read_entries(pagemap, address + first * _PAGE_SIZE_BYTES, last - first + 1)
            again = again[suspects - first]
            changed = again != entries[suspects]
            changed |= is_contradictory(again, flags[suspects])
            suspects = suspects[changed]
            if not len(suspects):
                return PageReadings(entries, flags, np.zeros(count, np.bool_))
            entries[suspects] = again[changed]
            flags[suspects] = self._read_flags(entries[suspects])
        again = read_entries(pagemap, address, count)
        unstable = np.zeros(count, np.bool_)
        unstable[suspects] = again[suspects] != entries[suspects]
        flags[unstable] = 0
        return PageReadings(entries, flags, unstable)

    def _read_flags(self, entries: Words) -> Words:
        flags = np.zeros(len(entries), np.uint64)
        present = np.flatnonzero(is_present(entries))
        if len(present):
            flags[present] = self._read_frames(frames(entries[present]))
        return flags

    def _read_frames(self, wanted: Words) -> Words:
        """Return the flags of each frame in `wanted`, in its order."""
        blocks, place = _number_blocks(wanted >> _BLOCK_SHIFT)
        words = self._read_blocks(blocks)
        return words[place * _BLOCK_FRAMES + (wanted & _FRAME_IN_BLOCK).astype(np.intp)]

    def _read_blocks(self, blocks: Words) -> Words:
        """Return the flags of all frames of `blocks` (ascending), 0 past the last frame."""
        words = np.zeros(len(blocks) * _BLOCK_FRAMES, np.uint64)
        room = words.data.cast("B")
        block_bytes = _BLOCK_FRAMES * _WORD_BYTES
        breaks = np.flatnonzero(np.diff(blocks) != 1) + 1
        starts = [0, *breaks.tolist()]
        ends = [*breaks.tolist(), len(blocks)]
        for start, end, block in zip(starts, ends, blocks[starts].tolist(), strict=True):
            _read_fully(
                self._kpageflags, room[start * block_bytes : end * block_bytes], block * block_bytes
            )
        return words


def _number_blocks(block_of_frame: Words) -> tuple[Words, NDArray[np.intp]]:
    """Return the different blocks, ascending, and for each frame the place of its block there."""
    lowest = block_of_frame.min()
    span = int(block_of_frame.max() - lowest) + 1
    if span > _TABLE_SPAN_PER_BLOCK * len(block_of_frame):
        blocks, place = np.unique(block_of_frame, return_inverse=True)
        return blocks, place
    offset = (block_of_frame - lowest).astype(np.intp)
    is_used = np.zeros(span, np.bool_)
    is_used[offset] = True
    used = np.flatnonzero(is_used)
    place_of_offset = np.empty(span, np.intp)
    place_of_offset[used] = np.arange(len(used))
    return used.astype(np.uint64) + lowest, place_of_offset[offset]


def read_entries(pagemap: int, address: int, count: int) -> Words:
    """Return the pagemap entries of `count` pages from `address`, as they stand.

    Raises:
        ShortReadError: there are fewer.
    """
    entries = np.empty(count, np.uint64)
    room = entries.data.cast("B")
    if _read_fully(pagemap, room, address // _PAGE_SIZE_BYTES * _WORD_BYTES) != len(room):
        raise ShortReadError
    return entries


def _read_fully(file: int, room: memoryview, offset: int) -> int:
    """Read until `room` is full or the file ends; return the bytes read."""
    done = 0
    while done < len(room):
        length = os.preadv(file, [room[done:]], offset + done)
        if length == 0:
            break
        done += length
    return done
