# SPDX-License-Identifier: Apache-2.0
"""What monitoring costs: processor time of a scrape a minute, and what a watched process notices.

Runs as root in the process of the benchmark. The exporter is `cowctl export prometheus`. What each
process of it and of the daemon uses of the processors is in its stat.
"""

import os
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from harness.programs import ROOT_USER, User, environment

from bench.cases import Case, NotMeasurableError, Outcome, Part
from bench.rounds import measure, show_progress
from bench.stage import Stage
from bench.summaries import GIBIBYTE, NOBODY_ELSE

PRESENT_BYTES = 10 * GIBIBYTE
SCRAPES = 5
"""In one round: the kernel tells processor time in hundredths of a second."""
IDLE_SECONDS = 10.0
MINUTE_SECONDS = 60.0
FAULT_SECONDS = 1.0
EVERYTHING: Final = "pages_per_second = 0\ncache_seconds = 0\n"
FAULTING: Final = EVERYTHING + '[[group]]\nname = "faulting"\ncommand = "fault_latency"\n'
_TICK_SECONDS: Final = 1 / os.sysconf("SC_CLK_TCK")


class Exporter:
    """A running exporter of this stage's daemon.

    Args:
        pid: of its process.
        url: where it serves.
        stage: whose daemon it asks.
    """

    def __init__(self, pid: int, url: str, stage: Stage) -> None:
        self._pid = pid
        self._url = url
        self._stage = stage
        self.figures: dict[str, float] = {}

    def scrape(self) -> None:
        """Have it scrape once."""
        with urllib.request.urlopen(self._url, timeout=MINUTE_SECONDS) as answer:
            lines = answer.read().decode().splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        self.figures = {name: float(value) for name, value in pairs}
        assert self.figures["cowd_up"] == 1

    def add_up(self, metric: str, label: str = "") -> float:
        """Return the sum of a metric over all groups, as of the last scrape."""
        return sum(
            value
            for name, value in self.figures.items()
            if name.startswith(metric) and label in name
        )

    def read_cpu_seconds(self) -> float:
        """Return what it and the daemon have used of the processors."""
        return sum(map(_read_cpu_seconds, [self._pid, *self._stage.daemon.tree().pids]))


def _read_cpu_seconds(pid: int) -> float:
    """Return fields 14 and 15 of /proc/PID/stat, user and system time, together."""
    stat = Path(f"/proc/{pid}/stat").read_text()
    fields = stat[stat.rindex(")") + 2 :].split()
    return (int(fields[11]) + int(fields[12])) * _TICK_SECONDS


@contextmanager
def exporting(stage: Stage, user: User, settings: str) -> Iterator[Exporter]:
    """Have an exporter that has scraped once."""
    config = stage.daemon.socket_path.with_name("exporter.toml")
    config.write_text(settings)
    config.chmod(0o644)
    options = ["--listen", "127.0.0.1:0", "--config", os.fspath(config)]
    options += ["--socket", os.fspath(stage.daemon.socket_path)]
    command = [sys.executable, "-m", "cowd.cli.main", "export", "prometheus", *options]
    with subprocess.Popen(
        user.command(command), stderr=subprocess.PIPE, text=True, cwd="/", env=environment()
    ) as process:
        try:
            assert process.stderr
            told = re.search(r"http:\S+metrics", line := process.stderr.readline())
            assert told, line
            exporter = Exporter(process.pid, told[0], stage)
            exporter.scrape()
            yield exporter
        finally:
            process.terminate()


def measure_cost(stage: Stage, rounds: int) -> Mapping[str, Outcome]:
    """Processor time of a minute with one scrape, of a parent and four children."""
    outcomes = {}
    with stage.scene("family", NOBODY_ELSE):
        for name, fork in ("scrape", "false"), ("scrape-forks", "true"):
            with exporting(stage, NOBODY_ELSE, f"{EVERYTHING}fork = {fork}\n") as exporter:
                outcomes[name] = measure_minutes(exporter, rounds, name)
    return outcomes


def measure_minutes(exporter: Exporter, rounds: int, name: str) -> Outcome:
    """Return what a minute costs: scrapes are timed, and what goes on between them."""
    present = sum(exporter.add_up("cowd_mapping_bytes", f'"{state}"') for state in ("file", "anon"))
    if present < PRESENT_BYTES:
        raise NotMeasurableError(f"only {present / GIBIBYTE:.1f} GiB are present")
    idle = exporter.read_cpu_seconds()
    show_progress(f"{name}: between scrapes")
    time.sleep(IDLE_SECONDS)
    idle_minute = (exporter.read_cpu_seconds() - idle) * MINUTE_SECONDS / IDLE_SECONDS
    minutes, durations = [], []
    for number in range(rounds):
        show_progress(f"{name}: round {number + 1} of {rounds}")
        before = exporter.read_cpu_seconds()
        for _ in range(SCRAPES):
            exporter.scrape()
            durations.append(exporter.figures["cowd_scrape_duration_seconds"])
        minutes.append((exporter.read_cpu_seconds() - before) / SCRAPES + idle_minute)
    details = {"present_bytes": present, "idle_seconds": idle_minute, "durations": durations}
    details |= {"shared_bytes": exporter.add_up("cowd_fork_shared_bytes")}
    details |= {"copied_bytes": exporter.add_up("cowd_fork_copied_bytes")}
    return Outcome(minutes, details=details)


def measure_latency(stage: Stage, rounds: int) -> Mapping[str, Outcome]:
    """How long a page fault takes a process that is scraped all the time, and one that is not."""
    program = stage.program("fault_latency")
    faults: list[float] = []

    def fault() -> float:
        _, p99, count = program.ask(FAULT_SECONDS)
        faults.append(count)
        return p99

    with exporting(stage, ROOT_USER, FAULTING) as exporter:

        def fault_scraped() -> float:
            ended = threading.Event()

            def scrape() -> None:
                while not ended.is_set():
                    exporter.scrape()

            scraping = threading.Thread(target=scrape)
            scraping.start()
            try:
                return fault()
            finally:
                ended.set()
                scraping.join()

        figures = measure({"scraped": fault_scraped, "alone": fault}, rounds, "page faults")
        assert exporter.add_up("cowd_processes") == 1
    details = {"faults": faults}
    return {"scrape-faults": Outcome(figures["scraped"], figures["alone"], details)}


PARTS = [
    Part(
        [
            Case(
                "scrape", "10 GiB scraped, CPU a minute", 0.005 * MINUTE_SECONDS, is_absolute=True
            ),
            Case(
                "scrape-forks",
                "the same with forks, a minute",
                0.015 * MINUTE_SECONDS,
                is_absolute=True,
            ),
        ],
        measure_cost,
        6 * GIBIBYTE,
    ),
    Part(
        [Case("scrape-faults", "p99 page fault scraped, alone", 2.0)], measure_latency, 2 * GIBIBYTE
    ),
]
