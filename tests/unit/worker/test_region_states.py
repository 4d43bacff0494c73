# SPDX-License-Identifier: Apache-2.0
"""What the categories of PAGEMAP_SCAN tell, and what they leave to be read."""

import numpy as np
import pytest
from cowdaemon.worker.page_scan import Category
from cowdaemon.worker.page_states import PageState
from cowdaemon.worker.region_states import NOT_TOLD, classify_regions

PRESENT, FILE, ZERO = Category.PRESENT, Category.FILE, Category.PFNZERO
TOLD = {
    (PRESENT | FILE, False): PageState.FILE,
    (PRESENT | FILE, True): PageState.FILE,
    (PRESENT | ZERO, False): PageState.ZERO,
    (PRESENT | ZERO, True): PageState.ZERO,
    (PRESENT, True): PageState.ANON,
}


@pytest.mark.parametrize("is_anonymous", [False, True])
def test_only_what_is_certain_is_told(is_anonymous: bool) -> None:
    """Seen to fail with huge pages told, and with what is in a file's mapping told as anonymous."""
    categories = np.arange(2 * Category.HUGE)
    states = classify_regions(categories, np.full(len(categories), is_anonymous))
    assert {
        category: state for category, state in enumerate(states.tolist()) if state != NOT_TOLD
    } == {int(category): state for (category, kind), state in TOLD.items() if kind == is_anonymous}
