# SPDX-License-Identifier: Apache-2.0
"""The words of /proc/kpageflags for the frames of many pages.

Worker, unprivileged, through a descriptor that the zygote opened as root. Reading a frame costs the
kernel 60 ns, a system call by itself 300 ns: so frames are read by blocks, and neighbouring blocks
at once. Which blocks are needed is found with a table, and flags are gathered by index: there is no
sorting and no loop over pages. The more pages at a time, the fewer words are read for nothing: the
frames of a million pages that were touched in no order fill the blocks that they are in, those of
65,536 pages are a page or two of each.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import repeat
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cowdaemon.limits import READING_THREADS
from cowdaemon.worker.page_states import Words, frames, is_present
from cowdaemon.worker.pagemap import read_fully, read_parts
from cowdaemon.worker.read_ahead import Run

__all__ = ["read_flags", "read_runs", "read_scattered"]

_WORD_BYTES: Final = 8
_FEW_FRAMES: Final = 64
"""Up to so many are read one by one: to find out what else they have in common takes longer."""
_FRAMES_OF_A_RUN: Final = 8
"""From so many on average, runs are read one by one: a system call costs as much as the table."""
_BLOCK_SHIFT: Final = 5
"""Blocks of 32 frames, where they are used well."""
_SMALL_BLOCK_SHIFT: Final = 1
"""Blocks of 2, where single frames are wanted here and there."""
_WELL_USED_PAGES: Final = 5
"""Pages a block for which one thread reads 32 words in less time than small blocks."""
_BLOCKS_OF_A_READ: Final = 2_048
"""What one thread reads at a time: half a megabyte of the larger blocks."""
_TABLE_SPAN_PER_PAGE: Final = 64
"""Blocks are numbered by a table as wide as their span, up to this many times the pages; beyond, by
sorting. A table of bytes this wide costs less than the sort."""
_LARGEST_TABLE_SPAN: Final = 1 << 22
"""And no wider than this: 20 MB of the memory that a worker may have. 512 GiB in blocks of 32."""
_WORDS_AT_ONCE: Final = 1 << 19
"""Words of blocks that are held at a time: 4 MB. What needs more takes several passes."""


class _Blocks(NamedTuple):
    """Different blocks of frames.

    Attributes:
        shift: each has 2**shift frames.
        numbers: ascending; the first frame of each is its number << shift.
        lowest: number of the first one.
        places: the place of a block in `numbers`, at its number less `lowest`; None if that would
            be too long a table.
    """

    shift: int
    numbers: NDArray[np.int64]
    lowest: int
    places: NDArray[np.int32] | None

    def place(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the place of each of these blocks."""
        if self.places is None:
            return np.searchsorted(self.numbers, numbers)
        return self.places[numbers - self.lowest].astype(np.int64)


def read_flags(kpageflags: int, entries: Words) -> Words:
    """Return the flags of the pages of any entries of pagemap.

    Args:
        kpageflags: descriptor of /proc/kpageflags.
        entries: of any pages, in any order.

    Returns:
        The word of each page's frame; 0 where no page is present, and past the last frame.
    """
    flags = read_runs(kpageflags, entries)
    if flags is None:
        [flags] = read_scattered(kpageflags, [entries])
    return flags


def read_runs(kpageflags: int, entries: Words, most_runs: int = 0) -> Words | None:
    """Return what `read_flags` does if frames follow each other, or are few; else None.

    Args:
        kpageflags: descriptor of /proc/kpageflags.
        entries: of any pages.
        most_runs: how many runs of such frames are to be read even if it is not worth it.
    """
    where = _find_present(entries)
    numbers = _number_frames(entries[where])
    breaks = np.flatnonzero(np.diff(numbers) != 1) + 1
    if len(breaks) > max(_FEW_FRAMES, len(numbers) // _FRAMES_OF_A_RUN, most_runs):
        return None
    if not len(numbers):
        return np.zeros_like(entries)
    words = _read_runs(kpageflags, numbers, breaks, 0)
    if isinstance(where, slice):
        return words
    flags = np.zeros_like(entries)
    flags[where] = words
    return flags


def read_scattered(
    kpageflags: int,
    entries: Sequence[Words],
    run: Run = map,
    verify_wanted: Callable[[], None] = lambda: None,
) -> list[Words]:
    """Return what `read_flags` does, for frames that are anywhere.

    Args:
        kpageflags: descriptor of /proc/kpageflags.
        entries: of pagemap, in pieces of a size that one thread works on at a time; some page of
            each is present.
        run: what applies a function to all pieces: `map`, or the same in several threads.
        verify_wanted: called before each part of the reading; what it raises ends it.
    """

    def read(numbers: NDArray[np.int64]) -> Words:
        verify_wanted()
        breaks = np.flatnonzero(np.diff(numbers) != 1) + 1
        return _read_runs(kpageflags, numbers, breaks, blocks.shift)

    lowest_of_pieces, highest_of_pieces, counts = zip(*run(_measure, entries), strict=True)
    lowest, highest, count = min(lowest_of_pieces), max(highest_of_pieces), sum(counts)
    blocks = _find_blocks(entries, lowest, highest, count, _BLOCK_SHIFT, run)
    threads = 1 if run is map else READING_THREADS
    if len(blocks.numbers) * _WELL_USED_PAGES > count * threads:
        blocks = _find_blocks(entries, lowest, highest, count, _SMALL_BLOCK_SHIFT, run)
    step = _WORDS_AT_ONCE >> blocks.shift
    flags = list(map(np.zeros_like, entries))
    for first in range(0, len(blocks.numbers), step):
        _fill_in(read, entries, flags, blocks, range(first, first + step), run)
    return flags


def _complete(results: Iterable[object]) -> None:
    """Wait for all, and raise what any of them raises."""
    for _ in results:
        pass


def _number_frames(entries: Words) -> NDArray[np.int64]:
    return frames(entries).view(np.int64)  # 55 bits


def _find_present(entries: Words) -> NDArray[np.intp] | slice:
    """Return an index of the pages that are present."""
    present = is_present(entries)
    return slice(None) if present.all() else np.flatnonzero(present)


def _measure(entries: Words) -> tuple[int, int, int]:
    """Return the lowest and the highest frame of present pages, and how many there are."""
    numbers = _number_frames(entries[_find_present(entries)])
    return int(numbers.min()), int(numbers.max()), len(numbers)


def _find_blocks(
    entries: Sequence[Words], lowest: int, highest: int, count: int, shift: int, run: Run
) -> _Blocks:
    """Return the blocks of `count` frames, which lie between the lowest and the highest."""
    first = lowest >> shift
    span = (highest >> shift) - first + 1
    if span > min(_TABLE_SPAN_PER_PAGE * count, _LARGEST_TABLE_SPAN):
        numbers = [_number_frames(piece[_find_present(piece)]) >> shift for piece in entries]
        together = np.sort(np.concatenate(numbers))  # np.unique imports a module: no worker can
        return _Blocks(shift, together[np.diff(together, prepend=-1) != 0], first, None)
    is_used = np.zeros(span, np.bool_)

    def mark(piece: Words) -> None:
        is_used[(_number_frames(piece[_find_present(piece)]) >> shift) - first] = True

    _complete(run(mark, entries))
    used = np.flatnonzero(is_used)
    places = np.empty(span, np.int32)  # never touched but where it is used
    places[used] = np.arange(len(used), dtype=np.int32)
    return _Blocks(shift, used + first, first, places)


def _fill_in(
    read: Callable[[NDArray[np.int64]], Words],
    entries: Sequence[Words],
    flags: Sequence[Words],
    blocks: _Blocks,
    places: range,
    run: Run,
) -> None:
    """Fill in the flags of the pages whose frames are in the blocks in these places."""
    words = _read_blocks(read, blocks, places, run)
    _complete(run(_gather, entries, flags, repeat(blocks), repeat(places.start), repeat(words)))


def _read_blocks(
    read: Callable[[NDArray[np.int64]], Words], blocks: _Blocks, places: range, run: Run
) -> Words:
    """Return the words of the blocks in these places, 0 past the last frame."""
    numbers = blocks.numbers[places.start : places.stop]
    words = np.zeros(len(numbers) << blocks.shift, np.uint64)

    def read_part(start: int) -> None:
        part = numbers[start : start + _BLOCKS_OF_A_READ]
        at, end = start << blocks.shift, (start + len(part)) << blocks.shift
        words[at:end] = read(part)

    starts = range(0, len(numbers), _BLOCKS_OF_A_READ)
    # Threads would only wait for each other between reads as short as those of small blocks.
    _complete(run(read_part, starts) if blocks.shift == _BLOCK_SHIFT else map(read_part, starts))
    return words


def _read_runs(
    kpageflags: int, numbers: NDArray[np.int64], breaks: NDArray[np.intp], shift: int
) -> Words:
    """Return the words of blocks, which follow each other but where there are breaks."""
    starts, ends = numbers[np.concatenate(([0], breaks))], numbers[np.append(breaks - 1, -1)] + 1
    offsets = ((starts << shift) * _WORD_BYTES).tolist()
    lengths = (((ends - starts) << shift) * _WORD_BYTES).tolist()
    words = read_parts(kpageflags, lengths, offsets)
    if len(words) != sum(lengths):  # the last frame lies in one of these, or before
        parts = map(read_fully, repeat(kpageflags), lengths, offsets)
        words = b"".join(
            part.ljust(length, b"\0") for part, length in zip(parts, lengths, strict=True)
        )
    return np.frombuffer(words, np.uint64)


def _gather(entries: Words, flags: Words, blocks: _Blocks, first: int, words: Words) -> None:
    """Fill in the flags of the pages whose blocks' words these are, from place `first` on."""
    where = _find_present(entries)
    numbers = _number_frames(entries[where])
    index = (blocks.place(numbers >> blocks.shift) - first) << blocks.shift
    index |= numbers & ((1 << blocks.shift) - 1)
    if len(words) == len(blocks.numbers) << blocks.shift:  # all of them
        flags[where] = words[index]
        return
    inside = np.flatnonzero((index >= 0) & (index < len(words)))
    flags[inside if isinstance(where, slice) else where[inside]] = words[index[inside]]
