# SPDX-License-Identifier: Apache-2.0
"""Bars: as long as they must be, and nothing that is there disappears."""

import pytest
from cowd import PageComparison, PageCopier, PageState
from cowd.cli.bars import draw_bar, share_out
from cowd.cli.symbols import BY_SHARE, BY_STATE, symbol_of_comparison
from hypothesis import given
from hypothesis import strategies as some

SIZES = some.lists(some.integers(0, 10**12), min_size=1, max_size=12)


@given(SIZES, some.integers(0, 60))
def test_a_bar_is_shared_out_in_proportion(sizes, width):
    """Seen to fail with lengths that are rounded each by itself, and with parts of no length."""
    lengths = share_out(sizes, width)
    total = sum(sizes)
    assert sum(lengths) == (width if total else 0)
    present = [index for index, size in enumerate(sizes) if size]
    assert not any(lengths[index] for index in range(len(sizes)) if index not in present)
    if len(present) <= width:
        assert all(lengths[index] for index in present)
        # The ones that were given to small parts are taken from the others.
        for index in present:
            assert abs(lengths[index] - sizes[index] * width / total) <= max(1, len(present))
    else:
        hidden = [sizes[index] for index in present if not lengths[index]]
        shown = [sizes[index] for index in present if lengths[index]]
        assert not shown or max(hidden) <= min(shown)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [((3, 1), "aaaaaaff"), ((10**9, 1), "aaaaaaaf"), ((0, 0), ""), ((0, 5), "ffffffff")],
)
def test_a_bar_is_drawn(counts, expected):
    symbols = BY_STATE[PageState.ANON], BY_STATE[PageState.FILE]
    parts = draw_bar(list(zip(symbols, counts, strict=True)), 8)
    assert "".join(text for text, _ in parts) == expected
    styles = {symbol.char: symbol.style for symbol in symbols}
    assert all(style == styles[text[0]] for text, style in parts)


def test_symbols_of_one_picture_differ_without_colour():
    """Seen to fail with one character for two copiers."""
    compared = {
        symbol_of_comparison(comparison, copier)
        for comparison in PageComparison
        for copier in PageCopier
    }
    for symbols in (set(BY_STATE.values()), compared, set(BY_SHARE.values())):
        assert len({symbol.char for symbol in symbols}) == len(symbols)
        assert len({symbol.rank for symbol in symbols}) == len(symbols)
        assert len({symbol.meaning for symbol in symbols}) == len(symbols)
