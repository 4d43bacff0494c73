# SPDX-License-Identifier: Apache-2.0
"""A process that hangs in exec costs a call about all processes its deadline once, and no answer.

An unprivileged user can have such a process: see test_attack_16_hung_processes.py. Seen to fail
with the memory of what an opener was stuck in taken out (Targets._remember_stuck), and with
Reason.OPEN_TIMED_OUT among what ends a call about all.
"""

import os

from harness.daemon import StartDaemon
from harness.programs import GAMES, ROOT_USER, StartCaller, StartSubject
from security.silent_file_system import SilentFileSystem

FLUSH_SECONDS = 2.0


def test_sweep_goes_on_behind_a_process_that_hangs(
    start_daemon: StartDaemon,
    start_caller: StartCaller,
    start_subject: StartSubject,
    silent_file_system: SilentFileSystem,
) -> None:
    """Root asks about all, of which one is another user's and hangs."""
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
