# SPDX-License-Identifier: Apache-2.0
"""Every kind of page, asked through the daemon and by the library without it.

The two agree, but for what the table in the README says that the kernel alone cannot tell. It is
read here: a row that is not true fails, and so does a difference that has no row.
"""

from typing import Final, NamedTuple

import pytest
from harness.daemon import ROOT
from harness.local import LocalCaller
from harness.programs import Caller, Page, StartSubject, iter_stretches, parse_pages
from harness.states import Answer, ask

HEADINGS: Final = "| page | daemon | local | local before 6.7 |\n|---|---|---|---|\n"
NEWER, OLDER = "newer", "older"
"""A kernel with PAGEMAP_SCAN, and one without it."""
NO_ROW = "alike"
ROWS: Final = {
    "page of zeros": ("zero", None),
    "huge page of zeros": ("huge-zero", None),
    "anonymous memory shared after a fork": ("fork", None),
    "marker of userfaultfd, write-protected": ("uffd-file", None),
    "marker of userfaultfd, poisoned": ("uffd-poisoned", None),
    "swapped out and write-protected by userfaultfd": ("uffd-swapped", "swapped_directory"),
}
"""The rows of the table, and a kind of page that has it with the fixture that is its argument."""


class Row(NamedTuple):
    """What is told of a page, as the README has it."""

    daemon: str
    newer: str
    older: str


def read_table() -> dict[str, Row]:
    """Return the README's table of what the backends tell, by the first cell."""
    text = (ROOT / "README.md").read_text()
    _, found, rest = text.partition(HEADINGS)
    assert found, "the table of what each backend tells is not in the README"
    rows = rest.partition("\n\n")[0].splitlines()
    cells = ([cell.strip() for cell in row.strip("| ").split("|")] for row in rows)
    return {name: Row(*(cell.strip("`") for cell in told)) for name, *told in cells}


@pytest.mark.parametrize("kernel", [NEWER, OLDER])
def test_another_process_of_the_same_user(
    kind: tuple[str, ...],
    kernel: str,
    nobody: Caller,
    local: LocalCaller,
    start_subject: StartSubject,
) -> None:
    subject = start_subject(*kind)
    verify_agreement(nobody, local, parse_pages(subject.description), kernel, kind[0])


@pytest.mark.parametrize("kernel", [NEWER, OLDER])
def test_a_process_about_itself(
    kind: tuple[str, ...], kernel: str, nobody: Caller, local: LocalCaller
) -> None:
    description = local.create(*kind)
    if "unavailable" in description:
        pytest.skip(str(description["unavailable"]))
    verify_agreement(nobody, local, parse_pages(description), kernel, kind[0])


def verify_agreement(
    nobody: Caller, local: LocalCaller, pages: list[Page], kernel: str, kind: str
) -> None:
    """Assert that both backends tell the same, or what the table says."""
    table = read_table()
    for stretch in iter_stretches(pages):
        pid, address = stretch[0].pid, stretch[0].address
        told = ask(nobody, pid, address, len(stretch))
        found = local.ask(pid, address, len(stretch), has_scan=kernel == NEWER)
        for page, daemon, (state, attributes) in zip(stretch, told, found, strict=True):
            row = table.get(find_row(kind, page, daemon))
            row = row or Row(*[daemon.state.lower()] * 3)
            assert daemon.state.lower() == row.daemon, page
            assert state.lower() == (row.newer if kernel == NEWER else row.older), page
            # What only the flags of the frame tell.
            assert attributes == daemon.attributes - {"LAZYFREE"}, page


def find_row(kind: str, page: Page, told: Answer) -> str:
    """Return the row of the table that a page belongs in."""
    is_shared = "EXCLUSIVE" not in told.attributes
    if page.marker:
        how = "write-protected" if "UFFD_WP" in told.attributes else "poisoned"
        return f"marker of userfaultfd, {how}"
    if told.state == "ANON_SWAPPED" and "UFFD_WP" in told.attributes:
        return "swapped out and write-protected by userfaultfd"
    if told.state == "ZERO":
        return "huge page of zeros" if kind == "huge-zero" else "page of zeros"
    if told.state == "ANON" and page.mapping == "ANONYMOUS" and is_shared:
        return "anonymous memory shared after a fork"
    return NO_ROW


def test_the_table_has_these_rows() -> None:
    assert set(read_table()) == set(ROWS)


@pytest.mark.parametrize("row", ROWS)
def test_every_row_is_of_some_page(
    row: str, request: pytest.FixtureRequest, nobody: Caller, start_subject: StartSubject
) -> None:
    kind, fixture = ROWS[row]
    subject = start_subject(kind, *([request.getfixturevalue(fixture)] if fixture else []))
    rows = {
        find_row(kind, page, told)
        for stretch in iter_stretches(parse_pages(subject.description))
        for page, told in zip(
            stretch, ask(nobody, stretch[0].pid, stretch[0].address, len(stretch)), strict=True
        )
    }
    assert row in rows
