# SPDX-License-Identifier: Apache-2.0
"""Made-up figures, each a number that no other one is; and a scraper that has them.

Names of groups have in them what each form has to escape.
"""

from dataclasses import replace

import cowd
from cowd._statistics import CallCount, CallDurations, ServerStatistics
from cowd.exporters.figures import STATES, ForkFigures, GroupFigures, Scrape

__all__ = ["DOWN", "HOSTILE_NAMES", "SCRAPE", "MadeUpScraper"]

HOSTILE_NAMES = (
    'say "hi"',
    "back\\slash\\",
    "two\nlines",
    "a,b=c d",
    "\\,x=1",
    "größe 猫",
    "\x1b[31m\u2028",
    "{}",
)


def make_group(name: str, number: int) -> GroupFigures:
    return GroupFigures(
        group=name,
        process_count=number,
        missing={"OPEN_TIMED_OUT"} if number % 2 else set(),
        oldest_seconds=number + 0.25,
        mapping_bytes={state: 4096 * (1000 * number + place) for place, state in enumerate(STATES)},
        copied_bytes=4096 * (1000 * number + 100),
        fork=None if number == 1 else ForkFigures(4096 * number, 4097 * number),
    )


STATISTICS = ServerStatistics(
    version="9.8.7",
    start_time_seconds=1_700_000_000.5,
    connection_count=3,
    worker_count=2,
    pages_read=2**40 + 1,
    calls=[
        CallCount("SummarizeProcesses", "OK", 71),
        CallCount("SummarizeProcesses", "PERMISSION_DENIED", 5),
        CallCount("", "UNIMPLEMENTED", 1),
    ],
    durations=[CallDurations("SummarizeProcesses", [0.001, 0.01, 1.0], [5, 60, 10, 1], 2.75)],
    refusals={"ACCESS_DENIED": 5, "TOO_MANY_CONNECTIONS": 9},
)
SCRAPE = Scrape(
    time_seconds=1_700_003_600.25,
    duration_seconds=0.125,
    is_up=True,
    groups=[make_group(name, number) for number, name in enumerate(HOSTILE_NAMES, 1)],
    statistics=STATISTICS,
    left_out_group_count=4,
)
DOWN = replace(
    SCRAPE,
    is_up=False,
    groups=[],
    statistics=None,
    left_out_group_count=0,
    failure=cowd.Unavailable("cannot connect to cowd at /nowhere: No such file or directory"),
)


class MadeUpScraper:
    """Stands for a Scraper.

    Attributes:
        scrapes: what it gives, one for each time; the last one stays.
        count: how often it was asked.
    """

    def __init__(self, *scrapes: Scrape) -> None:
        self.scrapes = [*scrapes]
        self.count = 0

    def scrape(self) -> Scrape:
        self.count += 1
        return self.scrapes.pop(0) if len(self.scrapes) > 1 else self.scrapes[0]
