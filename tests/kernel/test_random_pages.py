# SPDX-License-Identifier: Apache-2.0
"""Random mappings and random things done to them: the daemon against three others, page for page.

What each page is, the slow reader of harness/reference.py says as well, and the library without the
daemon. What is copied, a plain model says, which follows what was done and never asks the kernel
about a page. What is streamed, of any ranges, says the same: by a daemon as it is, by one that does
with a few pages what others do with millions, and by one without PAGEMAP_SCAN. So is what the
process and its fork have in common, frame by frame.
"""

from pathlib import Path
from typing import NamedTuple

import pytest
from harness.changed_zygote import in_zygote
from harness.comparisons import compare_by_frames, compare_in_all_ways
from harness.daemon import StartDaemon
from harness.local import LocalCaller
from harness.older_kernels import WITHOUT_PAGEMAP_SCAN
from harness.programs import PAGE_BYTES, Caller, StartCaller
from harness.puppets import Puppet
from harness.reference import Reference
from harness.small_steps import SCATTERED, SMALL_STEPS
from harness.states import ask
from harness.streams import stream_pages
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

EXAMPLES = 800
MOST_PAGES = 10
FEWEST_STEPS, MOST_STEPS = 4, 24
FORKS = 6
"""How much more often a fork is drawn than anything else: only the first one can be taken."""
MOST_RANGES = 5
AROUND_PAGES = 3
"""Before and behind the mapping, where something else is, or nothing."""
COPIES = {"ANON", "ANON_SWAPPED"}
COPYING = {"store", "store_same", "inject", "populate_write"}
DROPPING = {"drop", "guard"}
OF_ONE_PROCESS = [
    "store",
    "store_same",
    "load",
    "inject",
    "drop",
    "free",
    "page_out",
    "populate_read",
    "populate_write",
    "guard",
    "unguard",
    "forbid",
    "forbid_writing",
    "allow",
]
OF_THE_FILE = ["punch", "cut"]


class Plan(NamedTuple):
    """A mapping, and what is to be done to it."""

    backing: str
    private: bool
    pages: int
    populate: bool
    steps: list[tuple[str, int, int]]
    ranges: list[tuple[int, int]]
    """Of pages that are streamed: number of the first, and how many."""


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Return any mapping with any steps, sensible or not."""
    backing = draw(st.sampled_from(["disk", "tmpfs", "memfd", "anonymous"]))
    pages = draw(st.integers(1, MOST_PAGES))
    actions = [*OF_ONE_PROCESS, *[f"child-{action}" for action in OF_ONE_PROCESS]]
    actions += ["fork"] * FORKS
    step = st.tuples(
        st.sampled_from(actions + (OF_THE_FILE if backing != "anonymous" else [])),
        st.integers(0, pages - 1),
        st.integers(1, pages),
    )
    streamed = st.tuples(
        st.integers(-AROUND_PAGES, pages - 1), st.integers(1, pages + 2 * AROUND_PAGES)
    )
    return Plan(
        backing,
        draw(st.integers(0, 3)) > 0,  # private mappings are what there is more to know about
        pages,
        draw(st.booleans()),
        draw(st.lists(step, min_size=FEWEST_STEPS, max_size=MOST_STEPS)),
        draw(st.lists(streamed, min_size=1, max_size=MOST_RANGES)),
    )


class PageModel:
    """What is known of one page of one process without asking the kernel."""

    def __init__(self, copied: bool) -> None:
        self.copied = copied
        self.guarded = False
        self.readable = True
        self.writable = True

    def allows(self, action: str) -> bool:
        """Return whether the process survives this, and the kernel does not stop half-way."""
        if action in {"store", "store_same", "populate_write"}:
            return self.writable and not self.guarded
        if action == "load":
            return self.readable and not self.guarded
        return action != "inject" or not self.guarded

    def apply(self, action: str) -> None:
        """Follow what the kernel did."""
        if action in COPYING:
            self.copied = True
        elif action in DROPPING:
            self.copied = False
        if action in {"guard", "unguard"}:
            self.guarded = action == "guard"
        if action in {"forbid", "forbid_writing", "allow"}:
            self.readable = action != "forbid"
            self.writable = action == "allow"

    def copy(self) -> "PageModel":
        """Return what a fork has."""
        copy = PageModel(self.copied)
        copy.__dict__.update(self.__dict__)
        return copy


class Model:
    """What is known of the mapping in the process and in its fork."""

    def __init__(self, plan: Plan) -> None:
        self.pages = [PageModel(copied=plan.populate) for _ in range(plan.pages)]
        self.of_fork: list[PageModel] | None = None

    def find_pages(self, action: str, first: int, count: int) -> list[PageModel] | None:
        """Return the pages that a step concerns; None if it cannot be taken."""
        if action == "fork":
            return None if self.of_fork else self.pages
        pages = self.of_fork if action.startswith("child-") else self.pages
        if pages is None:
            return None
        concerned = pages[first : first + count]
        name = action.removeprefix("child-")
        return concerned if all(page.allows(name) for page in concerned) else None

    def apply(self, action: str, first: int, pages: list[PageModel]) -> None:
        """Follow a step that the kernel has done."""
        if action == "fork":
            self.of_fork = [page.copy() for page in self.pages]
        elif action == "cut":  # for all who map the file
            for page in self.pages[first:] + (self.of_fork or [])[first:]:
                page.copied = False
        else:
            for page in pages:
                page.apply(action.removeprefix("child-"))


@pytest.fixture
def streamers(
    nobody: Caller, start_daemon: StartDaemon, start_caller: StartCaller
) -> dict[str, Caller]:
    """Return callers of daemons that read in different ways."""
    changes = {
        "in small steps": SMALL_STEPS,
        "scattered": SMALL_STEPS + SCATTERED,
        "without the ioctl": SMALL_STEPS + WITHOUT_PAGEMAP_SCAN,
    }
    started = {
        name: start_caller(socket_path=start_daemon(change=in_zygote(change)).socket_path)
        for name, change in changes.items()
    }
    assert not started["without the ioctl"].get_server_info().kernel_features.pagemap_scan
    return {"as it is": nobody, **started}


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(plan=plans())
def test_random_pages(
    plan: Plan,
    swap_space: None,  # noqa: ARG001
    puppet: Puppet,
    nobody: Caller,
    streamers: dict[str, Caller],
    reference: Reference,
    local: LocalCaller,
    public_directory: Path,
    tmpfs_directory: Path,
) -> None:
    places = {"disk": str(public_directory), "tmpfs": str(tmpfs_directory), "anonymous": None}
    place = places.get(plan.backing, plan.backing)
    mapped = puppet.map_pages(place, plan.pages, plan.private, plan.populate)
    try:
        model, processes = play(plan, puppet, mapped.pid)
        for pid, pages in zip(processes, (model.pages, model.of_fork), strict=False):
            verify(plan, pages, pid, mapped.address, nobody, reference)
            verify_without_daemon(pid, mapped.address, plan.pages, nobody, local)
            verify_streams(plan, pid, mapped.address, streamers, reference)
        if len(processes) > 1:
            verify_comparisons(plan, processes, mapped.address, streamers, reference)
    finally:
        puppet.clear()


def play(plan: Plan, puppet: Puppet, pid: int) -> tuple[Model, list[int]]:
    """Have the puppet take the steps that can be taken; return what is known afterwards."""
    model = Model(plan)
    processes = [pid]
    for action, first, count in plan.steps:
        length = min(count, plan.pages - first)
        pages = model.find_pages(action, first, length)
        if pages is None:
            continue
        done = puppet.do(action, first, length)
        event(f"{action.removeprefix('child-')}: {bool(done)}")
        if done:
            model.apply(action, first, pages)
        if action == "fork":
            processes.append(done)
    return model, processes


def verify(
    plan: Plan,
    pages: list[PageModel],
    pid: int,
    address: int,
    caller: Caller,
    reference: Reference,
) -> None:
    """Assert that the daemon says of one process's pages what the two others say."""
    told = ask(caller, pid, address, plan.pages)
    read = reference.read_pages(pid, address, plan.pages)
    assert [(page.state, page.attributes) for page in told] == read
    for state in {page.state for page in told}:
        event(f"state {state}")
    guards = [page.state == "GUARD" for page in told]
    assert guards == [page.guarded for page in pages]
    copies = [page.state in COPIES for page in told]
    if plan.backing != "anonymous":
        assert copies == [page.copied and plan.private for page in pages]


def verify_without_daemon(
    pid: int, address: int, count: int, caller: Caller, local: LocalCaller
) -> None:
    """Assert that the library tells the same without the daemon, but for what only flags tell."""
    told = ask(caller, pid, address, count)
    assert local.ask(pid, address, count) == [
        (page.state, set(page.attributes - {"LAZYFREE"})) for page in told
    ]


def verify_streams(
    plan: Plan, pid: int, address: int, streamers: dict[str, Caller], reference: Reference
) -> None:
    """Assert that streams of any ranges say what the slow reader does, however they are read."""
    ranges = [(address + first * PAGE_BYTES, count) for first, count in plan.ranges]
    read = [page for wanted in ranges for page in reference.read_pages(pid, *wanted)]
    for name, streamer in streamers.items():
        told = stream_pages(streamer, pid, ranges)
        assert [(page.state, page.attributes) for page in told] == read, name


def verify_comparisons(
    plan: Plan,
    processes: list[int],
    address: int,
    streamers: dict[str, Caller],
    reference: Reference,
) -> None:
    """Assert that both are compared as their frames are, however they are read."""
    ranges = [(address + first * PAGE_BYTES, count) for first, count in plan.ranges]
    seen = [page for wanted in ranges for page in compare_by_frames(reference, *processes, *wanted)]
    for page in seen:
        event(f"{page.comparison}, copied by {page.copied_by}")
    for name, streamer in streamers.items():
        assert compare_in_all_ways(streamer, *processes, ranges) == seen, name
