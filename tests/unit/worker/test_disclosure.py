# SPDX-License-Identifier: Apache-2.0
"""The masks, bit by bit: the lists of SECURITY.md, written down once more, and all of it."""

from typing import Any

import numpy as np
import pytest
from cowdaemon.worker.disclosure import FULL, SAFE
from cowdaemon.worker.page_states import Kpageflags
from harness.kernel_flags import (
    PAGEMAP_EXCLUSIVE,
    PAGEMAP_FILE,
    PAGEMAP_PRESENT,
    PRIVATE_FLAGS_MASK,
    SHARED_FLAGS_MASK,
    disclose,
    mask_flags,
)
from hypothesis import given
from hypothesis import strategies as st

PRIVATE = PAGEMAP_PRESENT | PAGEMAP_EXCLUSIVE
SHARED = PAGEMAP_PRESENT
FILE = PAGEMAP_PRESENT | PAGEMAP_FILE
EXCLUSIVE_FILE = FILE | PAGEMAP_EXCLUSIVE

ANON = mask_flags("anonymous")
THP = mask_flags("thp")

OF_ANY_PAGE = SHARED_FLAGS_MASK & ~THP
OF_A_PRIVATE_PAGE = PRIVATE_FLAGS_MASK


BITS = [1 << bit for bit in range(64)]


def apply_safe(entry: int, flags: int) -> int:
    shown: Any = SAFE.apply(np.array([entry], np.uint64), np.array([flags], np.uint64))
    assert shown.dtype == np.uint64
    return int(shown[0])


def test_masks_are_the_lists() -> None:
    assert SAFE.private_flags == OF_A_PRIVATE_PAGE == PRIVATE_FLAGS_MASK
    assert SAFE.shared_flags == OF_ANY_PAGE | THP == SHARED_FLAGS_MASK


@pytest.mark.parametrize(
    ("entry", "flags", "shown"),
    [
        pytest.param(PRIVATE, 0, OF_A_PRIVATE_PAGE, id="private"),
        pytest.param(PRIVATE, ANON, OF_A_PRIVATE_PAGE | THP, id="private-anonymous"),
        pytest.param(PRIVATE, THP | ANON, OF_ANY_PAGE | THP, id="private-in-THP"),
        pytest.param(SHARED, 0, OF_ANY_PAGE, id="shared"),
        pytest.param(SHARED, ANON, OF_ANY_PAGE | THP, id="shared-anonymous"),
        pytest.param(SHARED, THP | ANON, OF_ANY_PAGE | THP, id="shared-in-THP"),
        pytest.param(FILE, 0, OF_ANY_PAGE, id="file"),
        pytest.param(EXCLUSIVE_FILE, 0, OF_ANY_PAGE, id="exclusive-file"),
        # A large folio of the page cache; ANON beside the file bit is a race, and tells THP.
        pytest.param(EXCLUSIVE_FILE, THP, OF_ANY_PAGE, id="file-in-large-folio"),
    ],
)
def test_bits_are_shown_only_where_they_may(entry: int, flags: int, shown: int) -> None:
    found = sum(apply_safe(entry, flags | bit) & bit & ~flags for bit in BITS)
    assert found == shown & ~flags


def test_thp_hides_what_belongs_to_the_whole_folio() -> None:
    told = mask_flags("anonymous", "thp", "swapbacked")
    assert apply_safe(PRIVATE, told | mask_flags("dirty", "active", "mlocked", "lru")) == told


@pytest.mark.parametrize("entry", [PRIVATE, SHARED, FILE, EXCLUSIVE_FILE])
@pytest.mark.parametrize("others", [0, ANON, THP, ANON | THP, OF_A_PRIVATE_PAGE])
def test_what_no_list_names_is_never_shown(entry: int, others: int) -> None:
    """Among them what tells of a freed frame's next owner, and what a later kernel adds."""
    named = [SAFE.private_flags, SAFE.shared_flags]
    hidden = [bit for bit in BITS if not any(bit & mask for mask in named)]
    assert {Kpageflags.BUDDY, Kpageflags.SLAB, Kpageflags.PGTABLE, 1 << 63} <= set(hidden)
    assert not any(apply_safe(entry, others | bit) & bit for bit in hidden)


ENTRIES = st.sampled_from([PRIVATE, SHARED, FILE, EXCLUSIVE_FILE])
WORDS = st.integers(0, 2**64 - 1)


@given(st.lists(st.tuples(ENTRIES, st.integers(0, 2**55 - 1), WORDS)))
def test_words_are_disclosed_one_by_one(pages: list[tuple[int, int, int]]) -> None:
    """Against the rule as the tests with real pages know it, whatever the frame number is."""
    entries = np.array([entry | frame for entry, frame, _ in pages], np.uint64)
    flags = np.array([word for _, _, word in pages], np.uint64)
    shown = SAFE.apply(entries, flags).tolist()
    assert shown == [
        disclose(entry, word, PRIVATE_FLAGS_MASK, SHARED_FLAGS_MASK) for entry, _, word in pages
    ]
    assert flags.tolist() == [word for _, _, word in pages]  # not changed in place


@given(st.lists(st.tuples(ENTRIES, WORDS)))
def test_full_is_the_kernels_word(pages: list[tuple[int, int]]) -> None:
    """THP of the page cache as well, which hangs on no bit of the shared mask alone."""
    entries = np.array([entry for entry, _ in pages], np.uint64)
    flags = np.array([word for _, word in pages], np.uint64)
    shown = FULL.apply(entries, flags)
    assert shown.dtype == np.uint64
    assert shown.tolist() == flags.tolist()
    every_bit = 2**64 - 1
    assert shown.tolist() == [disclose(entry, word, every_bit, every_bit) for entry, word in pages]


def test_full_has_all_bits_of_the_contracts_masks() -> None:
    assert int(FULL.private_flags) == int(FULL.shared_flags) == 2**64 - 1
