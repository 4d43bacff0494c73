# SPDX-License-Identifier: Apache-2.0
"""The kernel's page flags: bits of /proc/kpageflags by the names and letters of page-types.

Pure values. Bits 0 to 26 are stable (linux/kernel-page-flags.h); those from 32 on are the kernel's
own (include/linux/kernel-page-flags.h) and may change with any release. A kernel may set bits that
this table lacks: they print as `bit_NN`.
"""

import re
from collections.abc import Iterator
from difflib import get_close_matches
from enum import KEEP, IntFlag
from typing import Final, NamedTuple

__all__ = [
    "FLAG_DESCRIPTIONS",
    "FlagDescription",
    "KernelPageFlags",
    "describe_flags",
    "format_letters",
    "parse_flags",
]


class KernelPageFlags(IntFlag, boundary=KEEP):
    """One word of /proc/kpageflags. Lower-case member names are the names of page-types."""

    LOCKED = 1 << 0
    ERROR = 1 << 1
    REFERENCED = 1 << 2
    UPTODATE = 1 << 3
    DIRTY = 1 << 4
    LRU = 1 << 5
    ACTIVE = 1 << 6
    SLAB = 1 << 7
    WRITEBACK = 1 << 8
    RECLAIM = 1 << 9
    BUDDY = 1 << 10
    MMAP = 1 << 11
    ANONYMOUS = 1 << 12
    SWAPCACHE = 1 << 13
    SWAPBACKED = 1 << 14
    COMPOUND_HEAD = 1 << 15
    COMPOUND_TAIL = 1 << 16
    HUGE = 1 << 17
    UNEVICTABLE = 1 << 18
    HWPOISON = 1 << 19
    NOPAGE = 1 << 20
    KSM = 1 << 21
    THP = 1 << 22
    OFFLINE = 1 << 23
    ZERO_PAGE = 1 << 24
    IDLE_PAGE = 1 << 25
    PGTABLE = 1 << 26
    RESERVED = 1 << 32
    MLOCKED = 1 << 33
    OWNER_2 = 1 << 34
    PRIVATE = 1 << 35
    PRIVATE_2 = 1 << 36
    OWNER_PRIVATE = 1 << 37
    ARCH = 1 << 38
    UNCACHED = 1 << 39
    SOFTDIRTY = 1 << 40
    ARCH_2 = 1 << 41
    ARCH_3 = 1 << 42

    @property
    def names(self) -> tuple[str, ...]:
        """The names of page-types for the bits that are set, lowest first."""
        return tuple(description.name for description in describe_flags(self))


class FlagDescription(NamedTuple):
    """What one bit is called and means. `letter` is empty where it has none of its own."""

    bit: int
    letter: str
    name: str
    meaning: str


_LETTERS_AND_MEANINGS: Final = {
    KernelPageFlags.LOCKED: ("L", "locked for exclusive access, as during I/O"),
    KernelPageFlags.ERROR: ("E", "an I/O error happened (not set by current kernels)"),
    KernelPageFlags.REFERENCED: ("R", "used since it was last put on or moved in an LRU list"),
    KernelPageFlags.UPTODATE: ("U", "its contents are valid"),
    KernelPageFlags.DIRTY: ("D", "newer than what is on disk: needs writing back"),
    KernelPageFlags.LRU: ("l", "in a list for reclaim"),
    KernelPageFlags.ACTIVE: ("A", "in the active list: reclaimed later than others"),
    KernelPageFlags.SLAB: ("S", "used by the kernel's own allocator"),
    KernelPageFlags.WRITEBACK: ("W", "being written back to disk"),
    KernelPageFlags.RECLAIM: ("I", "will be reclaimed as soon as it is written back"),
    KernelPageFlags.BUDDY: ("B", "a free block of the page allocator"),
    KernelPageFlags.MMAP: ("M", "mapped by some process (any page of its folio counts)"),
    KernelPageFlags.ANONYMOUS: ("a", "anonymous: in a private file mapping, a private copy"),
    KernelPageFlags.SWAPCACHE: ("s", "has an entry in swap space"),
    KernelPageFlags.SWAPBACKED: ("b", "backed by swap, as all tmpfs pages are, copied or not"),
    KernelPageFlags.COMPOUND_HEAD: ("H", "first page of a folio of several pages"),
    KernelPageFlags.COMPOUND_TAIL: ("T", "a further page of a folio of several pages"),
    KernelPageFlags.HUGE: ("G", "part of a hugetlb page"),
    KernelPageFlags.UNEVICTABLE: ("u", "cannot be reclaimed, as after mlock"),
    KernelPageFlags.HWPOISON: ("X", "damaged memory, as the hardware says: do not touch"),
    KernelPageFlags.NOPAGE: ("n", "no page frame exists here"),
    KernelPageFlags.KSM: ("x", "merged with identical pages of others (KSM)"),
    KernelPageFlags.THP: ("t", "in a transparent huge page, or a large folio of a file"),
    KernelPageFlags.OFFLINE: ("o", "logically offline, as in a balloon"),
    KernelPageFlags.ZERO_PAGE: ("z", "the shared page of zeros: read, never written"),
    KernelPageFlags.IDLE_PAGE: ("i", "not used since it was marked idle"),
    KernelPageFlags.PGTABLE: ("g", "holds a page table"),
    KernelPageFlags.RESERVED: ("r", "kernel-internal: reserved, not managed as memory"),
    KernelPageFlags.MLOCKED: ("m", "kernel-internal: locked in memory by mlock"),
    KernelPageFlags.OWNER_2: ("d", "kernel-internal: with anonymous, mapped exclusively"),
    KernelPageFlags.PRIVATE: ("P", "kernel-internal: a file system keeps data with it"),
    KernelPageFlags.PRIVATE_2: ("p", "kernel-internal: for the file system or cache"),
    KernelPageFlags.OWNER_PRIVATE: ("O", "kernel-internal: for the page's owner"),
    KernelPageFlags.ARCH: ("h", "kernel-internal: differs by architecture"),
    KernelPageFlags.UNCACHED: ("c", "kernel-internal: mapped without the processor's cache"),
    KernelPageFlags.SOFTDIRTY: ("f", "kernel-internal: written since soft-dirty was cleared"),
    KernelPageFlags.ARCH_2: ("", "kernel-internal: differs by architecture"),
    KernelPageFlags.ARCH_3: ("", "kernel-internal: differs by architecture"),
}

FLAG_DESCRIPTIONS: Final = tuple(
    FlagDescription(flag.bit_length() - 1, letter, str(flag.name).lower(), meaning)
    for flag, (letter, meaning) in _LETTERS_AND_MEANINGS.items()
)
"""Every known flag, lowest bit first."""

_BY_BIT: Final = {description.bit: description for description in FLAG_DESCRIPTIONS}
_BY_NAME: Final = {description.name: description.bit for description in FLAG_DESCRIPTIONS}
_BY_LETTER: Final = {flag.letter: flag.bit for flag in FLAG_DESCRIPTIONS if flag.letter}
_WORD: Final = re.compile(r"0x[0-9a-f]+|[0-9]+", re.ASCII | re.IGNORECASE)
_UNKNOWN_BIT: Final = re.compile(r"bit_([0-9]{1,2})", re.ASCII)


def describe_flags(flags: int) -> Iterator[FlagDescription]:
    """Yield a description of each bit that is set, lowest first."""
    for bit in range(flags.bit_length()):
        if flags >> bit & 1:
            yield _BY_BIT.get(bit) or FlagDescription(
                bit, "", f"bit_{bit:02}", "not known to this version of cowctl"
            )


def format_letters(flags: int) -> str:
    """Return the letters of page-types, lowest bit first; flags without a letter follow by name."""
    described = list(describe_flags(flags))
    letters = "".join(flag.letter for flag in described)
    names = [flag.name for flag in described if not flag.letter]
    return ",".join([letters, *names] if letters else names)


def parse_flags(text: str) -> KernelPageFlags:
    """Read flags as people write them.

    Args:
        text: a word (`0x5828`, or decimal), names or `bit_NN` (`uptodate,lru`) or letters
            (`UlMab`; underscores, which page-types prints for clear bits, are skipped), in any
            mixture between commas. A name goes before letters that spell it.

    Raises:
        ValueError: a part is none of these, or the word has more than 64 bits.
    """
    flags = 0
    for part in text.split(","):
        flags |= _parse_part(part.strip())
    if flags >> 64:
        raise ValueError(f"{text} has more than 64 bits")
    return KernelPageFlags(flags)


def _parse_part(part: str) -> int:
    if _WORD.fullmatch(part):
        return int(part, 16 if part[:2].lower() == "0x" else 10)
    if (bit := _BY_NAME.get(part.lower())) is not None:
        return 1 << bit
    if match := _UNKNOWN_BIT.fullmatch(part.lower()):
        return 1 << int(match[1])
    flags = 0
    for letter in part.replace("_", ""):
        bit = _BY_LETTER.get(letter)
        if bit is None or flags >> bit & 1:  # A letter that comes twice: rather a misspelt name.
            near = get_close_matches(part.lower(), _BY_NAME, 1)
            hint = f"did you mean {near[0]}?" if near else f"{letter!r} is unknown or comes twice"
            raise ValueError(f"{part!r} is no flag word, name or letters: {hint}")
        flags |= 1 << bit
    if not flags:
        raise ValueError("no flag is named")
    return flags
