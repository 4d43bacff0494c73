# SPDX-License-Identifier: Apache-2.0
"""Which bits of kpageflags a caller may see. Pure, on whole arrays.

An allow-list: a bit that a kernel adds tomorrow stays hidden. What depends on what *other* users do
with a frame is shown only where no other process maps it. Only whom the configuration trusts with
every flag sees the kernel's word as it is. Frame numbers, swap offsets and mapcounts have no place
here at all: nothing in an answer could hold them.
"""

from dataclasses import dataclass, field
from typing import Final

import numpy as np

from cowdaemon.worker.page_states import (
    Codes,
    Kpageflags,
    Words,
    encode,
    is_certainly_private,
    tabulate,
)

__all__ = ["FULL", "SAFE", "DisclosureMasks"]


@dataclass(frozen=True, slots=True)
class DisclosureMasks:
    """What may be seen of a certainly private page, and of any other; see cowd.v1."""

    private_flags: Kpageflags
    shared_flags: Kpageflags
    _of_codes: Words = field(init=False, repr=False, compare=False)
    _of_code: memoryview = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_of_codes", tabulate(self._choose))
        object.__setattr__(self, "_of_code", self._of_codes.data)

    def as_fields(self) -> dict[str, int]:
        """Return the fields of cowd.v1.DisclosureMasks."""
        return {
            "private_flags_mask": int(self.private_flags),
            "shared_flags_mask": int(self.shared_flags),
        }

    def apply(self, entries: Words, flags: Words, codes: Codes | None = None) -> Words:
        """Return `flags` without the hidden bits, given the pagemap entries of the same pages.

        `codes` as of `encode`, where they are known.
        """
        return flags & self._of_codes[encode(entries, flags) if codes is None else codes]

    def apply_to_page(self, code: int, flags: int) -> int:
        """Return what `apply` does, of one page, given its code."""
        return flags & self._of_code[code]

    def _choose(self, entries: Words, flags: Words) -> Words:
        """Return which bits may be seen of every page."""
        thp = np.uint64(Kpageflags.THP)
        is_private = is_certainly_private(entries) & np.equal(flags & thp, 0)
        is_anonymous = (flags & np.uint64(Kpageflags.ANON)) != 0
        private_flags, shared_flags = np.uint64(self.private_flags), np.uint64(self.shared_flags)
        of_anonymous_alone = thp & ~private_flags
        shared = np.where(is_anonymous, shared_flags, shared_flags & ~of_anonymous_alone)
        return np.where(is_private, private_flags, shared)


_OF_ANY_PAGE: Final = (
    Kpageflags.MMAP
    | Kpageflags.ANON
    | Kpageflags.SWAPBACKED
    | Kpageflags.HUGE
    | Kpageflags.ZERO_PAGE
    | Kpageflags.UPTODATE
    | Kpageflags.HWPOISON
)

# ACTIVE, REFERENCED, DIRTY and their like move when others use the page, are kept for the whole
# folio, and some stay after the others have gone: they tell of other users unless the page is
# certainly private. THP is told of anonymous pages only: of a page cache folio it says how the
# file system and other readers use the file.
SAFE: Final = DisclosureMasks(
    private_flags=_OF_ANY_PAGE
    | Kpageflags.SWAPCACHE
    | Kpageflags.KSM
    | Kpageflags.LRU
    | Kpageflags.ACTIVE
    | Kpageflags.REFERENCED
    | Kpageflags.DIRTY
    | Kpageflags.WRITEBACK
    | Kpageflags.LOCKED
    | Kpageflags.UNEVICTABLE
    | Kpageflags.MLOCKED,
    shared_flags=_OF_ANY_PAGE | Kpageflags.THP,
)
"""What everybody may see."""

_EVERY_BIT: Final = Kpageflags((1 << 64) - 1)
FULL: Final = DisclosureMasks(private_flags=_EVERY_BIT, shared_flags=_EVERY_BIT)
"""What those see whom the configuration trusts with all of it."""
