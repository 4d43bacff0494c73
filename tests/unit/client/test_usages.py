# SPDX-License-Identifier: Apache-2.0
"""Rows of `cowctl top`: their order, and what changed since the look before."""

from mmap import PAGESIZE

import pytest
from cowd import KindTotals, MappingKind, NoSuchProcess, PageCounts, ProcessSummary
from cowd.cli.usages import ORDERS, add_usages, list_usages, sort_usages


def summarize(pid, *, copied=0, heap=0, swapped=0, started=100):
    totals = [
        KindTotals(MappingKind.PRIVATE_FILE, 2, PageCounts(file=10, anon=copied, absent=5)),
        KindTotals(MappingKind.ANONYMOUS, 1, PageCounts(anon=heap, anon_swapped=swapped)),
    ]
    return ProcessSummary(pid, started, PAGESIZE, totals)


def look(*summaries, before=None, elapsed=0.0):
    return list_usages(summaries, lambda pid: ("u", f"c{pid}"), before, elapsed)


def test_a_row_is_what_the_summary_says():
    [row] = look(summarize(7, copied=3, heap=4, swapped=2))
    assert (row.pid, row.start_time_ticks, row.user, row.command) == (7, 100, "u", "c7")
    assert row.counts == PageCounts(file=10, anon=7, absent=5, anon_swapped=2)
    assert row.by_kind[MappingKind.ANONYMOUS].resident == 4
    assert row.copied_page_count == 3
    assert row.copied_since_page_count is None
    assert row.copied_pages_per_second is None


def test_what_failed_has_no_row():
    failed = ProcessSummary(8, 0, PAGESIZE, (), NoSuchProcess("gone"))
    assert [row.pid for row in look(failed, summarize(7))] == [7]


def test_changes_are_of_the_same_process_and_by_the_time_that_went_by():
    """Seen to fail with processes known by their pid alone."""
    before = look(summarize(1, copied=3), summarize(2, copied=9), summarize(3, copied=4))
    rows = look(
        summarize(1, copied=8),
        summarize(2, copied=2),
        summarize(3, copied=6, started=200),
        summarize(4, copied=1),
        before=before,
        elapsed=2.0,
    )
    assert [row.copied_since_page_count for row in rows] == [5, -7, 6, 1]
    assert [row.copied_pages_per_second for row in rows] == [2.5, -3.5, 3.0, 0.5]
    total = add_usages(rows)
    assert total.copied_since_page_count == 5
    assert total.copied_page_count == 17
    assert total.by_kind[MappingKind.PRIVATE_FILE].file == 40


@pytest.mark.parametrize(
    ("order", "pids"),
    [
        ("copied", [2, 3, 1]),
        ("resident", [3, 2, 1]),
        ("anon", [3, 2, 1]),
        ("swapped", [1, 3, 2]),
        ("pid", [1, 2, 3]),
    ],
)
def test_most_comes_first_and_ties_are_decided(order, pids):
    rows = look(
        summarize(1, copied=1, swapped=5), summarize(2, copied=9), summarize(3, copied=1, heap=20)
    )
    assert [row.pid for row in sort_usages(rows, order)] == pids
    assert set(ORDERS) == {"copied", "resident", "anon", "swapped", "pid"}
