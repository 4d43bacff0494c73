# SPDX-License-Identifier: Apache-2.0
"""Which bits of kpageflags a caller may see. Pure, on whole arrays.

An allow-list: a bit that a kernel adds tomorrow stays hidden. What depends on what *other* users do
with a frame is shown only where no other process maps it. Frame numbers, swap offsets and mapcounts
have no place here at all: nothing in an answer could hold them.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from cowdaemon.worker.page_states import Kpageflags, Words, is_certainly_private

__all__ = ["SAFE", "DisclosureMasks"]


@dataclass(frozen=True, slots=True)
class DisclosureMasks:
    """What may be seen of a certainly private page, and of any other; see cowd.v1."""

    private_flags: Kpageflags
    shared_flags: Kpageflags

    def apply(self, entries: Words, flags: Words) -> Words:
        """Return `flags` without the hidden bits, given the pagemap entries of the same pages."""
        thp = np.uint64(Kpageflags.THP)
        is_private = is_certainly_private(entries) & np.equal(flags & thp, 0)
        is_anonymous = (flags & np.uint64(Kpageflags.ANON)) != 0
        shared = np.where(
            is_anonymous, np.uint64(self.shared_flags), np.uint64(self.shared_flags) & ~thp
        )
        return flags & np.where(is_private, np.uint64(self.private_flags), shared)


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
