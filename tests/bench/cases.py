# SPDX-License-Identifier: Apache-2.0
"""What a case of the benchmark is, and what came of it: values, and what follows from them."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from bench.stage import Stage


class Unit(NamedTuple):
    """What figures are told in: each step's size and name, the largest first."""

    name: str
    steps: Sequence[tuple[float, str]]


SECONDS = Unit("seconds", [(1, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns")])
BYTES = Unit("bytes", [(2**20, "MiB"), (2**10, "KiB"), (1, "B")])
PAGES_PER_SECOND = Unit("pages_per_second", [(1e6, "M/s"), (1e3, "k/s"), (1, "/s")])


@dataclass(frozen=True, slots=True)
class Case:
    """One row of the table.

    Attributes:
        name: for `--only` and for programs.
        title: for people; what is measured, and after the comma what it is held against.
        bound: of the ratio of the medians; None where nothing is promised.
        is_floor: whether the bound is the least, not the most.
        is_absolute: whether the bound is of the median itself, which is held against nothing else.
    """

    name: str
    title: str
    bound: float | None = None
    is_floor: bool = False
    is_absolute: bool = False
    unit: Unit = SECONDS


@dataclass(frozen=True, slots=True)
class Outcome:
    """The figures of a case in its unit, by round; `against` is empty if there is nothing.

    `details` are figures beside: what the programs found, how much memory there was.
    """

    figures: Sequence[float]
    against: Sequence[float] = ()
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def median(self) -> float:
        """Of the figures."""
        return statistics.median(self.figures)

    @property
    def median_against(self) -> float | None:
        """Of what they are held against."""
        return statistics.median(self.against) if self.against else None

    @property
    def ratio(self) -> float | None:
        """Of the two medians."""
        return None if self.median_against is None else self.median / self.median_against

    def meets(self, case: Case) -> bool | None:
        """Return whether the bound of its case is kept; None if there is none."""
        if case.bound is None:
            return None
        value = self.median if case.is_absolute else self.ratio
        assert value is not None, f"{case.name} is held against nothing"
        return value >= case.bound if case.is_floor else value <= case.bound


class NotMeasurableError(Exception):
    """This machine, or this cowd, cannot show the case; the message says why."""


@dataclass(frozen=True, slots=True)
class Part:
    """Cases that are measured together, in the same rounds.

    Attributes:
        measure: takes the stage and the number of rounds; returns the outcomes by the case's name,
            or raises NotMeasurableError.
        memory_bytes: what it takes of the machine, page cache included.
    """

    cases: Sequence[Case]
    measure: Callable[[Stage, int], Mapping[str, Outcome]]
    memory_bytes: int = 0
