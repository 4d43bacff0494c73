# SPDX-License-Identifier: Apache-2.0
"""A million pages of two processes compared, against a program in C that only looks four times.

Runs in the process of the benchmark. Two looks at each process are the least that it takes to say
something of both that was true at one moment.
"""

from collections.abc import Callable, Mapping

from bench.cases import Case, Outcome, Part
from bench.ranges import GIBIBYTE
from bench.rounds import measure
from bench.stage import Pages, Stage, ask

SAME_PARTS = {"same": 1.0, "half": 0.5}
"""How much of the pages a fork still shares with its parent."""
LOOKS = 2
"""At each of the two."""


def measure_comparisons(stage: Stage, rounds: int) -> Mapping[str, Outcome]:
    """Compare a process with its forks."""
    with stage.scene("forked") as scene:
        parent = scene["all"]
        ways: dict[str, Callable[[], float]] = {}
        for fork in SAME_PARTS:
            ways[f"compared-{fork}"] = Comparing(stage, parent, scene, fork, totals_only=False)
            ways[f"{fork} in C"] = Looking(stage, (parent, scene[fork]))
        ways["compared-totals"] = Comparing(stage, parent, scene, "half", totals_only=True)
        figures = measure(ways, rounds, "two processes")
    against = {"compared-totals": "half in C"}
    return {
        name: Outcome(
            figures[name],
            figures[against.get(name, f"{name.removeprefix('compared-')} in C")],
            {"pages": parent.count},
        )
        for name in ways
        if name.startswith("compared")
    }


class Comparing:
    """One comparison by the daemon, of a process and its fork of that name."""

    def __init__(
        self, stage: Stage, parent: Pages, forks: Mapping[str, Pages], name: str, totals_only: bool
    ) -> None:
        self._stage = stage
        self._due = parent.count * SAME_PARTS[name]
        self._order = parent.order("compare", other_pid=forks[name].pid, totals_only=totals_only)

    def __call__(self) -> float:
        answer = ask(self._stage.asker(), self._order)
        assert answer["same"] == self._due
        return float(answer["seconds"])


class Looking:
    """Four looks by the program in C: two at each process."""

    def __init__(self, stage: Stage, processes: tuple[Pages, Pages]) -> None:
        self._program = stage.program("pagemap_alone")
        self._processes = processes

    def __call__(self) -> float:
        readings = [self._program.read(*each) for each in LOOKS * self._processes]
        assert {reading.present for reading in readings} == {self._processes[0].count}
        return sum(reading.seconds for reading in readings)


PARTS = [
    Part(
        [
            Case("compared-same", "1M shared compared, 4 looks"),
            Case("compared-half", "half of them copied, 4 looks"),
            Case("compared-totals", "the same by totals, 4 looks"),
        ],
        measure_comparisons,
        8 * GIBIBYTE,
    )
]
