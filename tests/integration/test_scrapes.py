# SPDX-License-Identifier: Apache-2.0
"""Scrapes of a real daemon: the figures of processes made here.

Scrapes are made in the test process, as root. What other users see is shown by test_export.py, and
what a process that hangs costs by tests/security/test_hung_sweeps.py.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import cowd
import pytest
from cowd import _proc
from cowd.exporters.config import ExportConfig, GroupRule
from cowd.exporters.figures import GroupFigures, Scrape
from cowd.exporters.processes import Process, list_processes
from cowd.exporters.scraper import Scraper
from harness.daemon import Daemon, StartDaemon
from harness.programs import PAGE_BYTES
from harness.puppets import Puppet
from harness.statistics import ANEW

NAME = "cowd-scraped"
PAGES = 64
WRITTEN, MORE, CHILDS, PARENTS = 10, 7, 5, 3
RULES = (GroupRule("scraped", command=(NAME,)),)


@pytest.fixture
def open_puppet(public_directory: Path) -> Iterator[Callable[[], Puppet]]:
    """Return a function that starts a puppet whose command has the name NAME."""
    interpreter = public_directory / NAME
    interpreter.symlink_to(os.path.realpath("/usr/bin/python3"))
    with ExitStack() as stack:

        def start() -> Puppet:
            puppet = Puppet(interpreter=str(interpreter))
            stack.callback(puppet.close)
            return puppet

        yield start


def make_scraper(daemon: Daemon, **settings: Any) -> Scraper:
    """Return a scraper of this daemon, with the groups of RULES."""
    return Scraper(ExportConfig(**{"groups": RULES, **settings}), str(daemon.socket_path))


def find(scrape: Scrape, name: str) -> GroupFigures:
    """Return the figures of one group."""
    assert scrape.failure is None
    [group] = [group for group in scrape.groups if group.group == name]
    return group


def test_figures_follow_what_processes_write(
    daemon: Daemon, open_puppet: Callable[[], Puppet]
) -> None:
    scraper = make_scraper(daemon, cache_seconds=0.0)
    assert find(scraper.scrape(), "scraped").process_count == 0
    puppets = [open_puppet() for _ in range(2)]
    pids = []
    for puppet in puppets:
        pids.append(puppet.map_pages("memfd", PAGES).pid)
        puppet.do("store", 0, WRITTEN)
    first = find(scraper.scrape(), "scraped")
    summaries = cowd.summarize(pids, address=str(daemon.socket_path))
    assert (first.process_count, first.is_complete, first.fork) == (2, True, None)
    assert first.copied_bytes == PAGE_BYTES * sum(each.copied_page_count for each in summaries)
    for state, size_bytes in first.mapping_bytes.items():
        pages = sum(getattr(each.page_counts, state) for each in summaries)
        assert size_bytes == pages * PAGE_BYTES, state
    puppets[1].do("store", WRITTEN, MORE)
    second = find(scraper.scrape(), "scraped")
    assert second.copied_bytes - first.copied_bytes == MORE * PAGE_BYTES
    grown = second.mapping_bytes["anon"] - first.mapping_bytes["anon"]
    assert grown >= MORE * PAGE_BYTES  # and what the puppet's own work took
    puppets[0].kill()
    assert find(scraper.scrape(), "scraped").process_count == 1


def test_forks_are_compared_as_family_does(
    daemon: Daemon, open_puppet: Callable[[], Puppet]
) -> None:
    scraper = make_scraper(daemon, cache_seconds=0.0, fork=True)
    puppet = open_puppet()
    pid = puppet.map_pages("memfd", PAGES).pid
    puppet.do("store", 0, PAGES)
    puppet.do("fork", 0, 0)
    before = find(scraper.scrape(), "scraped")
    puppet.do("child-store", 0, CHILDS)
    puppet.do("store", PAGES // 2, PARENTS)
    told = find(scraper.scrape(), "scraped")
    [child] = cowd.family(pid, address=str(daemon.socket_path)).children
    assert before.fork
    assert told.fork
    assert (told.process_count, told.is_complete) == (2, True)
    assert told.fork.shared_bytes == child.total.shared * PAGE_BYTES
    assert told.fork.copied_bytes == child.total.copied * PAGE_BYTES
    assert told.fork.copied_bytes - before.fork.copied_bytes >= (CHILDS + PARENTS) * PAGE_BYTES


def test_what_is_cached_is_told_with_its_age(
    daemon: Daemon, open_puppet: Callable[[], Puppet]
) -> None:
    puppet = open_puppet()
    puppet.map_pages("memfd", PAGES)
    now = 0.0
    config = ExportConfig(groups=RULES, cache_seconds=3600.0)
    scraper = Scraper(config, str(daemon.socket_path), clock=lambda: now)
    first = find(scraper.scrape(), "scraped")
    puppet.do("store", 0, WRITTEN)
    now = 1800.0
    second = find(scraper.scrape(), "scraped")
    assert second.copied_bytes == first.copied_bytes
    assert (first.oldest_seconds, second.oldest_seconds) == (0.0, 1800.0)
    assert second.is_complete


def test_who_asks_meanwhile_gets_the_same_scrape(daemon: Daemon) -> None:
    """Seen to fail with each caller scraping for itself."""
    scraper = make_scraper(daemon, cache_seconds=0.0)
    found: list[Scrape] = []
    barrier = threading.Barrier(4)

    def ask() -> None:
        barrier.wait()
        found.append(scraper.scrape())

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(scrape) for scrape in found}) < len(found)
    assert scraper.scrape() not in found


def test_who_asks_again_within_a_second_gets_the_same_scrape(daemon: Daemon) -> None:
    """Seen to fail with a scrape for each request."""
    now = 0.0
    scraper = Scraper(ExportConfig(groups=RULES), str(daemon.socket_path), clock=lambda: now)
    first = scraper.scrape()
    now = 1.0
    assert scraper.scrape() is first
    now = 1.1
    assert scraper.scrape() is not first


def test_proc_that_cannot_be_listed_is_not_the_daemons_fault(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen to fail with every failure taken as the daemon's."""
    monkeypatch.setattr(_proc, "_PROC", Path("/nowhere"))
    scrape = make_scraper(daemon).scrape()
    assert scrape.is_up
    assert "cannot list processes in /proc: No such file" in str(scrape.failure)


def test_cowds_own_processes_are_neither_missed_nor_compared(
    start_daemon: StartDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen to fail with every parent and child compared, and with each new worker asked about."""
    daemon = start_daemon(change=ANEW)

    def list_own() -> list[Process]:
        pids = daemon.tree().pids
        return [each for each in list_processes() if each.identity.pid in pids]

    monkeypatch.setattr("cowd.exporters.scraper.list_processes", list_own)
    rules = (GroupRule("own"),)
    scraper = make_scraper(daemon, cache_seconds=0.0, fork=True, groups=rules)
    first = scraper.scrape()
    asked_about = daemon.tree()
    for worker in asked_about.workers:
        os.kill(worker, signal.SIGKILL)
    daemon.settled_tree(openers=0, workers=0)
    scrapes = first, scraper.scrape()
    for scrape in scrapes:
        assert (find(scrape, "own").process_count, find(scrape, "own").is_complete) == (0, True)
    assert scrapes[1].statistics
    refused = [each["COWD_TARGET_PID"] for each in daemon.read_records()]
    assert sorted(refused) == sorted(asked_about.pids)
    methods = {call.method for call in scrapes[1].statistics.calls}
    assert "SummarizeProcesses" in methods
    assert "ListMappings" not in methods


def test_daemon_that_goes_and_comes_back(daemon: Daemon, open_puppet: Callable[[], Puppet]) -> None:
    puppet = open_puppet()
    puppet.map_pages("memfd", PAGES)
    missing = daemon.socket_path.with_name("missing.sock")
    scraper = Scraper(ExportConfig(groups=RULES), str(missing))
    scrape = scraper.scrape()
    assert (scrape.is_up, scrape.groups) == (False, ())
    assert isinstance(scrape.failure, cowd.Unavailable)
    missing.symlink_to(daemon.socket_path)
    assert find(scraper.scrape(), "scraped").process_count == 1
