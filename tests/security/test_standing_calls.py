# SPDX-License-Identifier: Apache-2.0
"""A call that stands still in its target, for good, costs its worker its life, and nobody else.

Whoever owns a target can hold up those who read its page tables (a page fault that is never
answered holds its mmap lock). Played here by a reader that does not come back.
"""

import pytest
from harness.changed_zygote import in_zygote
from harness.daemon import StartDaemon
from harness.programs import GAMES, CallError, StartCaller, StartSubject

STANDING_COUNT = 3
"""Of pages: whoever asks for as many waits."""
WORK_SECONDS = 1.5
STAND_STILL = f"""
import threading
from cowdaemon import limits
limits.WORK_SECONDS = {WORK_SECONDS}
from cowdaemon.worker.reader import Reader
read_few = Reader.read_few
def stand_still(self, pagemap, address, count, masks):
    if count == {STANDING_COUNT}:
        threading.Event().wait()
    return read_few(self, pagemap, address, count, masks)
Reader.read_few = stand_still
"""


def test_call_that_stands_still_ends_its_worker_alone(
    start_daemon: StartDaemon, start_caller: StartCaller, start_subject: StartSubject
) -> None:
    """Seen to fail with the look at how long calls stand still taken out of run_worker()."""
    daemon = start_daemon(change=in_zygote(STAND_STILL))
    mine, theirs = start_subject("anonymous"), start_subject("anonymous", user=GAMES)
    caller = start_caller(socket_path=daemon.socket_path)
    other = start_caller(GAMES, daemon.socket_path)
    assert other.get_page_flags(theirs.pid, theirs.address).state[0]
    with pytest.raises(CallError) as failure:
        caller.get_page_flags(mine.pid, mine.address, STANDING_COUNT)
    assert failure.value.outcome[0] == "UNAVAILABLE"
    assert WORK_SECONDS / 2 < failure.value.seconds < 10 * WORK_SECONDS
    assert caller.get_page_flags(mine.pid, mine.address).state[0]  # by another worker
    assert other.get_page_flags(theirs.pid, theirs.address).state[0]
    assert "a call stands still" in daemon.log()
