# SPDX-License-Identifier: Apache-2.0
"""Attack 11, in part: hold up the broker with descriptors that take long to close.

Closing the last reference to a TCP socket with SO_LINGER waits as long as its owner likes, and what
a client has sent along on a connection that is dropped is closed by whoever drops it. Seen to fail
with `wire.refuse_descriptors` and `Server._discard` closing at once: the broker stood still.
"""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from cowdaemon import wire
from harness.daemon import Daemon, StartDaemon
from harness.older_kernels import WITHOUT_REFUSAL
from harness.programs import GAMES, NOBODY, StartCaller, StartSubject, environment

LINGER_SECONDS = 30
SERVED_SECONDS = 3.0
"""For a connection and a call of somebody else meanwhile; held up, it is LINGER_SECONDS."""
CALLS = 5
LINGERER = Path(__file__).with_name("lingerer.py")


def lingering_client(daemon: Daemon) -> subprocess.Popen[str]:
    program = [sys.executable, str(LINGERER), str(daemon.socket_path), str(LINGER_SECONDS)]
    return subprocess.Popen(
        NOBODY.command(program),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment(),
        cwd="/",
        text=True,
    )


@pytest.mark.parametrize("change", ["", WITHOUT_REFUSAL], ids=["this-kernel", "older-kernel"])
def test_others_are_served_meanwhile(
    change: str, start_daemon: StartDaemon, start_caller: StartCaller, start_subject: StartSubject
) -> None:
    daemon = start_daemon(change=change)
    subject = start_subject("anonymous", user=GAMES)
    with lingering_client(daemon) as attacker:
        assert attacker.stdout is not None
        sent = int(attacker.stdout.readline())
        assert bool(change) == bool(sent) or not can_refuse()
        for _ in range(CALLS):
            started = time.monotonic()
            caller = start_caller(GAMES, daemon.socket_path)
            assert caller.get_page_flags(subject.pid, subject.address).state[0]
            assert time.monotonic() - started < SERVED_SECONDS


def can_refuse() -> bool:
    ends = wire.seqpacket_pair()
    with ends[0], ends[1]:
        return wire.refuse_descriptors(ends[0])
