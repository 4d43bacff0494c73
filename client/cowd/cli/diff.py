# SPDX-License-Identifier: Apache-2.0
"""`cowctl diff`: page by page, what two processes still share, and who has copied what."""

from collections import Counter
from collections.abc import Iterable, Sequence
from mmap import PAGESIZE
from typing import Any, Final

import click

from cowd import PageComparison, PageCopier
from cowd._comparison_runs import ComparisonRun
from cowd._overviews import open_client
from cowd.cli.bars import draw_bar
from cowd.cli.candidates import iter_pids, iter_ranges, offer
from cowd.cli.options import make_command, make_parser, socket_option
from cowd.cli.output import Column, Json, Output, format_word
from cowd.cli.pairs import Answer, Question, Sort, Total, read_pair
from cowd.cli.ranges import AddressRange, parse_range
from cowd.cli.strip import draw_pieces
from cowd.cli.symbols import Symbol, draw_legend, symbol_of_comparison
from cowd.cli.targets import align, mapping_option
from cowd.cli.text import decode_path

__all__ = ["command"]

SCHEMA: Final = "cowd.diff/1"

_PID: Final = click.IntRange(1, 2**31 - 1)
_COPIERS: Final = {
    PageCopier.UNSPECIFIED: None,
    PageCopier.FIRST: "first",
    PageCopier.SECOND: "second",
    PageCopier.BOTH: "both",
}


def _name_mapping(row: ComparisonRun | Total) -> str | None:
    """Return the name of what the first process has there, or the second if that has nothing."""
    mapping = row.mapping or row.other_mapping
    return decode_path(mapping.path) if mapping else None


def _name_other_mapping(row: ComparisonRun | Total) -> str | None:
    return decode_path(row.other_mapping.path) if row.other_mapping else None


def _style_run(run: ComparisonRun) -> str:
    return symbol_of_comparison(run.comparison, run.copied_by).style


_OTHER_MAPPING: Final[Column[Any]] = Column(
    "other_mapping",
    "OTHER-MAP",
    "what the second process has there",
    _name_other_mapping,
    in_table=False,
)

_COLUMNS: Final[Sequence[Column[ComparisonRun]]] = (
    Column("address", "ADDRESS", "first page", lambda run: format_word(run.address)),
    Column("page_count", "PAGES", "number of pages", right=True),
    Column(
        "size_bytes",
        "SIZE",
        "size of all of them",
        right=True,
        is_size=True,
        in_json=False,
        yields=2,
    ),
    Column(
        "comparison",
        "COMPARISON",
        "same, different, only_first, only_second, neither, unknown",
        lambda run: run.comparison.name.lower(),
        style=_style_run,
    ),
    Column(
        "state",
        "STATE",
        "what it is in the first process: absent, file, anon and so on",
        lambda run: run.state.name.lower(),
        yields=1,
    ),
    Column(
        "other_state",
        "OTHER",
        "what it is in the second one",
        lambda run: run.other_state.name.lower(),
        yields=1,
    ),
    Column(
        "copied_by",
        "COPIED-BY",
        "who wrote to it, or made it: first, second, both; - is not known",
        lambda run: _COPIERS[run.copied_by],
        style=_style_run,
    ),
    Column(
        "mapping",
        "MAPPING",
        "file, or name such as [heap]; the second's if the first has none",
        _name_mapping,
        gives_way=True,
    ),
    _OTHER_MAPPING,
)


def _draw(row: Total, width: int) -> list[tuple[str, str]]:
    return draw_bar(sorted(_count_symbols(row).items(), reverse=True), width)


def _count_symbols(row: Total) -> dict[Symbol, int]:
    drawn = {symbol_of_comparison(*sort): count for sort, count in row.counts.items()}
    return {symbol: count for symbol, count in drawn.items() if symbol != _NEITHER}


_NEITHER: Final = symbol_of_comparison(PageComparison.NEITHER, PageCopier.UNSPECIFIED)


def _make_total(
    key: str,
    heading: str,
    text: str,
    comparison: PageComparison,
    copied_by: PageCopier | None = None,
    yields: int = 0,
) -> Column[Total]:
    """Return the column of one sort of pages."""
    sort = comparison, copied_by or PageCopier.UNSPECIFIED
    return Column(
        f"{key}_page_count",
        heading,
        text,
        lambda row: row.count(comparison, copied_by),
        right=True,
        counts_pages=True,
        in_table=copied_by is None and comparison is not PageComparison.NEITHER,
        style=lambda row: (
            symbol_of_comparison(*sort).style if row.count(comparison, copied_by) else ""
        ),
        yields=yields,
    )


_DIFFERENT: Final = PageComparison.DIFFERENT
_TOTAL_COLUMNS: Final[Sequence[Column[Total]]] = (
    Column(
        "address",
        "ADDRESS",
        "first page",
        lambda row: format_word(row.address),
        in_table=False,
    ),
    Column(
        "page_count",
        "SIZE",
        "all pages, there or not",
        lambda row: row.counts.total(),
        right=True,
        counts_pages=True,
        in_table=False,
    ),
    _make_total("same", "SAME", "one page that both have", PageComparison.SAME),
    _make_total("different", "DIFFERENT", "each has its own", _DIFFERENT),
    _make_total(
        "only_first", "ONLY-FIRST", "the first has one", PageComparison.ONLY_FIRST, yields=1
    ),
    _make_total(
        "only_second", "ONLY-SECOND", "the second has one", PageComparison.ONLY_SECOND, yields=1
    ),
    _make_total("unknown", "UNKNOWN", "could not be compared", PageComparison.UNKNOWN, yields=2),
    _make_total("neither", "NEITHER", "none has one", PageComparison.NEITHER),
    _make_total(
        "copied_by_first", "BY-FIRST", "different, of the first", _DIFFERENT, PageCopier.FIRST
    ),
    _make_total(
        "copied_by_second", "BY-SECOND", "different, of the second", _DIFFERENT, PageCopier.SECOND
    ),
    _make_total("copied_by_both", "BY-BOTH", "different, of both", _DIFFERENT, PageCopier.BOTH),
    Column("bar", "BAR", "share of each, drawn; on a terminal", in_json=False, draw=_draw),
    Column(
        "mapping",
        "MAPPING",
        "file, or name such as [heap]; the second's if the first has none",
        lambda row: "all" if row.address is None else _name_mapping(row),
        gives_way=True,
    ),
    _OTHER_MAPPING,
)


@make_command(
    "diff",
    _COLUMNS,
    {
        "cowctl diff 4711 4712": "Where a process and its child, say, have different pages.",
        "cowctl diff 4711 4712 --totals": "How many, mapping by mapping.",
        "cowctl diff 4711 4712 --mapping heap --all": "All of the heap, what is the same as well.",
        "cowctl diff 4711 4712 7f3c5a400000+16 --each": "Sixteen pages from an address.",
        "cowctl diff -J 4711 4712 | jq '.mappings[].different_page_count'": "For programs: in how "
        "many pages each mapping differs.",
    },
    tables={"totals": _TOTAL_COLUMNS},
)
@click.argument("pid", type=_PID, metavar="PID", shell_complete=offer(iter_pids))
@click.argument("other_pid", type=_PID, metavar="OTHER", shell_complete=offer(iter_pids))
@click.argument(
    "pages",
    metavar="[RANGE]",
    required=False,
    callback=make_parser(parse_range),
    shell_complete=offer(iter_ranges),
)
@mapping_option
@click.option("--each", is_flag=True, help="One row a page; neighbours alike are not folded.")
@click.option("--all", "show_all", is_flag=True, help="What does not differ, too.")
@click.option("--totals", is_flag=True, help="One row a mapping, with numbers of pages.")
@socket_option
def command(
    pid: int,
    other_pid: int,
    pages: AddressRange | None,
    text: str | None,
    each: bool,
    show_all: bool,
    totals: bool,
    socket: str | None,
    output: Output[Any],
) -> int:
    """Show where two processes have different pages.

    PID is the first process and OTHER the second: after a fork, say, the parent and its child.
    RANGE is ADDR, ADDR+COUNT or START-END as for `cowctl query`; without it all that one of them
    has mapped is compared. Pages are the same if both map one page of memory, or have one page
    swapped out. What is in them is not read: pages that differ may hold the same bytes. It takes
    the daemon.
    """
    wanted = align(pages) if pages else None
    with open_client(socket) as client:
        answer = read_pair(client, Question(pid, other_pid, wanted, text, each, show_all, totals))
    if output.is_for_person:
        _draw_picture(answer, output)
    head: dict[str, Json] = {
        "schema": SCHEMA,
        "pid": pid,
        "start_time_ticks": answer.listed.start_time_ticks,
        "other_pid": other_pid,
        "other_start_time_ticks": answer.other.start_time_ticks,
        "page_size_bytes": PAGESIZE,
        "mappings": [_make_object(total) for total in answer.totals] if output.as_json else [],
    }
    rows: list[Any] = answer.runs
    if totals and not output.as_json:
        rows = [each for each in answer.totals if show_all or each.differs]
        if output.is_for_person:
            rows.append(_add_up(answer.totals))
    output.write_rows(head, "runs", rows)
    return 0


def _draw_picture(answer: Answer, output: Output[Any]) -> None:
    """Write a map of what one of the processes has, or what the bars of totals mean."""
    pieces = [(symbol_of_comparison(*sort), count) for sort, count in answer.pieces]
    symbols = sorted(_count_symbols(_add_up(answer.totals)), reverse=True)
    if pieces:
        output.write(*draw_pieces(pieces, output.width, output.paint), "")
    elif symbols:
        output.write(*draw_legend(symbols, output.width, output.paint), "")


def _add_up(totals: Iterable[Total]) -> Total:
    """Return all places as one."""
    counts: Counter[Sort] = Counter()
    for each in totals:
        counts.update(each.counts)
    return Total(None, None, None, counts)


def _make_object(total: Total) -> dict[str, Json]:
    """Return a place as JSON has it."""
    return {column.key: column.read(total) for column in _TOTAL_COLUMNS if column.in_json}
