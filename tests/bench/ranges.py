# SPDX-License-Identifier: Apache-2.0
"""Large ranges: the client with all flags in its arrays, against C programs that run as root.

Runs in the process of the benchmark.
"""

from collections.abc import Callable, Mapping
from typing import Any

from bench.cases import Case, Outcome, Part
from bench.programs import CProgram
from bench.rounds import measure
from bench.stage import Pages, Stage, ask

GIBIBYTE = 1 << 30
SCENE_BYTES = 6 * GIBIBYTE
"""A file of a million pages in the page cache, and copies of half of them."""
NEAR = 0.05
"""By how much two may differ in what they found: the kernel moves pages meanwhile, and the programs
in C do not look whether a frame is still the page's when they have read its flags."""


class Finder:
    """The ways of reading one range, which must all find the same pages there."""

    def __init__(self, stage: Stage, pages: Pages) -> None:
        self._stage = stage
        self._pages = pages
        self._found: tuple[int, int] | None = None
        self.details: dict[str, Any] = {"pages": pages.count}

    def cowd(self) -> float:
        """Have the library read, as an unprivileged user."""
        answer = ask(self._stage.asker(), self._pages.order("read"))
        self._verify("cowd", answer["present"], answer["anonymous"])
        self.details |= {f"cowd_{name}": answer[name] for name in ("listed", "stretches")}
        return answer["end"] - answer["start"]

    def c(self, name: str) -> Callable[[], float]:
        """Return the way of a C program."""
        program: CProgram = self._stage.program(name)

        def read() -> float:
            reading = program.read(*self._pages)
            self._verify(name, reading.present, reading.anonymous)
            self.details[f"{name}_reads"] = reading.reads
            self.details["present"], self.details["anonymous"] = self._found or (0, 0)
            return reading.seconds

        return read

    def _verify(self, name: str, *found: int) -> None:
        self._found = self._found or found
        if any(
            abs(one - other) > NEAR * other for one, other in zip(found, self._found, strict=True)
        ):
            raise AssertionError(f"{name} found {found} present and anonymous, not {self._found}")


def measure_scattered(stage: Stage, rounds: int) -> Mapping[str, Outcome]:
    """Pages whose frames are far apart."""
    with stage.hole() as file, stage.scene("scattered", file=file) as scene:
        finder = Finder(stage, scene["all"])
        names = "authors_way", "tuned_reader"
        ways = {"cowd": finder.cowd} | {name: finder.c(name) for name in names}
        figures = measure(ways, rounds, "scattered frames")
    return {
        f"scattered-{case}": Outcome(figures["cowd"], figures[name], finder.details)
        for case, name in zip(("author", "tuned"), names, strict=True)
    }


def measure_runs(stage: Stage, rounds: int) -> Mapping[str, Outcome]:
    """Pages whose frames mostly follow each other."""
    with stage.hole() as file, stage.scene("runs", file=file) as scene:
        finder = Finder(stage, scene["all"])
        ways = {"cowd": finder.cowd, "tuned_reader": finder.c("tuned_reader")}
        figures = measure(ways, rounds, "frames in runs")
    return {"runs-tuned": Outcome(figures["cowd"], figures["tuned_reader"], finder.details)}


def measure_reserved(stage: Stage, rounds: int) -> Mapping[str, Outcome]:
    """A few pages in a very large reservation."""
    with stage.scene("reserved") as scene:
        finders = {name: Finder(stage, pages) for name, pages in scene.items()}
        ways = {name: finder.cowd for name, finder in finders.items()}
        ways["scan"] = finders["singles"].c("scan_and_read")
        figures = measure(ways, rounds, "reserved memory")
    return {
        "clusters": Outcome(figures["clusters"], figures["together"], finders["clusters"].details),
        "singles": Outcome(figures["singles"], figures["scan"], finders["singles"].details),
    }


PARTS = [
    Part(
        [
            Case("scattered-author", "scattered pages, author's C", 0.45),
            Case("scattered-tuned", "scattered pages, tuned C", 1.0),
        ],
        measure_scattered,
        SCENE_BYTES,
    ),
    Part([Case("runs-tuned", "pages in runs, tuned C", 1.6)], measure_runs, SCENE_BYTES),
    Part(
        [
            Case("clusters", "100 clusters in 2^40, together", 3.0),
            Case("singles", "25,600 in 2^40, scanned in C", 1.5),
        ],
        measure_reserved,
    ),
]
