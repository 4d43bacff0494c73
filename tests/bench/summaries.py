# SPDX-License-Identifier: Apache-2.0
"""Summaries of processes, against one plain pass in C over their pagemaps, as root.

Runs in the process of the benchmark.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from harness.programs import NOBODY, User

from bench.cases import Case, Outcome, Part
from bench.ranges import NEAR, SCENE_BYTES
from bench.rounds import measure
from bench.scene import CROWD
from bench.stage import PAGES, Stage, ask

GIBIBYTE = 1 << 30
NOBODY_ELSE = User("crowd", 71_999, 71_999)
"""Who has no processes but those of the benchmark."""


class Summarizer:
    """The ways of summarizing the same processes, which must all find the same pages there.

    Args:
        stage: where they are measured.
        user: who asks, and whose they are.
        pids: of the processes; none for all that the user has.
    """

    def __init__(self, stage: Stage, user: User, pids: Sequence[int] = ()) -> None:
        self._stage = stage
        self._user = user
        self._asked = list(pids)
        self._pids = list(pids)
        self._found: tuple[int, int] = (0, 0)
        self.details: dict[str, Any] = {}
        self.cowd()  # who they are, and what there is

    def cowd(self) -> float:
        """Have the daemon summarize, as an unprivileged user."""
        answer = ask(self._stage.asker(self._user), {"do": "summarize", "pids": self._asked})
        self._pids = answer["pids"]
        self._found = answer["present"], answer["anonymous"]
        present, anonymous = self._found
        self.details |= {"processes": len(self._pids), "present": present, "anonymous": anonymous}
        return answer["end"] - answer["start"]

    def c(self, with_opening: bool) -> Callable[[], float]:
        """Return the way of the C program: the reads alone, or with all that goes before them."""

        def read() -> float:
            opening, reading, *found = self._stage.program("pagemap_pass").ask(*self._pids)
            for one, other in zip(found, self._found, strict=True):
                if abs(one - other) > NEAR * other:
                    raise AssertionError(f"C found {found}, not {self._found}")
            return reading + opening * with_opening

        return read


def measure_alone(stage: Stage, rounds: int) -> Mapping[str, Outcome]:
    """A process of a million pages, all side by side, or with as many holes between them."""
    outcomes = {}
    with stage.hole() as file, stage.scene("scattered", file=file) as scene:
        outcomes["summary"] = compare(stage, rounds, [scene["all"].pid])
    with stage.scene("sparse", count=PAGES) as scene:
        outcomes["summary-sparse"] = compare(stage, rounds, [scene["all"].pid])
    return outcomes


def compare(stage: Stage, rounds: int, pids: Sequence[int]) -> Outcome:
    """Return what a summary takes, and the plain pass."""
    summarizer = Summarizer(stage, NOBODY, pids)
    ways = {"cowd": summarizer.cowd, "pass": summarizer.c(with_opening=False)}
    figures = measure(ways, rounds, "a summary")
    return Outcome(figures["cowd"], figures["pass"], summarizer.details)


def measure_crowd(stage: Stage, rounds: int) -> Mapping[str, Outcome]:
    """All processes of a user who has hundreds."""
    with stage.scene("crowd", NOBODY_ELSE):
        summarizer = Summarizer(stage, NOBODY_ELSE)
        assert summarizer.details["processes"] > CROWD
        ways = {
            "cowd": summarizer.cowd,
            "reads": summarizer.c(with_opening=False),
            "all": summarizer.c(with_opening=True),
        }
        figures = measure(ways, rounds, "a sweep")
    return {
        "sweep": Outcome(figures["cowd"], figures["reads"], summarizer.details),
        "sweep-opened": Outcome(figures["cowd"], figures["all"], summarizer.details),
    }


PARTS = [
    Part(
        [
            Case("summary", "summary of 1M pages, C's pass", 2.0),
            Case("summary-sparse", "with 1M holes, C's pass", 2.0),
        ],
        measure_alone,
        SCENE_BYTES,
    ),
    Part(
        [
            Case("sweep", "sweep of 300, C's passes", 3.0),
            Case("sweep-opened", "the same, C opening as well"),
        ],
        measure_crowd,
        4 * GIBIBYTE,
    ),
]
