# SPDX-License-Identifier: Apache-2.0
"""What memory is for, and who has which pages."""

import pytest
from cowd import (
    ComparedPages,
    Mapping,
    MappingComparison,
    MappingKind,
    MemoryGroup,
    PageComparison,
    PageCopier,
    PageState,
    Shares,
)
from cowd._shares import choose_group, count_shares, group_shares

PAGE = 4096
START = 0x7F0000000000
ABSENT, FILE, ANON, SWAPPED = (
    PageState.ABSENT,
    PageState.FILE,
    PageState.ANON,
    PageState.ANON_SWAPPED,
)
UNKNOWN = PageState.UNKNOWN
NOBODY = PageCopier.UNSPECIFIED


def make(path=b"", permissions="rw-p", kind=MappingKind.ANONYMOUS, start=START):
    return Mapping(start, start + 8 * PAGE, permissions, 0, path, kind)


@pytest.mark.parametrize(
    ("mapping", "group"),
    [
        (make(b"[heap]"), "heap"),
        (make(b"[stack]"), "stack"),
        (make(), "anonymous"),
        (make(b"[anon: pool]"), "anonymous"),
        (make(b"/lib/x.so", kind=MappingKind.PRIVATE_FILE), "library"),
        (make(b"/lib/x.so", "r--p", MappingKind.PRIVATE_FILE), "library"),
        (make(b"/data", kind=MappingKind.PRIVATE_FILE), "file"),
        (make(b"/lib/x.so", "rw-s", MappingKind.SHARED_FILE), "shared"),
        (make(b"/dev/shm/x", "rw-s", MappingKind.SHARED_FILE), "shared"),
        (make(b"[vdso]", "r-xp", MappingKind.SPECIAL), "special"),
    ],
    ids=lambda value: getattr(value, "path", b"").decode() if not isinstance(value, str) else value,
)
def test_memory_is_for_something(mapping, group):
    assert choose_group(mapping, {b"/lib/x.so"}) == group


@pytest.mark.parametrize(
    ("alike", "name"),
    [
        ((PageComparison.SAME, ANON, ANON, NOBODY), "shared"),
        ((PageComparison.SAME, FILE, FILE, NOBODY), "shared"),
        ((PageComparison.SAME, SWAPPED, SWAPPED, NOBODY), "shared"),
        ((PageComparison.DIFFERENT, ANON, ANON, PageCopier.SECOND), "copied_by_child"),
        ((PageComparison.DIFFERENT, FILE, ANON, PageCopier.SECOND), "copied_by_child"),
        ((PageComparison.DIFFERENT, ANON, ANON, PageCopier.FIRST), "copied_by_parent"),
        ((PageComparison.DIFFERENT, ANON, ANON, PageCopier.BOTH), "both"),
        ((PageComparison.DIFFERENT, ANON, SWAPPED, NOBODY), "different"),
        ((PageComparison.ONLY_SECOND, ABSENT, ANON, NOBODY), "own"),
        ((PageComparison.ONLY_SECOND, ABSENT, SWAPPED, NOBODY), "own"),
        ((PageComparison.ONLY_SECOND, ABSENT, FILE, NOBODY), "file_only"),
        ((PageComparison.ONLY_SECOND, ABSENT, UNKNOWN, NOBODY), "unknown"),
        ((PageComparison.ONLY_FIRST, ANON, ABSENT, NOBODY), "parent_only"),
        ((PageComparison.ONLY_FIRST, SWAPPED, PageState.ZERO, NOBODY), "parent_only"),
        ((PageComparison.ONLY_FIRST, FILE, ABSENT, NOBODY), "file_only"),
        ((PageComparison.NEITHER, ABSENT, PageState.GUARD, NOBODY), "neither"),
        ((PageComparison.UNKNOWN, ANON, SWAPPED, NOBODY), "unknown"),
    ],
)
def test_pages_are_somebodys(alike, name):
    shares = count_shares([ComparedPages(*alike, 3), ComparedPages(*alike, 4)])
    assert shares == Shares(**{name: 7})
    assert shares.total == 7


def test_what_memory_is_for_is_said_by_the_childs_mapping():
    """Seen to fail where the parent's mapping comes first."""
    code = make(b"/lib/x.so", "r-xp", MappingKind.PRIVATE_FILE)
    data = make(b"/lib/x.so", kind=MappingKind.PRIVATE_FILE)
    same = [ComparedPages(PageComparison.SAME, ANON, ANON, NOBODY, 2)]
    lone = [ComparedPages(PageComparison.ONLY_FIRST, ANON, ABSENT, NOBODY, 3)]
    compared = [
        MappingComparison(START, START + PAGE, data, make(b"[heap]"), same),
        MappingComparison(START, START + PAGE, data, data, same),  # which the child never executes
        MappingComparison(START, START + PAGE, code, None, lone),
        MappingComparison(START, START + PAGE, data, None, lone),
        MappingComparison(START, START + PAGE, None, make(), same),
    ]
    assert list(group_shares(compared).items()) == [
        (MemoryGroup.HEAP, Shares(shared=2)),
        (MemoryGroup.ANONYMOUS, Shares(shared=2)),
        (MemoryGroup.LIBRARY, Shares(parent_only=6)),
        (MemoryGroup.FILE, Shares(shared=2)),
    ]
