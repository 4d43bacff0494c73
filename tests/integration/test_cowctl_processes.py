# SPDX-License-Identifier: Apache-2.0
"""cowctl maps, diff and family, as user nobody, about a family of processes made as is known."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from harness.cowctl import Ended, RunCowctl
from harness.programs import GAMES, NOBODY, PAGE_BYTES, StartSubject

BACKENDS = pytest.mark.parametrize("backend", ["daemon", "local"])

PROGRAM = """
import ctypes, json, mmap, os, sys
PAGE = mmap.PAGESIZE
def locate(memory):
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))
def write(memory, pages, byte):
    for page in pages:
        memory[page * PAGE] = byte
descriptor = os.open(sys.argv[1], os.O_RDONLY)
file = mmap.mmap(descriptor, 32 * PAGE, mmap.MAP_PRIVATE)
sum(file[page * PAGE] for page in range(24))
write(file, range(4), 1)
zeros = mmap.mmap(-1, 8 * PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
zeros.madvise(mmap.MADV_NOHUGEPAGE)
sum(zeros[page * PAGE] for page in range(8))
children, read_end, write_end = [], *os.pipe()
for pages in (range(0, 8), range(2, 20)):
    child = os.fork()
    if child == 0:
        write(file, pages, 2)
        own = mmap.mmap(descriptor, 6 * PAGE, mmap.MAP_PRIVATE)
        write(own, range(6), 3)
        os.write(write_end, b"x")
        sys.stdin.read()
        os._exit(0)
    children.append(child)
    os.read(read_end, 1)
write(file, range(6, 10), 4)
print(json.dumps([locate(file), *children]), flush=True)
sys.stdin.read()
for child in children:
    os.waitpid(child, 0)
"""
"""Of the 32 pages of a file, 4 are copied before the forks, and 24 to 31 are left alone."""
SORTS = {
    "first": [
        (0, 6, "different", "second"),  # copies of copies, and copies of the file's pages
        (6, 2, "different", "both"),
        (8, 2, "different", "first"),
    ],
    "second": [
        (2, 4, "different", "second"),
        (6, 4, "different", "both"),
        (10, 10, "different", "second"),
    ],
}


class Family:
    """A parent with two children, and where the three have their pages of the file."""

    def __init__(self, file: Path) -> None:
        file.write_bytes(b"f" * 32 * PAGE_BYTES)
        self.process = subprocess.Popen(
            NOBODY.command([sys.executable, "-c", PROGRAM, str(file)]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout
        self.pid = self.process.pid
        self.address, *self.children = json.loads(self.process.stdout.readline())


@pytest.fixture
def family(public_directory: Path) -> Iterator[Family]:
    """Return the three, which wait."""
    made = Family(public_directory / "words")
    yield made
    made.process.communicate()


def read_json(ended: Ended) -> Any:
    """Return what a command has written."""
    assert (ended.status, ended.err) == (0, ""), ended
    return json.loads(ended.out)


@pytest.mark.parametrize(("number", "name"), [*enumerate(SORTS)])
def test_two_processes_differ_where_they_have_written(
    run_cowctl: RunCowctl, family: Family, number: int, name: str
) -> None:
    """Seen to fail with PID and OTHER in each other's place."""
    pids = str(family.pid), str(family.children[number])
    place = f"{family.address:x}+32"
    told = read_json(run_cowctl("diff", *pids, place, "-J"))
    different = [
        (*(locate(run, family), run["page_count"], run["comparison"]), run["copied_by"])
        for run in told["runs"]
        if run["comparison"] == "different"
    ]
    # Pages 0 to 3 were copied before, and have another state than 4 and 5 in the parent.
    assert join(different) == SORTS[name]
    each = read_json(run_cowctl("diff", *pids, place, "-J", "--each", "--all"))
    assert [run["page_count"] for run in each["runs"]] == [1] * 32
    counted = read_json(run_cowctl("diff", *pids, place, "-J", "--totals"))
    assert counted["mappings"] == told["mappings"] == each["mappings"]
    [mapping] = counted["mappings"]
    assert mapping["different_page_count"] == sum(count for _, count, _, _ in SORTS[name])
    assert mapping["unknown_page_count"] == 0


def locate(run: dict[str, Any], family: Family) -> int:
    """Return the number of a run's first page, in the file."""
    return (int(run["address"], 16) - family.address) // PAGE_BYTES


def join(runs: list[tuple[int, int, str, str]]) -> list[tuple[int, int, str, str]]:
    """Return neighbouring runs that are alike as one."""
    joined = []
    for sort, group in groupby(runs, lambda run: run[2:]):
        parts = list(group)
        joined.append((parts[0][0], sum(count for _, count, _, _ in parts), *sort))
    return joined


def test_whole_processes_can_be_compared(run_cowctl: RunCowctl, family: Family) -> None:
    """What a child has mapped since is its own."""
    told = read_json(run_cowctl("diff", str(family.pid), str(family.children[1]), "-J"))
    ours = [each for each in told["mappings"] if each["other_mapping"].endswith("/words")]
    assert sum(each["only_second_page_count"] for each in ours) == 6
    counted = {"same", "different", "only_first", "only_second", "neither", "unknown"}
    for each in told["mappings"]:
        assert sum(each[f"{sort}_page_count"] for sort in counted) == each["page_count"]


def test_a_family_is_told_with_who_has_written(run_cowctl: RunCowctl, family: Family) -> None:
    """Seen to fail with the columns of parent and child in each other's place."""
    told = read_json(run_cowctl("family", str(family.pid), "-J"))
    assert [child["pid"] for child in told["children"]] == family.children
    names = "copied_by_child", "copied_by_parent", "both", "different", "own"
    expected = [(6, 2, 2, 0, 6), (14, 0, 4, 0, 6)]
    for child, numbers in zip(told["children"], expected, strict=True):
        groups = {group["group"]: group for group in child["groups"]}
        # The rest of this group are files that are only read.
        assert tuple(groups["file"][f"{name}_page_count"] for name in names) == numbers
        for name in names:
            total = sum(group[f"{name}_page_count"] for group in groups.values())
            assert child[f"{name}_page_count"] == total
        assert child["command"].startswith("python")


def test_a_family_is_a_table_as_well(run_cowctl: RunCowctl, family: Family) -> None:
    pages = run_cowctl(
        *("family", str(family.pid), "--by-group", "-nrb", "-o", "pid,group,by-child,both")
    )
    assert pages.status == 0
    rows = [line.split() for line in pages.out.splitlines()]
    assert [row for row in rows if row[1] == "file"] == [
        [str(family.children[0]), "file", str(6 * PAGE_BYTES), str(2 * PAGE_BYTES)],
        [str(family.children[1]), "file", str(14 * PAGE_BYTES), str(4 * PAGE_BYTES)],
    ]
    person = run_cowctl("family", str(family.pid), "--color=always")
    assert person.out.startswith("Of the ")
    assert f"that process {family.pid} has, each of its 2" in person.out


@BACKENDS
def test_mappings_are_those_of_smaps(run_cowctl: RunCowctl, family: Family, backend: str) -> None:
    """Seen to fail with the page of zeros counted as resident."""
    for pid, copied in ((family.pid, 8), (family.children[1], 20)):
        told = read_json(run_cowctl("maps", str(pid), "-J", "--all", "--backend", backend))
        assert told["backend"] == backend
        rows = {int(row["address"], 16): row for row in told["mappings"]}
        assert rows[family.address]["copied_page_count"] == copied
        assert {
            address: (row["resident_page_count"], row["anon_page_count"])
            for address, row in rows.items()
            if row["mapping"] != "[vsyscall]"
        } == read_smaps(pid)
    chosen = run_cowctl(
        *("maps", str(family.pid), "--mapping", "words", "-nrb", "-o", "copied,mapping"),
        *("--backend", backend),
    )
    assert (chosen.status, chosen.err) == (0, "")
    assert [line.split()[0] for line in chosen.out.splitlines()] == [str(8 * PAGE_BYTES)]


def read_smaps(pid: int) -> dict[int, tuple[int, int]]:
    """Return Rss and Anonymous of each mapping, in pages, by its address."""
    found = {}
    for part in re.split(
        r"^(?=[0-9a-f]+-)", Path(f"/proc/{pid}/smaps").read_text(), flags=re.MULTILINE
    ):
        if part and "[vsyscall]" not in part:
            rss, anonymous = (
                int(re.findall(rf"^{key}: +([0-9]+) kB$", part, re.MULTILINE)[0])
                * 1024
                // PAGE_BYTES
                for key in ("Rss", "Anonymous")
            )
            found[int(part.split("-")[0], 16)] = rss, anonymous
    return found


@pytest.mark.parametrize("command", ["maps", "diff", "family"])
def test_a_process_of_another_user_is_4(
    run_cowctl: RunCowctl, start_subject: StartSubject, family: Family, command: str
) -> None:
    theirs = str(start_subject("anonymous", user=GAMES).pid)
    arguments = [str(family.pid), theirs] if command == "diff" else [theirs]
    ended = run_cowctl(command, *arguments)
    assert (ended.status, ended.out) == (4, "")
    assert f"the kernel does not let you inspect process {theirs}" in ended.err
