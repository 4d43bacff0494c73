# SPDX-License-Identifier: Apache-2.0
"""Which processes are asked about, how, and what becomes of those that do not answer.

What cowd answers is made up here; tests/integration/test_scrapes.py asks a real one.
"""

from dataclasses import replace

import cowd
import pytest
from cowd import KindTotals, MappingKind, PageCounts, ProcessSummary
from cowd.exporters.groups import NOT_TOLD
from cowd.exporters.looks import Looked, Summaries
from cowd.exporters.schedule import Allowance

TIMEOUT_SECONDS = 3.0
CACHE_SECONDS = 10.0
COUNTS = PageCounts(absent=5, anon=7)


class MadeUpClient:
    """Answers about processes, which takes no time but for those that `stall`.

    Attributes:
        now: the time.
        asked: pids of each call.
        failures: by pid.
        seconds: that an answer takes.
    """

    def __init__(self):
        self.now = 100.0
        self.asked = []
        self.stall = set()
        self.failures = {}
        self.seconds = 0.0

    def clock(self):
        return self.now

    def summarize_processes(self, pids):
        self.asked.append(pids)
        for pid in pids:
            if pid in self.stall:
                self.now += TIMEOUT_SECONDS
                raise cowd.TimedOut("no answer")
            self.now += self.seconds
            failure = self.failures.get(pid)
            totals = () if failure else (KindTotals(MappingKind.PRIVATE_FILE, 1, COUNTS),)
            yield ProcessSummary(pid, 1, 4096, totals, failure)


@pytest.fixture
def client():
    return MadeUpClient()


@pytest.fixture
def summaries(client, children):
    made = Summaries(Allowance(0, client.now), CACHE_SECONDS, client.clock)
    made.ledger.keep([each.identity for each in children])
    return made


def look(summaries, client, children, seconds=6.0):
    """Look once; return the pids of each call."""
    client.asked = []
    summaries.update(client, children, client.now + seconds)
    return client.asked


def test_all_are_asked_about_in_one_call_and_not_again_before_it_is_time(
    client, children, summaries
):
    a, b, c = (each.identity.pid for each in children)
    assert look(summaries, client, children) == [[a, b, c]]
    assert summaries.ledger[children[0].identity].value == Looked(COUNTS, 7)
    client.now += CACHE_SECONDS - 0.1
    assert look(summaries, client, children) == []
    client.now += 0.1
    assert look(summaries, client, children[1:]) == [[b, c]]


def test_those_that_the_time_did_not_suffice_for_come_first(client, children, summaries):
    a, b, c = (each.identity.pid for each in children)
    client.seconds = 1.0
    look(summaries, client, children, seconds=1.5)
    client.now += CACHE_SECONDS
    assert look(summaries, client, children) == [[c, a, b]]


def test_one_that_stalls_is_found_and_asked_alone_after_the_others(client, children, summaries):
    """Seen to fail with `_asked_alone` left empty."""
    a, b, c = (each.identity.pid for each in children)
    client.stall = {b}
    assert look(summaries, client, children) == [[a, b, c], [c], [b]]
    assert summaries.ledger[children[1].identity].reason == "TimedOut"
    assert summaries.ledger[children[2].identity].is_good
    client.now += CACHE_SECONDS
    assert look(summaries, client, children) == [[a, c]]
    client.now += 60.0
    assert look(summaries, client, children) == [[a, c], [b]]
    client.stall = set()
    client.now += 120.0
    assert look(summaries, client, children) == [[a, c], [b]]
    assert summaries.ledger[children[1].identity].is_good
    client.now += CACHE_SECONDS
    [together] = look(summaries, client, children)
    assert sorted(together) == [a, b, c]


def test_one_that_does_not_open_in_time_is_asked_alone_from_then_on(client, children, summaries):
    a, b, c = (each.identity.pid for each in children)
    client.failures = {a: cowd.TimedOut("it hangs", reason="OPEN_TIMED_OUT")}
    assert look(summaries, client, children) == [[a, b, c]]
    client.now += 60.0
    assert look(summaries, client, children) == [[b, c], [a]]
    assert summaries.ledger[children[0].identity].reason == "OPEN_TIMED_OUT"


def test_a_stall_that_takes_all_the_time_is_dealt_with_in_the_next_look(
    client, children, summaries
):
    a, b, c = (each.identity.pid for each in children)
    client.stall = {a}
    assert look(summaries, client, children, seconds=2.0) == [[a, b, c]]
    assert look(summaries, client, children) == [[a], [b], [c]]
    assert summaries.ledger[children[2].identity].is_good


def test_one_that_is_refused_is_left_alone_for_longer_and_longer(client, children, summaries):
    b, c = (each.identity.pid for each in children[1:])
    refused = children[0].identity
    client.failures = {refused.pid: cowd.AccessDenied("no", reason="ACCESS_DENIED")}
    look(summaries, client, children)
    assert summaries.ledger[refused].reason == "ACCESS_DENIED"
    client.now += 59.0
    assert look(summaries, client, children) == [[b, c]]


def test_one_that_executes_or_ends_meanwhile_is_no_failure(client, children, summaries):
    pid = children[0].identity.pid
    for error in (cowd.Aborted("gone"), cowd.NoSuchProcess("gone")):
        client.failures = {pid: error}
        assert pid in look(summaries, client, children)[0]
        assert summaries.ledger[children[0].identity].reason is None


def test_one_that_has_ended_is_not_missing(client, children, summaries):
    """Seen to fail without the question whether it is alive."""
    identity = children[0].identity
    ended = identity._replace(inode=1)
    summaries.ledger.keep([ended])
    client.failures = {identity.pid: cowd.NoSuchProcess("gone")}
    look(summaries, client, [replace(children[0], identity=ended)])
    assert summaries.ledger[ended].reason in NOT_TOLD


def test_an_answer_about_another_process_of_that_pid_is_dropped(client, children, summaries):
    """Seen to fail without the question whether the process is alive."""
    stale = children[0].identity._replace(inode=1)
    summaries.ledger.keep([stale])
    other = [type(children[0])(stale, 1, 0, "x", "", "/", 1)]
    assert look(summaries, client, other) == [[stale.pid]]
    assert summaries.ledger[stale].value is None


def test_what_is_not_affordable_waits(client, children):
    allowance = Allowance(700, client.now)  # 42,000 saved up; a process costs 20,000 at least
    summaries = Summaries(allowance, CACHE_SECONDS, client.clock)
    summaries.ledger.keep([each.identity for each in children])
    a, b, c = (each.identity.pid for each in children)
    assert look(summaries, client, children) == [[a, b]]
    client.now += 40.0
    allowance.refill(client.now)
    [[first, *_]] = look(summaries, client, children)
    assert first == c


def test_a_daemon_that_is_down_is_an_error(client, children, summaries):
    def fail(_):
        raise cowd.Unavailable("down")

    client.summarize_processes = fail
    with pytest.raises(cowd.Unavailable):
        look(summaries, client, children)
