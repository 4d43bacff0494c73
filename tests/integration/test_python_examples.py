# SPDX-License-Identifier: Apache-2.0
"""The examples in Python, run as a user runs them: what they print is what they claim."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from harness.daemon import ROOT, Daemon
from harness.programs import NOBODY, PAGE_BYTES, ROOT_USER, User, environment

EXAMPLES = ROOT / "client" / "examples"
SECONDS = 120.0
"""The slowest takes six, on a machine that has nothing else to do."""
RECORDS_MIB = 50.0
"""What the collector, or whoever reads them all, writes to of preload_server.py's records."""
NOISE_MIB = 3.0
"""What a process in Python writes to without doing anything."""


def run_example(
    name: str, *arguments: object, user: User = NOBODY, socket_path: Path | None = None
) -> list[str]:
    """Return the lines that an example prints, which must end well."""
    command = [sys.executable, "-W", "error", str(EXAMPLES / name), *map(str, arguments)]
    done = subprocess.run(
        user.command(command),
        # OpenBLAS would have threads of its own, and newer Pythons warn of forks beside threads.
        env=environment()
        | {"OPENBLAS_NUM_THREADS": "1"}
        | ({"COWD_SOCKET": str(socket_path)} if socket_path else {}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        cwd="/",
        text=True,
        timeout=SECONDS,
        check=True,
    )
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    ("size", "start", "copied"),
    [
        (9 * PAGE_BYTES + 3, 5, [1, 5, 6, 10, 6]),
        (PAGE_BYTES + 7, 1, [1, 1, 2, 2, 2]),
        (PAGE_BYTES, 1, [1, 0, 1, 1, 1]),
        (5, 1, [1, 0, 1, 1, 1]),
    ],
)
def test_checkpoint_saves_what_differs_and_restores_it(
    public_directory: Path, size: int, start: int, copied: list[int]
) -> None:
    """Seen to fail with all pages saved as if they were the first."""
    original = os.urandom(size)
    file, checkpoint = public_directory / "original", public_directory / "checkpoint"
    file.write_bytes(original)
    file.chmod(0o444)
    lines = run_example("checkpoint.py", file, checkpoint)
    assert [int(number) for number in re.findall(r"\d+", " ".join(lines))] == copied
    assert lines[-1].endswith(", as they were")
    changed = bytearray(original)
    changed[0] = 1
    for place in range(start * PAGE_BYTES, size):
        changed[place] = (changed[place] + 1) % 256
    saved, restored = checkpoint.read_bytes(), bytearray(original)
    assert len(saved) <= copied[2] * (16 + PAGE_BYTES)
    while saved:
        first, length = (int.from_bytes(saved[at : at + 8], sys.byteorder) for at in (0, 8))
        restored[first : first + length] = saved[16 : 16 + length]
        saved = saved[16 + length :]
    assert restored == changed
    assert file.read_bytes() == original


class Row(NamedTuple):
    """What worker 1 and the server have after something, in MiB."""

    shared: float
    copied: float
    by_server: float
    own: float


def preload(daemon: Daemon, *arguments: str) -> tuple[dict[str, Row], dict[str, float]]:
    """Return what preload_server.py prints: sizes by what was done, and copies by group."""
    lines = run_example("preload_server.py", *arguments, socket_path=daemon.socket_path)
    title, heading, *rows = lines
    assert title.startswith("With " if arguments else "Without ")
    assert heading.split()[:2] == ["AFTER", "WORKER"]
    sizes = {}
    for line in rows:
        if row := re.fullmatch(r"(.+?) +([12])" + r" +([\d.]+)" * 4, line):
            what = Row(*map(float, row.groups()[2:]))
            if row[2] == "1":
                sizes[row[1]] = what
            else:  # it was asked the same of the next records
                assert what == pytest.approx(sizes[row[1]], abs=NOISE_MIB)
    [groups] = [line for line in rows if line.startswith("copied by worker 1: ")]
    return sizes, {group: float(size) for group, size in re.findall(r"(\w+) ([\d.]+)", groups[20:])}


def test_preload_server_copies_less_after_gc_freeze(daemon: Daemon) -> None:
    """Both at once: what a collection copies is gone with gc.freeze(), what reading copies is not.

    Seen to fail without the call of gc.freeze(), without that of gc.collect(), and with workers
    that read nothing.
    """
    plain, plain_groups = preload(daemon)
    frozen, frozen_groups = preload(daemon, "--freeze")
    stages = ["the fork", "reading a tenth", "gc.collect()", "reading all"]
    assert list(plain) == list(frozen) == stages
    for sizes in plain, frozen:
        assert sizes["the fork"].copied < NOISE_MIB
        assert sizes["reading a tenth"].copied == pytest.approx(RECORDS_MIB / 10, abs=NOISE_MIB)
        assert sizes["reading all"].copied > 0.8 * RECORDS_MIB
        everything = {round(row.shared + row.copied + row.by_server) for row in sizes.values()}
        assert max(everything) - min(everything) <= NOISE_MIB
    assert plain["gc.collect()"].copied > 0.8 * RECORDS_MIB
    assert frozen["gc.collect()"].copied < frozen["reading a tenth"].copied + 1
    assert plain_groups["anonymous"] > 0.8 * RECORDS_MIB > 4 * frozen_groups["anonymous"]


def test_shared_list_is_copied_by_reading_and_the_array_is_not(daemon: Daemon) -> None:
    """Seen to fail with an array in the place of the list."""
    heading, *rows = run_example("shared_list.py", socket_path=daemon.socket_path)
    assert heading.split() == ["WORKER", "READS", "SHARED", "COPIED", "OWN", "(MiB)"]
    read = {
        row[1]: float(row[2])
        for line in rows
        if (row := re.fullmatch(r"(.+?) +[\d.]+ +([\d.]+) +[\d.]+", line))
    }
    assert list(read) == ["nothing", "the list", "the array"]
    assert read["nothing"] < NOISE_MIB
    assert read["the list"] > 30  # a million of objects of 32 bytes
    assert read["the array"] < read["nothing"] + 1


def test_redis_says_the_same_of_its_save(daemon: Daemon) -> None:
    """Within a tenth, or 2 MiB.

    Seen to fail with nothing but what the child has copied, and with what they share added.
    """
    if not shutil.which("redis-check-rdb", path=os.defpath):
        pytest.skip("no Redis: make setup installs it")
    heading, *rows, at_last, redis = run_example("redis_bgsave.py", socket_path=daemon.socket_path)
    assert heading.split()[-3:] == ["COWD", "REDIS", "(MiB)"]
    looks = [float(line.split()[-2]) for line in rows]
    assert looks == sorted(looks)
    assert len(looks) > 3
    ours, its = (float(line.split()[-2]) for line in (at_last, redis))
    assert its > 4  # of 4 KiB for each key that was written to: many
    assert ours == pytest.approx(its, rel=0.1, abs=2)


def test_own_workers_share_what_the_zygote_imported(reachable: None) -> None:  # noqa: ARG001
    """Seen to fail with workers that fill 20 MiB of their own."""
    heading, *rows = run_example("own_workers.py", user=ROOT_USER)
    assert heading.split()[-6:] == ["SHARED", "ANON", "COPIED", "BY-PARENT", "OWN", "(MiB)"]
    assert [row[:16].rstrip() for row in rows] == ["who they are", "4 pages", "32,768 pages"]
    for row in rows:
        shared, anonymous, copied, _, own = map(float, row[16:].split())
        assert shared > anonymous > 10
        assert 1 < copied + own < 10
