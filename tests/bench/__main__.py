# SPDX-License-Identifier: Apache-2.0
"""Measures, prints a table and writes a report: `make bench BENCH='--only scattered'`, as root.

Exit status 0 unless something failed: a bound that is missed is told, and a failure with --require
alone, which a case that could not be measured is as well.
"""

import argparse
import os
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import (
    buffers,
    calls,
    comparisons,
    crowds,
    memory,
    micro,
    ranges,
    scrapes,
    steps,
    summaries,
)
from bench.cases import Case, NotMeasurableError, Outcome, Part
from bench.report import describe_case, write_report
from bench.rounds import show_progress
from bench.stage import Stage
from bench.table import format_case, format_head, format_skipped

PARTS = [
    part
    for module in (
        *(ranges, comparisons, calls, memory, summaries, scrapes),
        *(buffers, crowds, steps, micro),
    )
    for part in module.PARTS
]
LEAST_ROUNDS = 7
REPORT = Path("build/bench.json")
DISK_DIRECTORY = "/var/tmp"
"""On a file system on a disk, where private mappings are of real files."""


def parse_arguments() -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(
        prog="bench", description="Measure what cowd costs, side by side with other ways."
    )
    parser.add_argument(
        "--only", metavar="NAME", action="append", help="cases whose names start so; repeatable"
    )
    parser.add_argument("--list", action="store_true", help="list the cases and leave")
    parser.add_argument("--rounds", type=int, default=LEAST_ROUNDS, help="of each measurement")
    parser.add_argument("--require", action="store_true", help="fail if a bound is not kept")
    parser.add_argument("--output", type=Path, help=f"the report in JSON ({REPORT}, if all is run)")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("there has to be a round")
    return options


def select(parts: Sequence[Part], names: Sequence[str] | None) -> list[tuple[Part, list[Case]]]:
    """Return the parts to be measured, with the cases to be told of each."""
    prefixes = tuple(names or [""])
    chosen = [
        (part, [case for case in part.cases if case.name.startswith(prefixes)]) for part in parts
    ]
    return [(part, cases) for part, cases in chosen if cases]


def read_available_bytes() -> int:
    """Return how much memory can be had without swapping (MemAvailable)."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no MemAvailable in /proc/meminfo")


def measure_part(part: Part, stage: Stage, rounds: int) -> tuple[Mapping[str, Outcome], str]:
    """Return the outcomes of a part, or none and why."""
    available = read_available_bytes()
    if part.memory_bytes > available:
        needed = f"{part.memory_bytes >> 20} MiB of memory"
        return {}, f"it takes {needed}, and {available >> 20} are available"
    try:
        return part.measure(stage, rounds), ""
    except NotMeasurableError as why:
        return {}, str(why)
    finally:
        show_progress("")


class Run:
    """What has come of the cases so far."""

    def __init__(self) -> None:
        self.described: list[dict[str, Any]] = []
        self.skipped: dict[str, str] = {}
        self.all_met = True

    def tell(self, cases: Sequence[Case], outcomes: Mapping[str, Outcome], why: str) -> None:
        """Print the rows of cases; those without an outcome have none because of `why`."""
        for case in cases:
            outcome = outcomes.get(case.name)
            if outcome is None:
                print(format_skipped(case), flush=True)
                self.skipped[case.name] = why
                self.all_met &= case.bound is None
            else:
                print(format_case(case, outcome), flush=True)
                self.described.append(describe_case(case, outcome))
                self.all_met &= outcome.meets(case) is not False


def describe_bounds(run: Run) -> str:
    """Say how many bounds were missed."""
    missed = sum(each["meets_bound"] is False for each in run.described)
    return f"{missed or 'no'} bound{'' if missed == 1 else 's'} missed"


def main() -> int:
    """Print the table and write the report; return the exit status."""
    options = parse_arguments()
    chosen = select(PARTS, options.only)
    if options.list:
        for _, cases in chosen:
            for case in cases:
                print(f"{case.name:<20} {case.title}")
        return 0
    if not chosen:
        print(f"bench: no case is called {' or '.join(options.only)}: see --list", file=sys.stderr)
        return 2
    if os.geteuid() != 0:
        print("bench: must be root, for the private daemon and the C programs", file=sys.stderr)
        return 1
    output = options.output or (REPORT.with_stem("bench-part") if options.only else REPORT)
    run = Run()
    try:
        with tempfile.TemporaryDirectory(dir=DISK_DIRECTORY) as directory:
            Path(directory).chmod(0o755)
            with Stage(Path(directory)) as stage:
                print(*format_head(), sep="\n", flush=True)
                for part, cases in chosen:
                    run.tell(cases, *measure_part(part, stage, options.rounds))
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    finally:
        if run.described:
            write_report(output, run.described, run.skipped)
    for name, why in run.skipped.items():
        print(f"bench: {name} was not measured: {why}", file=sys.stderr)
    print(f"\n{describe_bounds(run)}; every round is in {output}")
    return 1 if options.require and not run.all_met else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    sys.exit(main())
