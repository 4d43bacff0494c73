# SPDX-License-Identifier: Apache-2.0
"""A process that hangs in exec costs a call about all processes its deadline once, and no answer.

It costs a scrape of an exporter the same. An unprivileged user can have such a process: see
test_attack_16_hung_processes.py.
"""

import os
from pathlib import Path

from cowd.exporters.config import ExportConfig, GroupRule
from cowd.exporters.scraper import Scraper
from cowdaemon.limits import OPENER_SECONDS
from harness.daemon import StartDaemon
from harness.programs import GAMES, ROOT_USER, StartCaller, StartSubject
from harness.puppets import Puppet
from security.silent_file_system import SilentFileSystem

FLUSH_SECONDS = 2.0


def test_sweep_goes_on_behind_a_process_that_hangs(
    start_daemon: StartDaemon,
    start_caller: StartCaller,
    start_subject: StartSubject,
    silent_file_system: SilentFileSystem,
) -> None:
    """Root asks about all, of which one is another user's and hangs.

    Seen to fail with the memory of what an opener was stuck in taken out (Targets._remember_stuck),
    and with Reason.OPEN_TIMED_OUT among what ends a call about all.
    """
    daemon = start_daemon()
    caller = start_caller(ROOT_USER, daemon.socket_path)
    subject = start_subject("anonymous")
    hanging = start_subject("hanging-exec", silent_file_system.file, user=GAMES)
    behind = start_subject("anonymous")  # it has the higher number, but where they start again
    assert silent_file_system.flushed.wait(FLUSH_SECONDS)
    caller.get_server_info()
    openers = [daemon.tree().openers]
    for _ in range(2):
        told = {summary.pid for summary in caller.summarize([])}
        assert {subject.pid, behind.pid, os.getpid()} <= told
        assert hanging.pid not in told
        openers.append(daemon.settled_tree(openers=1, workers=1).openers)
    first, second, third = openers
    assert first != second  # it was lost in the process that hangs
    assert second == third  # and the next one was not risked for it
    (summary,) = caller.summarize([hanging.pid])
    assert summary.failure.reason == "OPEN_TIMED_OUT"


def test_scrape_goes_on_behind_a_process_that_hangs_and_the_next_one_does_not_wait(
    start_daemon: StartDaemon,
    start_subject: StartSubject,
    silent_file_system: SilentFileSystem,
    public_directory: Path,
) -> None:
    """Seen to fail with every failure asked about again in the next scrape."""
    daemon = start_daemon()
    hanging = start_subject("hanging-exec", silent_file_system.file, user=GAMES)
    interpreter = public_directory / "behind-it"  # after which the process is named
    interpreter.symlink_to(os.path.realpath("/usr/bin/python3"))
    behind = Puppet(interpreter=str(interpreter))
    assert silent_file_system.flushed.wait(FLUSH_SECONDS)
    name = Path(f"/proc/{hanging.pid}/comm").read_text().removesuffix("\n")
    rules = (GroupRule("healthy", command=("behind-it",)), GroupRule("hung", command=(name,)))
    scraper = Scraper(ExportConfig(cache_seconds=0.0, groups=rules), str(daemon.socket_path))
    try:
        scrapes = [scraper.scrape() for _ in range(2)]
    finally:
        behind.close()
    for scrape in scrapes:
        groups = {group.group: group for group in scrape.groups}
        assert groups["healthy"].is_complete
        assert groups["healthy"].mapping_bytes["anon"]
        assert groups["healthy"].oldest_seconds < scrape.duration_seconds
        assert not groups["hung"].is_complete
    assert scrapes[0].duration_seconds >= OPENER_SECONDS
    assert scrapes[1].duration_seconds < OPENER_SECONDS / 2
