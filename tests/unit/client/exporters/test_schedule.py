# SPDX-License-Identifier: Apache-2.0
"""What is looked at next, and how much: least recently looked at first, within an allowance."""

from cowd.exporters.schedule import Allowance, Candidate, Ledger

MINUTE_OF_PAGES = 600
COSTS = {"a": 100, "b": 300, "c": 300}
CANDIDATES = {key: Candidate(cost, uid=0) for key, cost in COSTS.items()}


def test_a_minute_may_be_saved_up_and_no_more():
    allowance = Allowance(10, now=0.0)
    assert allowance.choose(COSTS.items()) == ["a", "b", "c"]
    allowance.spend(MINUTE_OF_PAGES)
    assert allowance.choose(COSTS.items()) == []
    allowance.refill(now=10.0)
    assert allowance.choose(COSTS.items()) == ["a"]
    allowance.refill(now=1000.0)
    assert allowance.choose([("a", 300), ("b", 300), ("c", 1)]) == ["a", "b"]


def test_what_costs_more_than_can_be_saved_up_has_its_turn_and_the_next_waits_a_minute():
    """Seen to fail with all of a cost wanted beforehand: a large one keeps out others for good.

    And with all of it owed: one that maps the same pages a thousand times does for hours.
    """
    allowance = Allowance(10, now=0.0)
    assert allowance.choose([("large", 9_000), ("a", 1)]) == ["large"]
    allowance.spend(9_000)
    allowance.refill(now=60.0)
    assert allowance.choose([("a", 1)]) == []
    allowance.refill(now=60.1)
    assert allowance.choose([("a", 2), ("large", 9_000)]) == ["a"]


def test_no_bound_is_none():
    allowance = Allowance(0, now=0.0)
    allowance.spend(10**9)
    assert allowance.choose(COSTS.items()) == list(COSTS)


def make_ledger(*keys: str) -> Ledger[str, int]:
    ledger: Ledger[str, int] = Ledger(cache_seconds=10.0)
    ledger.keep(keys)
    return ledger


def test_least_recently_looked_at_comes_first():
    ledger = make_ledger("a", "b", "c")
    ledger.note("b", 1, cost_pages=7, now=100.0)
    ledger.note("a", 2, cost_pages=8, now=101.0)
    assert ledger.list_due(CANDIDATES, now=109.9) == [("c", 300)]
    assert ledger.list_due(CANDIDATES, now=111.0) == [("c", 300), ("b", 7), ("a", 8)]
    assert ledger.list_due({"a": CANDIDATES["a"]}, now=111.0) == [("a", 8)]
    assert (ledger["a"].value, ledger["a"].found_at, ledger["a"].is_good) == (2, 101.0, True)
    assert not ledger["c"].is_good


def test_users_take_turns():
    """Seen to fail with what was looked at least recently first, whosever it is."""
    ledger = make_ledger("a", "b", "x", "y", "z")
    ledger.note("a", 1, cost_pages=1, now=1.0)
    ledger.note("b", 1, cost_pages=1, now=2.0)
    ledger.note("y", 1, cost_pages=1, now=3.0)
    candidates = {key: Candidate(1, uid=7 if key in "xyz" else 0) for key in "bazyx"}
    due = [key for key, _ in ledger.list_due(candidates, now=60.0)]
    assert due == ["z", "a", "x", "b", "y"]


def test_what_is_gone_is_forgotten():
    ledger = make_ledger("a")
    ledger.note("a", 1, cost_pages=1, now=5.0)
    ledger.keep(["a", "b"])
    assert (ledger["a"].value, ledger["b"].value) == (1, None)
    ledger.keep(["b"])
    ledger.keep(["a", "b"])
    assert ledger["a"].value is None


def test_failures_are_left_alone_for_longer_each_time_and_what_was_found_stays():
    ledger = make_ledger("a")
    ledger.note("a", 1, cost_pages=1, now=0.0)
    now, pauses = 20.0, []
    for _ in range(8):
        ledger.note_failure("a", "ACCESS_DENIED", now)
        pauses.append(ledger["a"].not_before - now)
        assert ledger.list_due({"a": CANDIDATES["a"]}, ledger["a"].not_before - 0.1) == []
        now = ledger["a"].not_before
    assert pauses == [60, 120, 240, 480, 960, 1920, 3600, 3600]
    entry = ledger["a"]
    assert (entry.value, entry.reason, entry.is_good) == (1, "ACCESS_DENIED", False)
    ledger.note("a", 2, cost_pages=1, now=now)
    assert ledger["a"].is_good
    ledger.note_failure("a", "ACCESS_DENIED", now)
    assert ledger["a"].not_before - now == 60


def test_a_pause_does_not_make_a_failure():
    ledger = make_ledger("a")
    ledger.note("a", 1, cost_pages=1, now=0.0)
    ledger.pause("a", now=0.0, seconds=99.0)
    assert ledger.list_due({"a": CANDIDATES["a"]}, now=98.0) == []
    assert ledger.list_due({"a": CANDIDATES["a"]}, now=99.0) == [("a", 1)]
    assert ledger["a"].is_good
