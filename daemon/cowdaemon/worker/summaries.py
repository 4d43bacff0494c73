# SPDX-License-Identifier: Apache-2.0
"""How many pages of processes are in which state, by kind of mapping.

Worker, unprivileged. Small processes are read together, as numpy's calls take some 0.3 ms however
few pages there are. A process whose address space goes meanwhile has no summary.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Final, NamedTuple, TypeAlias, TypeVar

import numpy as np

from cowdaemon.limits import MAPPINGS_TOGETHER, TARGETS_TOGETHER
from cowdaemon.worker.mapping_counts import Plan, count_mappings, count_together, make_plan
from cowdaemon.worker.mappings import NO_MAPPINGS, MappingKind
from cowdaemon.worker.page_states import PageState
from cowdaemon.worker.pagemap import Numbers, ShortReadError
from cowdaemon.worker.read_ahead import Run
from cowdaemon.worker.reader import Reader
from cowdaemon.worker.targets import Target

__all__ = ["Totals", "add_up", "iter_summaries"]

_T = TypeVar("_T")
_Listed: TypeAlias = tuple[_T, Target | None, Numbers]
"""What a process is known by, the process, and its mappings, as of `number_extents`."""
_Scanned: TypeAlias = tuple[_T, Plan | None]

_KINDS: Final = np.array(MappingKind)


class Totals(NamedTuple):
    """The mappings of one kind: how many there are, and how many of their pages by state."""

    kind: MappingKind
    mapping_count: int
    page_counts: dict[PageState, int]


def iter_summaries(
    reader: Reader,
    asked: Iterable[tuple[_T, Target | None]],
    verify_wanted: Callable[[], None],
    run: Run = map,
    may_read: Callable[[Target], bool] = lambda _: True,
) -> Iterator[tuple[_T, list[Totals] | None]]:
    """Yield the totals of each kind of mapping that processes have, in the order of the processes.

    Args:
        reader: reads their pages.
        asked: the processes, each with anything that the caller knows it by; None for none.
        verify_wanted: called before each part of the work; what it raises ends the reading.
        run: as of `count_mappings`. Processes are scanned by it, some at a time.
        may_read: called with a process before its pages are counted: its permission may have grown
            old while nobody took the totals of those before it.

    Yields:
        What the process is known by, and its totals, as of when it was scanned: that may be some
        processes ahead of what has been taken. None if its address space is gone, or may not be
        read any more.
    """

    def scan(group: Sequence[_Listed[_T]]) -> list[_Scanned[_T]]:
        scanned: list[_Scanned[_T]] = []
        for name, target, mapped in group:
            verify_wanted()
            scanned.append((name, make_plan(reader, target, mapped) if target else None))
        return scanned

    for group in run(scan, _iter_groups(asked, verify_wanted)):
        yield from _summarize(reader, group, verify_wanted, run, may_read)


def _iter_groups(
    asked: Iterable[tuple[_T, Target | None]], verify_wanted: Callable[[], None]
) -> Iterator[Sequence[_Listed[_T]]]:
    """Yield processes with their mappings, few enough at a time to be scanned and counted together.

    Mappings are listed here, in the call's thread: a list is many short reads, and threads that
    make those wait for each other's hold of the interpreter. Scans are long calls into the kernel,
    and go to other threads.
    """
    group: list[_Listed[_T]] = []
    mapping_count = 0
    for name, target in asked:
        mapped = target.number_mappings(verify_wanted) if target else NO_MAPPINGS
        group.append((name, target, mapped))
        mapping_count += len(mapped)
        if len(group) == TARGETS_TOGETHER or mapping_count >= MAPPINGS_TOGETHER:
            yield group
            group, mapping_count = [], 0
    if group:
        yield group


def _summarize(
    reader: Reader,
    group: Sequence[_Scanned[_T]],
    verify_wanted: Callable[[], None],
    run: Run,
    may_read: Callable[[Target], bool],
) -> Iterator[tuple[_T, list[Totals] | None]]:
    """Yield the totals of some processes, of which the small ones are counted together."""

    def count_alone(plan: Plan) -> Numbers | None:
        try:
            return count_mappings(reader, plan, verify_wanted, run=run)
        except ShortReadError:
            return None

    small = [plan for _, plan in group if plan and plan.whole is not None and may_read(plan.target)]
    together: dict[Target, Numbers] = {}
    with suppress(ShortReadError):  # of one of them: each is read by itself, to find out which
        counted = count_together(reader, small)
        together = {plan.target: counts for plan, counts in zip(small, counted, strict=True)}
    for name, plan in group:
        counts = together.get(plan.target) if plan else None
        if plan and counts is None and may_read(plan.target):
            counts = count_alone(plan)
        # What was skipped may have been empty because the process does not live.
        if plan is None or counts is None or not plan.target.is_alive():
            yield name, None
        else:
            yield name, add_up(plan.mapped, counts)


def add_up(mapped: Numbers, counts: Numbers) -> list[Totals]:
    """Return the totals of each kind that there is, by its number.

    Args:
        mapped: as of `number_extents`.
        counts: of each mapping, as of `count_mappings`.
    """
    is_of_kind = mapped[:, 2] == _KINDS[:, None]
    mapping_counts = is_of_kind.sum(1).tolist()
    tables = (is_of_kind.astype(np.int64) @ counts).tolist()
    return [
        Totals(kind, mapping_count, dict(zip(PageState, table[1:], strict=True)))
        for kind, mapping_count, table in zip(MappingKind, mapping_counts, tables, strict=True)
        if mapping_count
    ]
