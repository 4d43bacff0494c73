# SPDX-License-Identifier: Apache-2.0
"""What monitoring costs: processor time of a scrape a minute, and what a watched process notices.

Runs as root in the process of the benchmark. The exporter is `cowctl export prometheus`. It and the
daemon are in a control group meanwhile, which counts what processes use that end as well.
"""

import os
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Final

from cowdaemon.limits import WORKER_IDLE_SECONDS
from harness.daemon import Daemon
from harness.programs import ROOT_USER, User, environment

from bench.cases import Case, NotMeasurableError, Outcome, Part
from bench.rounds import measure, show_progress
from bench.stage import Stage
from bench.summaries import GIBIBYTE, NOBODY_ELSE

PRESENT_BYTES = 10 * GIBIBYTE
MOST_ROUNDS = 3
"""Of a quarter of a minute each."""
BUSY_SECONDS = WORKER_IDLE_SECONDS + 1.0
"""From a scrape until its worker has ended."""
IDLE_SECONDS = 5.0
MINUTE_SECONDS = 60.0
FAULT_SECONDS = 1.0
EVERYTHING: Final = "pages_per_second = 0\ncache_seconds = 0\n"
FAULTING: Final = EVERYTHING + '[[group]]\nname = "faulting"\ncommand = "fault_latency"\n'


class Exporter:
    """A running exporter of this stage's daemon.

    Args:
        url: where it serves.
    """

    def __init__(self, url: str) -> None:
        self._url = url
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


class ProcessorTime:
    """A control group, and what the processes in it have used of the processors.

    Raises:
        NotMeasurableError: none can be made here.
    """

    def __init__(self) -> None:
        # Its own mount: what is at /sys/fs/cgroup may be of version 1.
        self._hierarchy = Path(tempfile.mkdtemp())
        mount = ["mount", "--types", "cgroup2", "cgroup2", os.fspath(self._hierarchy)]
        if subprocess.run(mount, stderr=subprocess.DEVNULL, check=False).returncode:
            self._hierarchy.rmdir()
            raise NotMeasurableError("no control groups of version 2 can be mounted")
        self._group = self._hierarchy / f"cowd-bench-{os.getpid()}"
        self._group.mkdir()
        self._homes: set[str] = set()

    def take(self, pids: Iterable[int]) -> None:
        """Take processes in; those that they fork will be in it, too."""
        for pid in pids:
            lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
            [path] = [line.removeprefix("0::/") for line in lines if line.startswith("0::")]
            self._homes.add(path)
            (self._group / "cgroup.procs").write_text(str(pid))

    def read_seconds(self) -> float:
        """Return how much they have used so far."""
        lines = (self._group / "cpu.stat").read_text().splitlines()
        return int(dict(line.split() for line in lines)["usage_usec"]) / 1e6

    def close(self) -> None:
        """Put those that live back to where they came from, and remove it."""
        [home] = self._homes
        while pids := (self._group / "cgroup.procs").read_text().split():
            with suppress(ProcessLookupError):
                (self._hierarchy / home / "cgroup.procs").write_text(pids[0])
        self._group.rmdir()
        subprocess.run(["umount", self._hierarchy], check=True)
        self._hierarchy.rmdir()


@contextmanager
def exporting(daemon: Daemon, user: User, settings: str) -> Iterator[tuple[Exporter, int]]:
    """Have an exporter that has scraped once; and its pid."""
    config = daemon.socket_path.with_name("exporter.toml")
    config.write_text(settings)
    config.chmod(0o644)
    options = ["--listen", "127.0.0.1:0", "--config", os.fspath(config)]
    options += ["--socket", os.fspath(daemon.socket_path)]
    command = [sys.executable, "-m", "cowd.cli.main", "export", "prometheus", *options]
    with subprocess.Popen(
        user.command(command), stderr=subprocess.PIPE, text=True, cwd="/", env=environment()
    ) as process:
        try:
            assert process.stderr
            told = re.search(r"http:\S+metrics", line := process.stderr.readline())
            assert told, line
            exporter = Exporter(told[0])
            exporter.scrape()
            yield exporter, process.pid
        finally:
            process.terminate()


def measure_cost(stage: Stage, rounds: int) -> Mapping[str, Outcome]:
    """Processor time of a minute with one scrape, of a parent and four children."""
    outcomes = {}
    with stage.scene("family", NOBODY_ELSE), stage.another_daemon() as daemon:
        for name, fork in ("scrape", "false"), ("scrape-forks", "true"):
            with (
                exporting(daemon, NOBODY_ELSE, f"{EVERYTHING}fork = {fork}\n") as (exporter, pid),
                closing(ProcessorTime()) as used,
            ):
                used.take([pid, *daemon.tree().pids])
                outcomes[name] = measure_minutes(exporter, used, min(rounds, MOST_ROUNDS), name)
    return outcomes


def measure_minutes(exporter: Exporter, used: ProcessorTime, rounds: int, name: str) -> Outcome:
    """Return what minutes cost: of a scrape until its worker has ended, and of the time after."""
    present = sum(exporter.add_up("cowd_mapping_bytes", f'"{state}"') for state in ("file", "anon"))
    if present < PRESENT_BYTES:
        raise NotMeasurableError(f"only {present / GIBIBYTE:.1f} GiB are present")
    scrapes, idle, durations = [], [], []
    for number in range(rounds):
        show_progress(f"{name}: round {number + 1} of {rounds}")
        if not number:
            time.sleep(BUSY_SECONDS)  # of the scrape before
        before = used.read_seconds()
        time.sleep(IDLE_SECONDS)
        idle.append((used.read_seconds() - before) / IDLE_SECONDS)
        before = used.read_seconds()
        exporter.scrape()
        scrapes.append(used.read_seconds() - before)
        time.sleep(BUSY_SECONDS)
        busy = used.read_seconds() - before
        idle_seconds = MINUTE_SECONDS - BUSY_SECONDS
        durations.append(busy + idle[-1] * idle_seconds)
    details = {
        "present_bytes": present,
        "scrape_alone": scrapes,
        "idle_per_second": idle,
        "shared_bytes": exporter.add_up("cowd_fork_shared_bytes"),
        "copied_bytes": exporter.add_up("cowd_fork_copied_bytes"),
    }
    return Outcome(durations, details=details)


def measure_latency(stage: Stage, rounds: int) -> Mapping[str, Outcome]:
    """How long a page fault takes a process that is scraped all the time, and one that is not."""
    program = stage.program("fault_latency")
    faults: list[float] = []

    def fault() -> float:
        _, p99, count = program.ask(FAULT_SECONDS)
        faults.append(count)
        return p99

    with exporting(stage.daemon, ROOT_USER, FAULTING) as (exporter, _):

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
