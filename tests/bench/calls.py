# SPDX-License-Identifier: Apache-2.0
"""Calls about four pages: against a call that does nothing, and beside another user's stream.

Runs in the process of the benchmark.
"""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from compileall import compile_dir

from harness.daemon import ROOT
from harness.programs import GAMES, NOBODY, User, environment

from bench.cases import PAGES_PER_SECOND, Case, Outcome, Part
from bench.ranges import GIBIBYTE, SCENE_BYTES
from bench.rounds import measure
from bench.stage import ANSWER_SECONDS, Pages, Stage, ask

CALLS = 200
"""In a round: the figure of a round is their median."""
QUERY = "import sys; from cowd.cli.main import main; sys.exit(main())"
IMPORTED = "proto", "daemon", "client"


def measure_calls(stage: Stage, rounds: int) -> Mapping[str, Outcome]:
    """One call after another, by one client."""
    with stage.scene("few") as scene:
        ways = {
            way: lambda way=way: ask_calls(stage, way, scene["all"])
            for way in ("noop", "stub", "library")
        }
        figures = measure(ways, rounds, "small calls")
    return {
        "call": Outcome(figures["stub"], figures["noop"], {"calls_a_round": CALLS}),
        "call-library": Outcome(figures["library"], figures["noop"], {"calls_a_round": CALLS}),
    }


def ask_calls(stage: Stage, way: str, pages: Pages) -> float:
    """Return the median seconds of a call, of one round."""
    return ask(stage.asker(), pages.order("call", way=way, calls=CALLS))["seconds"]


def measure_command(stage: Stage, rounds: int) -> Mapping[str, Outcome]:
    """The whole of `cowctl query`, its modules compiled as those of an installation are."""
    for folder in IMPORTED:
        compile_dir(ROOT / folder, quiet=1)
    with stage.scene("few") as scene:
        pid, address, count = scene["all"]
        socket = {"COWD_SOCKET": os.fspath(stage.daemon.socket_path)}
        query = [QUERY, "query", str(pid), f"{address:x}+{count}"]
        ways = {
            "cowctl": lambda: run(query, environment() | socket),
            "import": lambda: run(["import grpc"], environment()),
        }
        figures = measure(ways, 2 * rounds, "command")
    return {"command": Outcome(figures["cowctl"], figures["import"])}


def run(code: list[str], variables: dict[str, str]) -> float:
    """Return how long Python takes as an ordinary user, with this code and arguments."""
    start = time.monotonic()
    subprocess.run(
        [sys.executable, "-c", *code],
        env=variables,
        cwd="/",
        stdout=subprocess.DEVNULL,
        user=NOBODY.uid,
        group=NOBODY.gid,
        extra_groups=[],
        check=True,
    )
    return time.monotonic() - start


def measure_users(stage: Stage, rounds: int) -> Mapping[str, Outcome]:
    """Two users at once: how much both get, and how long one waits for a small call meanwhile."""
    with (
        stage.hole() as file,
        stage.scene("scattered", NOBODY, file) as first,
        stage.scene("scattered", GAMES, file) as second,
        stage.scene("few", NOBODY) as few,
    ):
        places = {NOBODY: first["all"], GAMES: second["all"]}
        alone = [{user: pages} for user, pages in places.items()]
        throughput = measure(
            {
                "two": lambda: read_at_once(stage, places),
                "one": lambda: statistics.harmonic_mean(
                    [read_at_once(stage, place) for place in alone]
                ),
            },
            rounds,
            "two users at once",
        )
        calls = measure(
            {
                "beside": lambda: call_beside(stage, few["all"], GAMES, second["all"]),
                "alone": lambda: ask_calls(stage, "library", few["all"]),
            },
            rounds,
            "beside a stream",
        )
    return {
        "two-users": Outcome(throughput["two"], throughput["one"]),
        "beside-stream": Outcome(calls["beside"], calls["alone"]),
    }


def read_at_once(stage: Stage, places: Mapping[User, Pages]) -> float:
    """Have each user read a range, all at the same time; return the pages a second of all."""
    for user, pages in places.items():
        stage.asker(user).write(pages.order("read"))
    answers = [stage.asker(user).read(ANSWER_SECONDS) for user in places]
    start, end = min(each["start"] for each in answers), max(each["end"] for each in answers)
    return sum(pages.count for pages in places.values()) / (end - start)


def call_beside(stage: Stage, few: Pages, other: User, streamed: Pages) -> float:
    """Return what `ask_calls` does while another user streams without a pause."""
    ask(stage.asker(other), streamed.order("begin_streaming"))
    seconds = ask_calls(stage, "library", few)
    listed = ask(stage.asker(other), {"do": "end_streaming"})["listed"]
    assert listed >= streamed.count, f"{listed} pages were streamed meanwhile"
    return seconds


PARTS = [
    Part(
        [
            Case("call", "4-page call, no-op call", 1.4),
            Case("call-library", "the library's call, no-op call"),
        ],
        measure_calls,
    ),
    Part([Case("command", "cowctl query, import grpc", 1.6)], measure_command),
    Part(
        [
            Case(
                "two-users",
                "two users at once, one alone",
                1.0,
                is_floor=True,
                unit=PAGES_PER_SECOND,
            ),
            Case("beside-stream", "4 pages beside a stream, alone", 3.0),
        ],
        measure_users,
        SCENE_BYTES + 2 * GIBIBYTE,
    ),
]
