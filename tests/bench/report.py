# SPDX-License-Identifier: Apache-2.0
"""What a run leaves behind for programs: the machine, and every figure of every round."""

import importlib.metadata
import json
import os
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cowd

from bench.cases import Case, Outcome

SCHEMA = "cowd.bench/1"
PACKAGES = "grpcio", "protobuf", "numpy", "click", "rich", "pytest-benchmark"


def describe_machine() -> dict[str, Any]:
    """Return what the figures depend on."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": _read_processor(),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "page_size_bytes": os.sysconf("SC_PAGE_SIZE"),
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "cowd": cowd.__version__,
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := _read_version(name))},
    }


def describe_case(case: Case, outcome: Outcome) -> dict[str, Any]:
    """Return a case that was measured."""
    return {
        "name": case.name,
        "title": case.title,
        "unit": case.unit.name,
        "median": outcome.median,
        "median_against": outcome.median_against,
        "ratio": outcome.ratio,
        "bound": case.bound,
        "bound_is_floor": case.is_floor,
        "bound_is_absolute": case.is_absolute,
        "meets_bound": outcome.meets(case),
        "round_count": len(outcome.figures),
        "rounds": list(outcome.figures),
        "rounds_against": list(outcome.against),
        "details": dict(outcome.details),
    }


def write_report(
    path: Path, cases: Sequence[Mapping[str, Any]], skipped: Mapping[str, str]
) -> None:
    """Write the report of a run; `skipped` is why, by the names of cases."""
    report = {
        "schema": SCHEMA,
        "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": describe_machine(),
        "cases": list(cases),
        "skipped": dict(skipped),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n")


def _read_processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return ""


def _read_version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
