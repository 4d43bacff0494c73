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
from collections.abc import Sequence
from pathlib import Path

from bench import buffers, calls, crowds, memory, micro, ranges
from bench.cases import Case, NotMeasurableError, Outcome, Part
from bench.report import describe_case, write_report
from bench.rounds import show_progress
from bench.stage import Stage
from bench.table import format_case, format_head, format_skipped

PARTS = [
    part for module in (ranges, calls, memory, buffers, crowds, micro) for part in module.PARTS
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
    parser.add_argument("--output", type=Path, default=REPORT, help="the report in JSON")
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


def measure_part(part: Part, stage: Stage, rounds: int) -> dict[str, Outcome]:
    """Return the outcomes of a part; raise NotMeasurableError where this machine has none."""
    available = read_available_bytes()
    if part.memory_bytes > available:
        raise NotMeasurableError(
            f"takes {part.memory_bytes >> 20} MiB of memory, {available >> 20} are available"
        )
    return dict(part.measure(stage, rounds))


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
    described, skipped, all_met = [], {}, True
    with tempfile.TemporaryDirectory(dir=DISK_DIRECTORY) as directory:
        Path(directory).chmod(0o755)
        with Stage(Path(directory)) as stage:
            print(*format_head(), sep="\n", flush=True)
            for part, cases in chosen:
                try:
                    outcomes = measure_part(part, stage, options.rounds)
                except NotMeasurableError as why:
                    skipped |= {case.name: str(why) for case in cases}
                    outcomes = {}
                show_progress("")
                for case in cases:
                    if case.name in outcomes:
                        outcome = outcomes[case.name]
                        print(format_case(case, outcome), flush=True)
                        described.append(describe_case(case, outcome))
                        all_met &= outcome.meets(case) is not False
                    else:
                        print(format_skipped(case), flush=True)
                        all_met &= case.bound is None
    for name, why in skipped.items():
        print(f"bench: {name} was not measured: {why}", file=sys.stderr)
    write_report(options.output, described, skipped)
    return 1 if options.require and not all_met else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    sys.exit(main())
