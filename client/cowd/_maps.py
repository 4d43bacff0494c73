# SPDX-License-Identifier: Apache-2.0
"""The mappings of a process, from the text of /proc/PID/maps. Pure."""

import re
from collections.abc import Iterable, Iterator
from typing import Final

from cowd._mappings import Mapping, MappingKind

__all__ = ["iter_mappings"]

_ADDRESS_SPACE_BYTES: Final = 1 << 64
_LONGEST_PATH_BYTES: Final = 4096
"""PATH_MAX. Files that are deeper can be mapped, thousands of times: not all of that is kept."""
# fs/proc/task_mmu.c, show_vma_header_prefix(): start-end perms offset major:minor inode path
_LINE: Final = re.compile(
    rb"[0-9a-f]+-[0-9a-f]+ ([-rwxsp]{4}) ([0-9a-f]+) [0-9a-f]+:[0-9a-f]+ (\d+) *(.*)"
)
_SPECIAL: Final = (b"[vdso]", b"[vvar]", b"[vvar_vclock]", b"[vsyscall]", b"[uprobes]")
# Private memory that has a file by name, but no page of one that could be copied: the device of
# zeros (mmap_zero, drivers/char/mem.c) and MAP_ANONYMOUS|MAP_HUGETLB (HUGETLB_ANON_FILE,
# include/linux/hugetlb.h).
_ANONYMOUS: Final = (b"/dev/zero", b"/anon_hugepage (deleted)")


def iter_mappings(
    chunks: Iterable[bytes], start_address: int = 0, end_address: int = _ADDRESS_SPACE_BYTES
) -> Iterator[Mapping]:
    """Yield the mappings in address order, none overlapping.

    Args:
        chunks: of the file's text, in order.
        start_address: in bytes; leave out mappings that end before.
        end_address: in bytes; leave out mappings that start there or after.
    """
    told_until = 0
    for line in _iter_lines(chunks):
        start, end = (int(address, 16) for address in line[: line.index(b" ")].split(b"-"))
        if end <= start_address or start >= end_address:
            continue  # before the rest is read, which takes most of the time
        match = _LINE.fullmatch(line)
        if match is None:
            raise ValueError(f"not a line of /proc/PID/maps: {line!r}")
        # The kernel writes a page of text at a time: two mappings that are joined in between
        # come once as the first of them, and once as both.
        skipped_bytes = max(0, told_until - start)
        if start + skipped_bytes >= end:
            continue
        told_until = end
        permissions, offset, inode, path = match.groups()
        kind = _choose_kind(permissions, inode, path)
        has_offset = inode != b"0"
        yield Mapping(
            start_address=start + skipped_bytes,
            end_address=end,
            permissions=permissions.decode("ascii"),
            file_offset_bytes=int(offset, 16) + has_offset * skipped_bytes,
            path=path[:_LONGEST_PATH_BYTES],
            kind=kind,
        )


def _iter_lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for chunk in chunks:
        # Of all that could be taken for the end of a line, the kernel escapes only this.
        *lines, rest = (rest + chunk).split(b"\n")
        yield from lines


def _choose_kind(permissions: bytes, inode: bytes, path: bytes) -> MappingKind:
    if path in _SPECIAL:
        return MappingKind.SPECIAL
    if permissions.endswith(b"s"):
        return MappingKind.SHARED_FILE
    if inode == b"0" or path in _ANONYMOUS:
        return MappingKind.ANONYMOUS
    return MappingKind.PRIVATE_FILE
