# SPDX-License-Identifier: Apache-2.0
"""Which parents are compared with which children, and what becomes of what cannot be.

What cowd answers is made up here; tests/integration/test_scrapes.py asks a real one.
"""

import cowd
import pytest
from cowd import ComparedPages, MappingList, PageComparison, PageCopier, PageState, Shares
from cowd.exporters.groups import NOT_TOLD
from cowd.exporters.looks import Comparisons, Pair
from cowd.exporters.schedule import Allowance, Candidate

CACHE_SECONDS = 10.0
LONGEST_SECONDS = 3.0
PAGES = Candidate(1000, 0)


class MadeUpClient:
    """Tells of pairs, in two parts, which takes no time unless it is to take some.

    Attributes:
        now: the time.
        asked: what was asked about, one after the other: a pid for its mappings, or two.
        failures: by pid; of a pair by that of the child, negative.
        same: whether the two have anything in common.
        seconds: that a part of a comparison takes.
    """

    def __init__(self):
        self.now = 100.0
        self.asked = []
        self.failures = {}
        self.same = True
        self.seconds = 0.0

    def clock(self):
        return self.now

    def list_mappings(self, pid):
        self.asked.append(pid)
        if pid in self.failures:
            raise self.failures[pid]
        return MappingList(pid, 1, ())

    def count_compared_pages(self, pid, other_pid, ranges, *, with_copiers, **_):
        assert not with_copiers  # which costs as much again, and is not exported
        assert not [*ranges]
        self.asked.append((pid, other_pid))
        if -other_pid in self.failures:
            raise self.failures[-other_pid]
        comparison = PageComparison.SAME if self.same else PageComparison.NEITHER
        state = PageState.ANON if self.same else PageState.ABSENT
        for _ in range(2):
            self.now += self.seconds
            yield MadeUpTotals([ComparedPages(comparison, state, state, PageCopier.UNSPECIFIED, 7)])


class MadeUpTotals:
    def __init__(self, totals):
        self.totals = totals


@pytest.fixture
def client():
    return MadeUpClient()


@pytest.fixture
def pairs(children):
    """Return one process with each of two, as if these were its children."""
    parent, first, second = (each.identity for each in children)
    return [Pair(parent, first), Pair(parent, second)]


@pytest.fixture
def comparisons(client, pairs):
    made = Comparisons(Allowance(0, client.now), CACHE_SECONDS, client.clock, LONGEST_SECONDS)
    made.ledger.keep(pairs)
    return made


def compare(comparisons, client, pairs, seconds=6.0):
    """Compare once; return what was asked about."""
    client.asked = []
    comparisons.update(client, dict.fromkeys(pairs, PAGES), client.now + seconds)
    return client.asked


def list_pids(pairs):
    """Return the pids of the parent and of the two children."""
    return pairs[0].parent.pid, *(pair.child.pid for pair in pairs)


def test_a_parent_is_listed_once_and_what_is_found_is_good_for_a_while(client, pairs, comparisons):
    a, b, c = list_pids(pairs)
    assert compare(comparisons, client, pairs) == [a, b, (a, b), c, (a, c)]
    assert [comparisons.ledger[pair].value for pair in pairs] == 2 * [Shares(shared=14)]
    client.now += CACHE_SECONDS - 0.1
    assert compare(comparisons, client, pairs) == []
    client.now += 0.1
    assert compare(comparisons, client, pairs) == [a, b, (a, b), c, (a, c)]


def test_a_child_that_has_nothing_of_its_parents_is_left_alone_for_an_hour(
    client, pairs, comparisons
):
    a, b, _ = list_pids(pairs)
    client.same = False
    compare(comparisons, client, pairs[:1])
    client.now += 3599.0
    assert compare(comparisons, client, pairs[:1]) == []
    client.now += 1.0
    assert compare(comparisons, client, pairs[:1]) == [a, b, (a, b)]


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (
            cowd.InvalidRequest("of 32 bits", reason="OUTSIDE_ADDRESS_SPACE"),
            "OUTSIDE_ADDRESS_SPACE",
        ),
        (cowd.AccessDenied("cowd's", reason="OWN_PROCESS"), "OWN_PROCESS"),
        (cowd.TimedOut("no answer"), "TimedOut"),
    ],
)
def test_a_pair_that_fails_costs_itself_alone(client, pairs, comparisons, failure, reason):
    """Seen to fail with InvalidRequest left to end the scrape."""
    a, b, c = list_pids(pairs)
    client.failures = {-b: failure}
    asked = compare(comparisons, client, pairs)
    assert asked[:3] == [a, b, (a, b)]
    assert comparisons.ledger[pairs[0]].reason == reason
    client.now += 59.0
    client.failures = {}
    assert compare(comparisons, client, pairs) == [a, c, (a, c)]
    client.now += 1.0
    assert (a, b) in compare(comparisons, client, pairs)
    assert comparisons.ledger[pairs[0]].is_good


def test_a_parent_that_hangs_costs_its_time_once(client, pairs, comparisons):
    """Seen to fail with every child of it asked about."""
    a, _, _ = list_pids(pairs)
    client.failures = {a: cowd.TimedOut("it hangs", reason="OPEN_TIMED_OUT")}
    assert compare(comparisons, client, pairs) == [a]
    assert comparisons.ledger[pairs[0]].reason == "OPEN_TIMED_OUT"
    assert comparisons.ledger[pairs[1]].reason is None


def test_a_comparison_ends_in_time_and_is_begun_in_time(client, pairs, comparisons):
    """Seen to fail with the shares of all parts added up before the time is looked at."""
    a, b, c = list_pids(pairs)
    client.seconds = LONGEST_SECONDS
    began_at = client.now
    assert compare(comparisons, client, pairs) == [a, b, (a, b)]
    assert client.now == began_at + LONGEST_SECONDS
    assert comparisons.ledger[pairs[0]].reason == "TOO_LARGE"
    client.seconds = 1.0
    assert compare(comparisons, client, pairs, seconds=0.0) == []
    assert compare(comparisons, client, pairs) == [a, c, (a, c)]
    assert comparisons.ledger[pairs[1]].is_good


@pytest.mark.parametrize("error", [cowd.NoSuchProcess("gone"), cowd.Aborted("executes")])
def test_one_that_ends_meanwhile_is_not_missing_and_one_that_lives_is_asked_again(
    client, pairs, comparisons, error
):
    ended = Pair(pairs[0].parent, pairs[0].child._replace(inode=1))
    comparisons.ledger.keep([ended, pairs[1]])
    client.failures = dict.fromkeys(list_pids(pairs)[1:], error)
    compare(comparisons, client, [ended, pairs[1]])
    assert comparisons.ledger[ended].reason in NOT_TOLD
    assert comparisons.ledger[pairs[1]].reason is None
    client.failures = {}
    compare(comparisons, client, [pairs[1]])
    assert comparisons.ledger[pairs[1]].is_good


def test_an_answer_about_another_process_of_that_pid_is_dropped(client, pairs, comparisons):
    """Seen to fail without the question whether both are alive."""
    ended = Pair(pairs[0].parent._replace(inode=1), pairs[0].child)
    comparisons.ledger.keep([ended])
    compare(comparisons, client, [ended])
    assert comparisons.ledger[ended].value is None
    assert comparisons.ledger[ended].reason in NOT_TOLD


def test_what_takes_too_long_is_paid_for(client, pairs):
    """Seen to fail with a failure taken as a small cost."""
    allowance = Allowance(5_000, client.now)  # 300,000 saved up; a pair costs 200,000 at least
    comparisons = Comparisons(allowance, CACHE_SECONDS, client.clock, LONGEST_SECONDS)
    comparisons.ledger.keep(pairs)
    a, b, _ = list_pids(pairs)
    client.seconds = LONGEST_SECONDS
    large = dict.fromkeys(pairs, Candidate(100_000, 0))
    comparisons.update(client, large, client.now + 6.0)
    assert client.asked == [a, b, (a, b)]
    client.asked = []
    allowance.refill(client.now + 1.0)
    comparisons.update(client, large, client.now + 6.0)
    assert client.asked == []
