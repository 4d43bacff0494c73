# SPDX-License-Identifier: Apache-2.0
"""Takes over what pytest-benchmark says of test_micro.py. Runs in the process of the benchmark."""

import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from harness.daemon import ROOT

from bench.cases import Case, NotMeasurableError, Outcome, Part
from bench.rounds import show_progress
from bench.stage import Stage

STEPS = "gather", "classify", "disclose", "encode", "decode"
SIZES = {"many": 65_536, "few": 4}


def measure_steps(_: Stage, __: int) -> Mapping[str, Outcome]:
    """Run pytest-benchmark, with rounds of its own."""
    if not importlib.util.find_spec("pytest_benchmark"):
        raise NotMeasurableError("pytest-benchmark is not installed: make setup")
    show_progress("the daemon's steps, by pytest-benchmark")
    with tempfile.TemporaryDirectory() as directory:
        told = Path(directory) / "micro.json"
        command = [sys.executable, "-m", "pytest", "tests/bench/test_micro.py", "--quiet"]
        command += ["-p", "no:cacheprovider", f"--benchmark-json={told}"]
        tried = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert tried.returncode == 0, tried.stdout + tried.stderr
        benchmarks = json.loads(told.read_text())["benchmarks"]
    names = {pages: size for size, pages in SIZES.items()}
    outcomes = {}
    for each in benchmarks:
        step, pages = each["extra_info"]["step"], each["extra_info"]["pages"]
        seconds = each["stats"]["data"]
        outcomes[f"micro-{step}-{names[pages]}"] = Outcome(seconds, details={"pages": pages})
    return outcomes


PARTS = [
    Part(
        [
            Case(f"micro-{step}-{size}", f"{step} {pages:,} pages")
            for size, pages in SIZES.items()
            for step in STEPS
        ],
        measure_steps,
    )
]
