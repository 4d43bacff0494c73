# SPDX-License-Identifier: Apache-2.0
"""Two processes compared: what is asked for, how it goes on, and what a hostile server may say."""

import threading
from itertools import islice

import cowd
import grpc
import pytest
from cowd import PageComparison, PageCopier, PageState, _range_stream

PAGE = 4096
START = 0x7F0000000000
SECONDS = 20.0
CALLS = ["compare_pages", "count_compared_pages"]


@pytest.fixture
def client(fake):
    with cowd.Client(fake.path) as connected:
        yield connected


def places(parts):
    return [(part.address, part.page_count) for part in parts]


def test_pages_are_compared_one_by_one(fake, client):
    fake.compared = "=..cb?"
    [chunk] = client.compare_pages(7, 9, [(START, 8)])
    assert (chunk.pid, chunk.other_pid, chunk.page_size_bytes) == (7, 9, PAGE)
    assert (chunk.start_time_ticks, chunk.other_start_time_ticks) == (500, 900)
    assert (chunk.address, chunk.page_count, chunk.end_address) == (START, 8, START + 8 * PAGE)
    assert chunk.stretch_addresses.tolist() == [START, START + 3 * PAGE]
    assert chunk.stretch_page_counts.tolist() == [1, 3]
    assert [PageComparison(each).name for each in chunk.comparisons] == [
        *("SAME", "DIFFERENT", "DIFFERENT", "UNKNOWN")
    ]
    assert list(chunk.states) == [3, 2, 3, 3]
    assert list(chunk.other_states) == [3, 3, 3, 4]
    assert [PageCopier(each).name for each in chunk.copiers] == [
        *("UNSPECIFIED", "SECOND", "BOTH", "UNSPECIFIED")
    ]


def test_pages_are_counted(fake, client):
    fake.compared = "==p.."
    [part] = client.count_compared_pages(7, 9, [(START, 8)])
    assert (part.pid, part.other_pid, part.page_size_bytes) == (7, 9, PAGE)
    assert (part.start_time_ticks, part.other_start_time_ticks) == (500, 900)
    anon, file, absent = PageState.ANON, PageState.FILE, PageState.ABSENT
    nobody = PageCopier.UNSPECIFIED
    assert sorted(part.totals) == [
        (PageComparison.SAME, anon, anon, nobody, 2),
        (PageComparison.DIFFERENT, anon, file, PageCopier.FIRST, 1),
        (PageComparison.NEITHER, absent, absent, nobody, 5),
    ]


def test_who_copied_is_not_told_if_nobody_asks(fake, client):
    """Seen to fail where the call asks all the same."""
    fake.compared = "==p"
    [part] = client.count_compared_pages(7, 9, [(START, 3)], with_copiers=False)
    [copied] = [each for each in part.totals if each.comparison is PageComparison.DIFFERENT]
    assert copied.copied_by is PageCopier.UNSPECIFIED


@pytest.mark.parametrize("call", CALLS)
def test_more_ranges_than_one_call_takes_are_several(fake, client, call):
    ranges = [(START + 2 * page * PAGE, 1) for page in range(8)]
    assert places(getattr(client, call)(7, 9, iter(ranges))) == ranges
    assert places(getattr(client, call)(7, 9, [])) == []
    assert (fake.asked, fake.info_count) == (ranges, 1)


@pytest.mark.parametrize("call", CALLS)
def test_a_comparison_that_gets_lost_goes_on_from_there(fake, client, call):
    fake.stream_codes = [grpc.StatusCode.UNAVAILABLE] * 2
    parts = list(getattr(client, call)(7, 9, [(START, 20), (START, 1)]))
    assert places(parts) == [
        (START, 8),
        (START + 8 * PAGE, 8),
        (START + 16 * PAGE, 4),
        (START, 1),
    ]
    assert fake.asked[2:4] == [(START + 8 * PAGE, 12), (START, 1)]


@pytest.mark.parametrize("call", CALLS)
def test_what_is_asked_again_is_of_the_same_processes(fake, client, call):
    """Seen to fail where the second call says no start time."""
    fake.stream_codes = [grpc.StatusCode.UNAVAILABLE]
    parts = getattr(client, call)(7, 9, [(START, 9)])
    next(parts)
    fake.start_times = [600]
    with pytest.raises(cowd.FailedPrecondition) as caught:
        next(parts)
    assert caught.value.reason == "START_TIME_DIFFERS"


@pytest.mark.parametrize("call", CALLS)
def test_both_start_times_hold(client, call):
    compare = getattr(client, call)
    assert next(
        compare(
            *(7, 9, [(START, 1)]),
            expected_start_time_ticks=500,
            other_expected_start_time_ticks=900,
        )
    )
    with pytest.raises(cowd.InternalError):  # the fake daemon does not look
        next(compare(7, 9, [(START, 1)], other_expected_start_time_ticks=901))
    with pytest.raises(cowd.FailedPrecondition):
        next(compare(7, 9, [(START, 1)], expected_start_time_ticks=501))


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("arguments", [(7, 2**31, []), (7, "x", []), (7, 9, [(START, -1)])])
def test_numbers_that_do_not_fit_the_contract_are_invalid(client, call, arguments):
    pid, other_pid, ranges = arguments
    with pytest.raises(cowd.InvalidRequest):
        list(getattr(client, call)(pid, other_pid, ranges or [(START, 1)]))


@pytest.mark.parametrize("call", CALLS)
def test_a_comparison_that_is_left_ends_the_call_at_once(fake, client, call):
    fake.hold = threading.Event()
    parts = getattr(client, call)(7, 9, [(START, 1 << 30)])
    next(parts)
    parts.close()
    assert fake.ended.wait(SECONDS)
    fake.hold.set()
    assert fake.answer_count == 1


# Hostile answers


def change_field(name, value):
    return lambda answer: setattr(answer, name, value)


def change_list(name, values):
    def change(answer):
        del getattr(answer, name)[:]
        getattr(answer, name).extend(values)

    return change


def add_totals(answer):
    answer.totals.add(comparison=5, page_count=4)


PLACES = {
    "size of a page": change_field("page_size_bytes", 2 * PAGE),
    "before": change_field("address", START - PAGE),
    "after": change_field("address", START + PAGE),
    "too long": change_field("count", 5),
    "of nothing": change_field("count", 0),
}
LISTS = {
    **{
        f"{name}: {what}": change
        for name in ("comparison", "state", "other_state", "copied_by")
        for what, change in (
            ("one too many", lambda answer, name=name: getattr(answer, name).append(1)),
            ("one too few", lambda answer, name=name: getattr(answer, name).pop()),
        )
    },
    "an empty stretch": lambda answer: (
        change_list("stretch_page_count", [3, 0])(answer),
        change_list("stretch_address", [START, START + 3 * PAGE])(answer),
    ),
    "overlapping": change_list("stretch_address", [START, START]),
    "ending after": change_list("stretch_address", [START, START + 3 * PAGE]),
    "a count too few": change_list("stretch_page_count", [1]),
    "totals as well": add_totals,
}
TOTALS = {
    "more pages": lambda answer: setattr(answer.totals[0], "page_count", 9),
    "fewer pages": lambda answer: setattr(answer.totals[1], "page_count", 0),
    "of no page": lambda answer: answer.totals.add(comparison=1, page_count=0),
    "none": lambda answer: answer.ClearField("totals"),
}


@pytest.mark.parametrize("change", [*PLACES.values(), *LISTS.values()], ids=[*PLACES, *LISTS])
def test_lists_about_something_else_are_an_internal_error(fake, client, change):
    fake.compared = "c.bp"
    fake.change_answer = change
    with pytest.raises(cowd.InternalError, match="not about the pages"):
        list(client.compare_pages(7, 9, [(START, 4)]))


@pytest.mark.parametrize("change", [*PLACES.values(), *TOTALS.values()], ids=[*PLACES, *TOTALS])
def test_totals_of_something_else_are_an_internal_error(fake, client, change):
    fake.compared = "==.."
    fake.change_answer = change
    with pytest.raises(cowd.InternalError, match="not about the pages"):
        list(client.count_compared_pages(7, 9, [(START, 4)]))


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("name", ["start_time_ticks", "other_start_time_ticks"])
def test_answers_of_other_processes_are_an_internal_error(fake, client, call, name):
    answers = getattr(client, call)(7, 9, [(START, 20)])
    fake.hold = threading.Event()
    next(answers)
    fake.change_answer = change_field(name, 901)
    fake.hold.set()
    with pytest.raises(cowd.InternalError, match="not about the pages"):
        list(answers)


def test_an_answer_that_lists_more_than_anybody_does_is_an_internal_error(
    fake, client, monkeypatch
):
    fake.compared = "c.bp"
    assert list(client.compare_pages(7, 9, [(START, 4)]))
    monkeypatch.setattr(_range_stream, "_MOST_LISTED", 2)
    with pytest.raises(cowd.InternalError):
        list(client.compare_pages(7, 9, [(START, 4)]))


@pytest.mark.parametrize("call", CALLS)
def test_an_answer_that_ends_early_is_an_internal_error(fake, client, monkeypatch, call):
    send = fake._send
    monkeypatch.setattr(fake, "_send", lambda answers, context: send(islice(answers, 1), context))
    answers = getattr(client, call)(7, 9, [(START, 9)])
    next(answers)
    with pytest.raises(cowd.InternalError, match="ends before the pages asked for"):
        next(answers)


def test_what_a_newer_daemon_knows_is_unknown(fake, client):
    fake.change_answer = lambda answer: (
        setattr(answer.totals[0], "comparison", 77),
        setattr(answer.totals[0], "copied_by", 78),
    )
    [part] = client.count_compared_pages(7, 9, [(START, 1)])
    assert part.totals[0].comparison is PageComparison.UNKNOWN
    assert part.totals[0].copied_by is PageCopier.UNSPECIFIED
