# SPDX-License-Identifier: Apache-2.0
"""Two processes as `cowctl diff` reads them from the daemon: page by page, or by mapping."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from mmap import PAGESIZE
from typing import Final, NamedTuple, TypeAlias

import click

import cowd
from cowd import Mapping, MappingList, PageComparison, PageCopier
from cowd._comparison_runs import (
    ComparisonRun,
    PairSegment,
    cut_at_borders,
    iter_comparison_runs,
)
from cowd._runs import join_segments
from cowd.cli.progress import track_pages
from cowd.cli.targets import OUT_OF_PAGEMAP
from cowd.cli.text import decode_path, print_message

__all__ = ["Answer", "Question", "Sort", "Total", "read_pair"]

_MOST_RUNS: Final = 1_000_000
"""As of `cowctl query`: who would read more?"""
_ALIKE: Final = (PageComparison.SAME, PageComparison.NEITHER)

Sort: TypeAlias = tuple[PageComparison, PageCopier]
"""What two processes have in one place, and who made it: what pages are drawn by."""


class Question(NamedTuple):
    """What is asked about two processes.

    Attributes:
        wanted: addresses to stay between.
        text: what the name of a mapping must have in it.
        each: a run for each page.
        show_all: runs of what does not differ as well.
        totals: numbers only, no runs.
    """

    pid: int
    other_pid: int
    wanted: tuple[int, int] | None = None
    text: str | None = None
    each: bool = False
    show_all: bool = False
    totals: bool = False


@dataclass(frozen=True, slots=True)
class Total:
    """What two processes have between two neighbouring borders of mappings, or in several places.

    Attributes:
        address: of the first page, in bytes; None of several places.
        mapping, other_mapping: of the place; None where a process has none.
        counts: number of pages of each sort.
    """

    address: int | None
    mapping: Mapping | None
    other_mapping: Mapping | None
    counts: Counter[Sort] = field(default_factory=Counter)

    @property
    def differs(self) -> bool:
        """Whether there is anything to show of it."""
        return any(comparison not in _ALIKE for comparison, _ in self.counts)

    def count(self, comparison: PageComparison, copied_by: PageCopier | None = None) -> int:
        """Return how many pages are that; None is for whoever has copied them."""
        return sum(
            count
            for (each, copier), count in self.counts.items()
            if each is comparison and copied_by in (None, copier)
        )


@dataclass(frozen=True, slots=True)
class Answer:
    """What the daemon has said.

    Attributes:
        listed, other: the mappings of the first process, and of the second.
        totals: of each place, in address order.
        pieces: how many neighbours are of one sort, but where none of the two has a page; none if
            numbers only were asked for.
        runs: what was asked for.
    """

    listed: MappingList
    other: MappingList
    totals: list[Total] = field(default_factory=list)
    pieces: list[tuple[Sort, int]] = field(default_factory=list)
    runs: list[ComparisonRun] = field(default_factory=list)


def read_pair(client: cowd.Client, question: Question) -> Answer:
    """Return what two processes have in common.

    Raises:
        click.ClickException: they have nothing there, or there is more to show than anybody reads.
        cowd.Error: from the daemon.
    """
    answer = Answer(client.list_mappings(question.pid), client.list_mappings(question.other_pid))
    segments = list(_iter_segments(answer, question))
    if question.totals:
        answer.totals.extend(_count(client, answer, segments))
    else:
        _compare(client, answer, question, segments)
    _note_changes(client, answer, segments)
    return answer


def _iter_segments(answer: Answer, question: Question) -> Iterator[PairSegment]:
    """Yield what is to be compared, cut at the borders of mappings of both.

    Raises:
        click.ClickException: there is nothing.
    """
    first, last = question.wanted or (0, 1 << 64)
    is_any = False
    for found in cut_at_borders(answer.listed.mappings, answer.other.mappings):
        segment = PairSegment(max(first, found[0]), min(last, found[1]), *found[2:])
        paths = [each.path for each in segment[2:] if each]
        is_named = question.text is None or any(question.text in decode_path(p) for p in paths)
        if segment.start < segment.end and is_named and OUT_OF_PAGEMAP not in paths:
            is_any = True
            yield segment
    if not is_any:
        pids = question.pid, question.other_pid
        where = " in this range" if question.wanted else ""
        named = "" if question.text is None else f" whose name has {question.text!r} in it"
        raise click.ClickException(
            f"processes {pids[0]} and {pids[1]} have no mapping{where}{named}: "
            f"see /proc/{pids[0]}/maps and /proc/{pids[1]}/maps"
        )


def _count(client: cowd.Client, answer: Answer, segments: list[PairSegment]) -> Iterator[Total]:
    parts = client.count_compared_pages(
        answer.listed.pid,
        answer.other.pid,
        [(each.start, each.page_count) for each in segments],
        expected_start_time_ticks=answer.listed.start_time_ticks,
        other_expected_start_time_ticks=answer.other.start_time_ticks,
    )
    tracked = track_pages(parts, *_describe_work(answer, segments))
    for segment in segments:
        total = _make_total(segment)
        while total.counts.total() < segment.page_count:
            for each in next(tracked).totals:
                total.counts[each.comparison, each.copied_by] += each.page_count
        yield total


def _compare(
    client: cowd.Client, answer: Answer, question: Question, segments: list[PairSegment]
) -> None:
    """Read page by page, and add what is said to the answer."""
    chunks = client.compare_pages(
        answer.listed.pid,
        answer.other.pid,
        [(start, (end - start) // PAGESIZE) for start, end in join_segments(segments)],
        expected_start_time_ticks=answer.listed.start_time_ticks,
        other_expected_start_time_ticks=answer.other.start_time_ticks,
    )
    tracked = track_pages(chunks, *_describe_work(answer, segments))
    row_count = 0
    for segment, run in iter_comparison_runs(tracked, segments):
        if not answer.totals or answer.totals[-1].address != segment.start:
            answer.totals.append(_make_total(segment))
        sort = run.comparison, run.copied_by
        answer.totals[-1].counts[sort] += run.page_count
        _add_piece(answer.pieces, sort, run.page_count)
        if run.comparison in _ALIKE and not question.show_all:
            continue
        row_count += run.page_count if question.each else 1
        if row_count > _MOST_RUNS:
            raise click.ClickException(
                f"there are more than {_MOST_RUNS} rows to show: ask for less, with a RANGE, "
                "--mapping or --totals"
            )
        answer.runs.extend(run.iter_pages() if question.each else [run])


def _add_piece(pieces: list[tuple[Sort, int]], sort: Sort, page_count: int) -> None:
    """Add neighbours, so that there are few more pieces than rows that show a difference."""
    if sort[0] is PageComparison.NEITHER:
        return
    if pieces and pieces[-1][0] == sort:
        page_count += pieces.pop()[1]
    pieces.append((sort, page_count))


def _make_total(segment: PairSegment) -> Total:
    return Total(segment.start, segment.mapping, segment.other_mapping)


def _describe_work(answer: Answer, segments: Iterable[PairSegment]) -> tuple[str, int]:
    """Return what to tell while it goes on, and how many pages it is about."""
    label = f"Comparing processes {answer.listed.pid} and {answer.other.pid}"
    return label, sum(each.page_count for each in segments)


def _note_changes(client: cowd.Client, answer: Answer, segments: list[PairSegment]) -> None:
    """Say so if a mapping is not the same any more: its pages may not have been."""
    for number, before in enumerate((answer.listed, answer.other)):
        after = client.list_mappings(
            before.pid, expected_start_time_ticks=before.start_time_ticks
        ).mappings
        read = {each for segment in segments if (each := segment[2 + number]) is not None}
        if not read.issubset(after):
            print_message(
                f"note: process {before.pid} changed its mappings while they were read: "
                "ask again if the answer must be of one moment"
            )
