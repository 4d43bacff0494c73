# SPDX-License-Identifier: Apache-2.0
"""What the two backends of the library take for a program's own buffers: see own_buffers.py.

Many pages are held against reading pagemap and no more, few against a call to the daemon. Runs in
the process of the benchmark.
"""

from collections.abc import Mapping

from bench.cases import Case, Outcome, Part
from bench.ranges import SCENE_BYTES
from bench.rounds import measure
from bench.stage import Stage, ask

WAYS = "pagemap", "copied", "local", "daemon"
AGAINST = {"many": "pagemap", "few": "daemon"}


def measure_buffers(stage: Stage, rounds: int) -> Mapping[str, Outcome]:
    """All ways for a million pages, and for four."""
    outcomes = {}
    with stage.start_buffers() as program:
        for buffer, against in AGAINST.items():
            ways = {
                way: lambda order={"way": way, "buffer": buffer}: ask(program, order)["seconds"]
                for way in WAYS
            }
            figures = measure(ways, rounds, f"own buffers, {buffer} pages")
            outcomes |= {
                f"own-{buffer}-{way}": Outcome(figures[way], figures[against])
                for way in WAYS
                if way != against
            }
    return outcomes


PARTS = [
    Part(
        [
            Case("own-many-copied", "copied() of 1M, pagemap alone"),
            Case("own-many-local", "pages(local), pagemap alone"),
            Case("own-many-daemon", "pages(daemon), pagemap alone"),
            Case("own-few-copied", "copied() of 4, pages(daemon)"),
            Case("own-few-local", "pages(local) of 4, the same"),
        ],
        measure_buffers,
        SCENE_BYTES,
    )
]
