# SPDX-License-Identifier: Apache-2.0
"""The mappings of a process, as /proc/PID/maps tells them.

Worker, unprivileged. Parsing is pure; reading goes through a descriptor that was handed over.
"""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from enum import IntEnum
from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np

from cowdaemon.worker.pagemap import Numbers, Stretches

__all__ = [
    "NO_MAPPINGS",
    "Extent",
    "Mapping",
    "MappingKind",
    "find_anonymous",
    "iter_mappings",
    "number_extents",
    "number_mappings",
    "parse_mapping",
    "read_first_address",
]

_PAGE_SIZE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_READ_BYTES: Final = 1 << 16
_ADDRESS_BYTES: Final = 17
"""The longest start of a line, with its hyphen: the kernel writes no more lines than it has to."""
_LONGEST_PATH_BYTES: Final = 4096
"""PATH_MAX. Files that are deeper can be mapped, thousands of times: not all of that is kept."""
# fs/proc/task_mmu.c, show_vma_header_prefix(): start-end perms offset major:minor inode path
_LINE: Final = re.compile(
    rb"([0-9a-f]+)-([0-9a-f]+) ([-rwxsp]{4}) ([0-9a-f]+) [0-9a-f]+:[0-9a-f]+ (\d+) *(.*)"
)
# The same of many lines at once, without what an extent has no need of.
_EXTENT_LINES: Final = re.compile(
    rb"([0-9a-f]+)-([0-9a-f]+) ..(..) [0-9a-f]+ [0-9a-f]+:[0-9a-f]+ (\d+) *(.*)\n"
)
# Private memory that has a file by name, but no page of one that could be copied: the device of
# zeros (mmap_zero, drivers/char/mem.c) and MAP_ANONYMOUS|MAP_HUGETLB (HUGETLB_ANON_FILE,
# include/linux/hugetlb.h).
_ANONYMOUS: Final = (b"/dev/zero", b"/anon_hugepage (deleted)")
_SPECIAL: Final = (b"[vdso]", b"[vvar]", b"[vvar_vclock]", b"[vsyscall]", b"[uprobes]")


_KNOWN_TEXTS: Final = 256
"""Pages of text, and their rows: 1.6 MB. A hundred forked processes have less of their own."""


class MappingKind(IntEnum):
    """cowd.v1.MappingKind."""

    PRIVATE_FILE = 1
    SHARED_FILE = 2
    ANONYMOUS = 3
    SPECIAL = 4


NO_MAPPINGS: Final[Numbers] = np.empty((0, 3), np.int64)


class Extent(NamedTuple):
    """Where a mapping is, in bytes, and what backs it."""

    start_address: int
    end_address: int
    kind: MappingKind


class Mapping(NamedTuple):
    """One line of maps. Addresses and offset in bytes; `path` as the kernel writes it."""

    start_address: int
    end_address: int
    permissions: str
    file_offset_bytes: int
    path: bytes
    kind: MappingKind


def iter_mappings(maps: int) -> Iterator[Mapping]:
    """Yield the mappings in address order, none overlapping; none if the address space is gone.

    Args:
        maps: descriptor of /proc/PID/maps, read from its start with no regard to its position.
    """
    told_until = 0
    for lines in _iter_lines(maps):
        for line in lines.split(b"\n")[:-1]:
            mapping = _without_start(parse_mapping(line), told_until)
            if mapping.start_address < mapping.end_address:
                told_until = mapping.end_address
                yield mapping


def number_mappings(maps: int, verify_wanted: Callable[[], None] = lambda: None) -> Numbers:
    """Return what `number_extents` does of the mappings of `iter_mappings`, in less time.

    Args:
        maps: descriptor of /proc/PID/maps.
        verify_wanted: called before each read; what it raises ends the reading.

    Raises:
        ValueError: something there is no line of maps.
    """
    pieces = [NO_MAPPINGS]
    for lines in _iter_lines(maps):
        verify_wanted()
        # A line is as long as the path in it: longer ones than usual are not worth their memory.
        parse = _number_known_lines if len(lines) <= _PAGE_SIZE_BYTES else _number_lines
        pieces.append(parse(lines))
    mapped = np.concatenate(pieces)
    told_until = np.maximum.accumulate(mapped[:-1, 1])
    if (mapped[1:, 0] < told_until).any():
        np.maximum(mapped[1:, 0], told_until, out=mapped[1:, 0])
        mapped = mapped[mapped[:, 0] < mapped[:, 1]]
    return mapped


def _number_lines(lines: bytes) -> Numbers:
    found = _EXTENT_LINES.findall(lines)
    if len(found) != lines.count(b"\n"):
        raise ValueError(f"not lines of /proc/PID/maps: {lines!r}")
    rows = [
        (
            int(start, 16) // _PAGE_SIZE_BYTES,
            int(end, 16) // _PAGE_SIZE_BYTES,
            _find_kind(sharing, inode, path),
        )
        for start, end, sharing, inode, path in found
    ]
    return np.array(rows, np.int64).reshape(-1, 3)


_number_known_lines: Final = lru_cache(_KNOWN_TEXTS)(_number_lines)
"""The same of a page of text. That of forked processes is mostly the same, and so is that of a
process that is asked about again."""


def number_extents(extents: Sequence[Extent]) -> Numbers:
    """Return a row of three for each extent: its first page, the page after its last, its kind."""
    rows = [
        (start_address // _PAGE_SIZE_BYTES, end_address // _PAGE_SIZE_BYTES, kind)
        for start_address, end_address, kind in extents
    ]
    return np.array(rows, np.int64).reshape(-1, 3)


def find_anonymous(mapped: Numbers) -> Stretches:
    """Return the pages of anonymous mappings among these, which are as of `number_extents`."""
    anonymous: Stretches = mapped[mapped[:, 2] == MappingKind.ANONYMOUS, :2]
    return anonymous


def read_first_address(maps: int) -> int | None:
    """Return where the first mapping starts; None if the address space is gone."""
    start, _, _ = _read_chunk(maps, 0, _ADDRESS_BYTES).partition(b"-")
    return int(start, 16) if start else None


def _iter_lines(maps: int) -> Iterator[bytes]:
    """Yield the file by some whole lines at a time."""
    rest, offset = b"", 0
    while chunk := _read_chunk(maps, offset, _READ_BYTES):
        offset += len(chunk)
        lines, newline, rest = (rest + chunk).rpartition(b"\n")
        yield lines + newline


def _without_start(mapping: Mapping, told_until: int) -> Mapping:
    """Return what of it lies above: joined with one that was told of, between two reads."""
    skipped_bytes = max(0, told_until - mapping.start_address)
    if not skipped_bytes:
        return mapping
    has_file = mapping.kind is not MappingKind.ANONYMOUS or mapping.path in _ANONYMOUS
    return mapping._replace(
        start_address=told_until,
        file_offset_bytes=mapping.file_offset_bytes + has_file * skipped_bytes,
    )


def _read_chunk(maps: int, offset: int, length_bytes: int) -> bytes:
    try:
        return os.pread(maps, length_bytes, offset)
    except ProcessLookupError:  # ended, and reaped as well (m_start, fs/proc/task_mmu.c)
        return b""


def _find_kind(permissions: bytes, inode: bytes, path: bytes) -> MappingKind:
    is_shared = permissions.endswith(b"s")
    if inode != b"0":  # nearly always
        if is_shared:
            return MappingKind.SHARED_FILE
        return MappingKind.ANONYMOUS if path in _ANONYMOUS else MappingKind.PRIVATE_FILE
    if path in _SPECIAL:
        return MappingKind.SPECIAL
    return MappingKind.SHARED_FILE if is_shared else MappingKind.ANONYMOUS


def parse_mapping(line: bytes) -> Mapping:
    """Return the mapping that a line of maps describes, without its newline."""
    match = _LINE.fullmatch(line)
    if match is None:
        raise ValueError(f"not a line of /proc/PID/maps: {line!r}")
    start, end, permissions, offset, inode, path = match.groups()
    return Mapping(
        start_address=int(start, 16),
        end_address=int(end, 16),
        permissions=permissions.decode("ascii"),
        file_offset_bytes=int(offset, 16),
        path=path[:_LONGEST_PATH_BYTES],
        kind=_find_kind(permissions, inode, path),
    )
