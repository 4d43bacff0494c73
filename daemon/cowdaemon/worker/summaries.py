# SPDX-License-Identifier: Apache-2.0
"""How many pages of processes are in which state, by kind of mapping.

Worker, unprivileged. Small processes are read together, as numpy's calls take some 0.3 ms however
few pages there are. A process whose address space goes meanwhile has no summary.
"""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from typing import Final, NamedTuple, TypeVar

import numpy as np

from cowdaemon.limits import PAGES_PER_CALL, TARGETS_TOGETHER
from cowdaemon.worker.mapping_counts import Plan, count_mappings, count_together, make_plan
from cowdaemon.worker.mappings import MappingKind, number_extents
from cowdaemon.worker.page_states import PageState
from cowdaemon.worker.pagemap import Numbers, ShortReadError, count_pages
from cowdaemon.worker.read_ahead import Run, read_ahead
from cowdaemon.worker.reader import Reader
from cowdaemon.worker.targets import Target

__all__ = ["Totals", "add_up", "iter_summaries"]

_T = TypeVar("_T")

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
    targets_ahead: int = 0,
    may_read: Callable[[Target], bool] = lambda _: True,
) -> Iterator[tuple[_T, list[Totals] | None]]:
    """Yield the totals of each kind of mapping that processes have, in the order of the processes.

    Args:
        reader: reads their pages.
        asked: the processes, each with anything that the caller knows it by; None for none.
        verify_wanted: called before each part of the work; what it raises ends the reading.
        run: as of `count_mappings`.
        targets_ahead: how many processes another thread looks at before it is their turn.
        may_read: asked when it is: whoever does not take the totals may have let much time pass.

    Yields:
        What the process is known by, and its totals; None if its address space is gone, or may not
        be read any more.
    """
    together: list[tuple[_T, Plan | None]] = []
    page_count = 0
    plans = _iter_plans(reader, asked, verify_wanted)
    with closing(read_ahead(plans, targets_ahead) if targets_ahead else plans) as made:
        for name, plan in made:
            size_pages = count_pages(plan.whole) if plan and plan.whole is not None else 0
            if page_count + size_pages > PAGES_PER_CALL or len(together) == TARGETS_TOGETHER:
                yield from _summarize(reader, together, verify_wanted, run, may_read)
                together, page_count = [], 0
            together.append((name, plan))
            page_count += size_pages
    yield from _summarize(reader, together, verify_wanted, run, may_read)


def _iter_plans(
    reader: Reader, asked: Iterable[tuple[_T, Target | None]], verify_wanted: Callable[[], None]
) -> Generator[tuple[_T, Plan | None], None, None]:
    for name, target in asked:
        verify_wanted()
        if target is None:
            yield name, None
        else:
            yield name, make_plan(reader, target, number_extents(target.list_extents()))


def _summarize(
    reader: Reader,
    together: Sequence[tuple[_T, Plan | None]],
    verify_wanted: Callable[[], None],
    run: Run,
    may_read: Callable[[Target], bool],
) -> Iterator[tuple[_T, list[Totals] | None]]:
    """Yield the totals of some processes, of which those that are one piece are read together."""
    small = {
        place: plan
        for place, (_, plan) in enumerate(together)
        if plan and plan.whole is not None and may_read(plan.target)
    }
    counted = {}
    with suppress(ShortReadError):  # of one of them: each is read by itself, to find out which
        counted = dict(zip(small, count_together(reader, list(small.values())), strict=True))
    for place, (name, plan) in enumerate(together):
        totals = None
        if plan:
            counts = counted.get(place)
            with suppress(ShortReadError):
                if counts is None and may_read(plan.target):
                    counts = count_mappings(reader, plan, verify_wanted, run=run)
                # What was skipped may have been empty because it does not live.
                if counts is not None and plan.target.is_alive():
                    totals = add_up(plan.mapped, counts)
        yield name, totals


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
