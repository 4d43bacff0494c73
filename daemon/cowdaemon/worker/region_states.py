# SPDX-License-Identifier: Apache-2.0
"""What pages are, from what PAGEMAP_SCAN says of them, where that suffices. Pure.

The kernel tells regions of pages that are alike, so that one look is for many. FILE is what bit 61
of pagemap says as well: a page that is not anonymous (pagemap_page_category, fs/proc/task_mmu.c). A
present page that is neither a file's nor of zeros is an anonymous one in anonymous memory;
elsewhere it may be a driver's, of which the kernel knows no page (vm_normal_page, mm/memory.c). A
huge page may be the one of zeros: 6.18 says PFNZERO of that, others do not (pagemap_thp_category).
Whatever is swapped may be a marker. What is left is to be read from pagemap; of what is told both
say the same.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from cowdaemon.worker.page_scan import Category
from cowdaemon.worker.page_states import Bytes, Mask, PageState

__all__ = ["NOT_TOLD", "classify_regions"]

NOT_TOLD: Final = 0
"""In the place of a PageState."""

_CATEGORIES: Final = 2 * max(Category)


def classify_regions(categories: NDArray[np.int64], is_anonymous: Mask) -> Bytes:
    """Return the state (PageState) of the pages of each region, or NOT_TOLD.

    Args:
        categories: bits of Category, one element a region; 0 where nobody has looked.
        is_anonymous: whether it lies in an anonymous mapping; the same shape.
    """
    states: Bytes = _STATES[is_anonymous.view(np.uint8), categories]
    return states


def _tabulate() -> Bytes:
    states = np.full((2, _CATEGORIES), NOT_TOLD, np.uint8)
    states[:, Category.PRESENT | Category.FILE] = PageState.FILE
    states[:, Category.PRESENT | Category.PFNZERO] = PageState.ZERO
    states[1, Category.PRESENT] = PageState.ANON
    return states


_STATES: Final = _tabulate()
