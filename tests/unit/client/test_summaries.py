# SPDX-License-Identifier: Apache-2.0
"""Summaries: what they ask for, how they go on after a loss, and what a hostile server may say."""

import gc
import threading

import cowd
import grpc
import pytest
from cowd import _channel
from unit.client.fake_processes import make_failure, make_summary

SECONDS = 20.0


@pytest.fixture
def client(fake):
    with cowd.Client(fake.path) as connected:
        yield connected


def pids(summaries):
    return [each.pid for each in summaries]


def test_a_summary_has_numbers_by_kind(client):
    first = next(client.summarize_processes())
    assert (first.pid, first.start_time_ticks, first.page_size_bytes) == (3, 103, 4096)
    files, anonymous = first.totals
    assert files == cowd.KindTotals(
        cowd.MappingKind.PRIVATE_FILE, 3, cowd.PageCounts(10, 7, 2, 1, 0, 0, 0)
    )
    assert anonymous == cowd.KindTotals(
        cowd.MappingKind.ANONYMOUS, 1, cowd.PageCounts(0, 0, 5, 0, 4, 6, 8)
    )
    assert (first.page_counts.resident, first.copied_page_count, first.failure) == (14, 3, None)


def test_all_processes_are_one_call(fake, client):
    assert pids(client.summarize_processes()) == [3, 5, 8]
    assert (fake.pids_asked, fake.info_count) == ([[]], 0)


def test_pids_are_answered_in_their_order(fake, client):
    assert pids(client.summarize_processes([8, 3])) == [8, 3]
    assert pids(client.summarize_processes([5])) == [5]
    assert fake.pids_asked == [[8, 3], [5]]


def test_more_pids_than_one_call_takes_are_several(fake, client):
    wanted = [8, 3, 5, 8, 8]
    for _ in range(2):
        assert pids(client.summarize_processes(iter(wanted))) == wanted
    assert (fake.pids_asked, fake.info_count) == ([[8, 3], [5, 8], [8]] * 2, 1)


def test_no_pids_are_not_all_processes(fake, client):
    """Seen to fail where an empty list is sent: it stands for every process."""
    assert list(client.summarize_processes([])) == []
    assert cowd.summarize([], address=fake.path) == []
    assert not fake.pids_asked


@pytest.mark.parametrize("wanted", [["x"], [1.0], [None], [2**31]])
def test_pids_that_are_none_are_invalid(client, wanted):
    with pytest.raises(cowd.InvalidRequest):
        list(client.summarize_processes(wanted))


@pytest.mark.parametrize("backend", ["daemon", "local"])
def test_one_pid_is_no_list_of_them(fake, backend):
    with pytest.raises(cowd.InvalidRequest, match="7 is no list of pids"):
        cowd.summarize(7, backend=backend, address=fake.path)


def test_a_process_that_fails_says_so_in_its_place(fake, client):
    fake.maximum_pid_count = 10
    fake.summaries[6] = make_failure(6, 7, "ACCESS_DENIED", "not yours")
    fake.summaries[7] = make_failure(7, 99, "", "of a newer daemon")
    fine, gone, denied, strange = client.summarize_processes([3, 4, 6, 7])
    assert fine.failure is None
    assert type(gone.failure) is cowd.NoSuchProcess
    assert (gone.failure.reason, gone.failure.pid) == ("NO_SUCH_PROCESS", 4)
    assert (gone.start_time_ticks, gone.totals, gone.page_counts.total) == (0, (), 0)
    assert type(denied.failure) is cowd.AccessDenied
    assert (str(denied.failure), denied.failure.pid) == ("not yours", 6)
    assert type(strange.failure) is cowd.InternalError
    assert strange.failure.reason is None


# Going on


def test_pids_that_are_missing_are_asked_for_again(fake, client):
    fake.maximum_pid_count = 5
    fake.stream_codes = [grpc.StatusCode.UNAVAILABLE] * 2
    assert pids(client.summarize_processes([8, 3, 8, 5])) == [8, 3, 8, 5]
    assert fake.pids_asked == [[8, 3, 8, 5], [3, 8, 5], [8, 5]]


def test_a_sweep_that_gets_lost_begins_anew_and_repeats_nothing(fake, client):
    """Seen to fail where answers of the second call are all told."""
    fake.stream_codes = [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED]
    fake.answers_per_loss = 2
    sweep = client.summarize_processes()
    assert pids([next(sweep)]) == [3]
    fake.summaries[4] = make_summary(4)  # which is passed by already, or not
    assert pids(sweep) in ([5, 8], [4, 5, 8])
    assert fake.pids_asked == [[]] * 3


def test_a_sweep_that_gets_no_further_is_given_up(fake, client):
    """Seen to fail where answers that were told before count as progress."""
    fake.stream_codes = [grpc.StatusCode.UNAVAILABLE] * 20
    sweep = client.summarize_processes()
    assert pids([next(sweep)]) == [3]
    with pytest.raises(cowd.Unavailable):
        list(sweep)
    assert len(fake.stream_codes) == 20 - 1 - len(_channel._PAUSES_SECONDS)


def test_a_sweep_has_more_time_when_it_begins_anew(fake):
    """Each answer takes 0.3 s: no call of half a second has all of them."""
    fake.hold = threading.Event()
    fake.hold.wait = lambda _: threading.Event().wait(0.3)
    with cowd.Client(fake.path, timeout_seconds=0.5) as client:
        client.get_server_info()
        assert pids(client.summarize_processes()) == [3, 5, 8]
    assert len(fake.pids_asked) >= 2


def test_a_sweep_without_another_answer_is_timed_out(fake):
    fake.hold = threading.Event()
    with cowd.Client(fake.path, timeout_seconds=0.3) as client:
        sweep = client.summarize_processes()
        next(sweep)
        with pytest.raises(cowd.TimedOut):
            next(sweep)
    fake.hold.set()


@pytest.mark.parametrize("wanted", [None, [3, 5]])
def test_summaries_that_are_left_end_the_call_at_once(fake, client, wanted):
    fake.hold = threading.Event()
    gc.disable()
    try:
        for _ in client.summarize_processes(wanted):
            break
        assert fake.ended.wait(SECONDS)
    finally:
        gc.enable()
        fake.hold.set()
    assert fake.answer_count == 1


# Hostile answers


def fail_as_well(answer):
    answer.failure.code = 5


CHANGES = {
    "of another process": lambda answer: setattr(answer, "pid", 4),
    "size of a page": lambda answer: setattr(answer, "page_size_bytes", 8192),
    "a kind twice": lambda answer: setattr(answer.totals[1], "kind", 1),
    "kinds that descend": lambda answer: setattr(answer.totals[0], "kind", 4),
    "of no mapping": lambda answer: setattr(answer.totals[0], "mapping_count", 0),
    "both": fail_as_well,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_an_answer_about_something_else_is_an_internal_error(fake, client, change):
    fake.change_answer = change
    with pytest.raises(cowd.InternalError, match="not about the processes") as caught:
        list(client.summarize_processes([3]))
    assert caught.value.pid in (3, 4)


@pytest.mark.parametrize("pid", [5, 4, -1, 0])
def test_a_sweep_ascends(fake, client, pid):
    def change(answer):
        if answer.pid == 8:
            answer.pid = pid

    fake.change_answer = change
    sweep = client.summarize_processes()
    assert pids([next(sweep), next(sweep)]) == [3, 5]
    with pytest.raises(cowd.InternalError, match="not about the processes"):
        next(sweep)


def test_a_sweep_has_no_failures(fake, client):
    fake.summaries[3] = make_failure(3, 7, "ACCESS_DENIED", "not yours")
    with pytest.raises(cowd.InternalError, match="not about the processes"):
        next(client.summarize_processes())


def test_an_answer_that_ends_early_is_an_internal_error(fake, client, monkeypatch):
    send = fake._send
    monkeypatch.setattr(fake, "_send", lambda answers, context: send(list(answers)[:1], context))
    answers = client.summarize_processes([3, 5])
    next(answers)
    with pytest.raises(cowd.InternalError, match="ends before the processes asked for"):
        next(answers)


def test_an_answer_too_many_is_an_internal_error(fake, client, monkeypatch):
    send = fake._send
    monkeypatch.setattr(fake, "_send", lambda answers, context: send([*answers] * 2, context))
    with pytest.raises(cowd.InternalError, match="not about the processes"):
        list(client.summarize_processes([3]))


# By whom


def test_the_kernel_alone_answers_where_nobody_else_does(tmp_path, child):
    [summary] = cowd.summarize([child.pid], address=str(tmp_path / "nobody"))
    assert (summary.pid, summary.failure) == (child.pid, None)
    with pytest.raises(cowd.Unavailable):
        cowd.summarize(backend="daemon", address=str(tmp_path / "nobody"))


def test_an_iterator_of_pids_may_be_asked_for_twice(tmp_path, child):
    """Seen to fail where the daemon's turn has used it up."""
    wanted = iter([child.pid, child.pid])
    assert pids(cowd.summarize(wanted, address=str(tmp_path / "nobody"))) == [child.pid] * 2
