# SPDX-License-Identifier: Apache-2.0
"""Ranges as people write them, and their parts by mapping."""

import pytest
from cowd import Mapping, MappingKind
from cowd._runs import Segment, iter_segments
from cowd.cli.ranges import AddressRange, align_range, parse_range


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("7f00", AddressRange(0x7F00, 1)),
        ("0x7F00", AddressRange(0x7F00, 1)),
        ("7f00+16", AddressRange(0x7F00, 16)),
        ("0x7f00-0x8f00", AddressRange(0x7F00, 1, 0x8F00)),
        ("7f00-8f00", AddressRange(0x7F00, 1, 0x8F00)),
        ("0", AddressRange(0, 1)),
        ("ffffffffffffffff", AddressRange(2**64 - 1, 1)),
    ],
)
def test_three_forms_are_read(text, expected):
    assert parse_range(text) == expected


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no range"),
        ("xyz", "no range"),
        ("1000+", "no range"),
        ("1000+a", "no range"),
        ("1000-", "no range"),
        ("-1000", "no range"),
        ("1000 2000", "no range"),
        ("1000\n", "no range"),
        ("٣", "no range"),
        ("1000+0", "empty"),
        ("2000-1000", "empty"),
        ("1000-1000", "empty"),
        ("10000000000000000", "past the largest"),
        ("1-10000000000000000", "past the largest"),
    ],
)
def test_other_forms_are_refused(text, why):
    with pytest.raises(ValueError, match=why):
        parse_range(text)


@pytest.mark.parametrize("page_size_bytes", [4096, 65536])
def test_whole_pages_are_left_alone(page_size_bytes):
    start, end = 16 * page_size_bytes, 18 * page_size_bytes
    assert align_range(AddressRange(start, 2), page_size_bytes) == (start, end, [])
    assert align_range(AddressRange(start, 1, end), page_size_bytes) == (start, end, [])


def test_addresses_inside_a_page_are_widened_with_a_note():
    assert align_range(AddressRange(0x1FFF, 2), 4096) == (
        0x1000,
        0x3000,
        ["note: 0x1fff is inside a page: rounded down to 0x1000"],
    )
    start, end, notes = align_range(AddressRange(0x1001, 1, 0x1002), 4096)
    assert (start, end) == (0x1000, 0x2000)
    assert len(notes) == 2


def test_the_last_page_can_be_asked_for_and_none_beyond():
    assert align_range(AddressRange(2**64 - 1, 1), 4096)[:2] == (2**64 - 4096, 2**64)
    with pytest.raises(ValueError, match="past 2"):
        align_range(AddressRange(2**64 - 1, 2), 4096)


def make(start, end):
    return Mapping(start, end, "rw-p", 0, b"", MappingKind.ANONYMOUS)


FIRST, SECOND, THIRD = make(0x2000, 0x4000), make(0x4000, 0x5000), make(0x7000, 0x9000)


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (0x0000, 0x1000, [Segment(0x0000, 0x1000, None)]),
        (0x2000, 0x3000, [Segment(0x2000, 0x3000, FIRST)]),
        (
            0x1000,
            0x8000,
            [
                Segment(0x1000, 0x2000, None),
                Segment(0x2000, 0x4000, FIRST),
                Segment(0x4000, 0x5000, SECOND),
                Segment(0x5000, 0x7000, None),
                Segment(0x7000, 0x8000, THIRD),
            ],
        ),
        (0x8000, 0xA000, [Segment(0x8000, 0x9000, THIRD), Segment(0x9000, 0xA000, None)]),
        (0x5000, 0x7000, [Segment(0x5000, 0x7000, None)]),
    ],
)
def test_ranges_are_cut_at_mappings(start, end, expected):
    assert list(iter_segments([FIRST, SECOND, THIRD], start, end)) == expected
