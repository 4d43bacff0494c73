# SPDX-License-Identifier: Apache-2.0
"""What a thread takes ahead: the same items and errors, few of them, and none once nobody wants."""

import gc
import itertools
import queue
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from cowdaemon.limits import READING_THREADS
from cowdaemon.worker.read_ahead import map_ahead, read_ahead

SECONDS = 10.0
DEPTH = 2
MANY = 10_000
WAITING_SECONDS = 0.2
"""Who has not returned by then is taken to wait."""

pytestmark = pytest.mark.usefixtures("nothing_is_left")


class Source:
    """Counts, far beyond what is wanted; tells what was taken of it, and when it was closed."""

    def __init__(self) -> None:
        self.taken: queue.SimpleQueue[int] = queue.SimpleQueue()
        self.is_closed = threading.Event()

    def __iter__(self) -> Iterator[int]:
        try:
            for number in range(MANY):
                self.taken.put(number)
                yield number
        finally:
            self.is_closed.set()


@pytest.mark.parametrize("depth", [1, 2, 100])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 50])
def test_items_come_in_their_order(depth: int, count: int) -> None:
    assert list(read_ahead(iter(range(count)), depth)) == list(range(count))


def test_items_are_taken_before_they_are_wanted_up_to_the_depth() -> None:
    """And the next one, which waits for room. Seen to fail without a bound."""
    source = Source()
    items = read_ahead(iter(source), DEPTH)
    for wanted in range(3):
        assert next(items) == wanted
        due = range(wanted + DEPTH + 2) if wanted == 0 else [wanted + DEPTH + 1]
        assert [source.taken.get(timeout=SECONDS) for _ in due] == list(due)
        assert source.taken.empty()
    items.close()
    assert source.is_closed.wait(SECONDS)
    assert source.taken.empty()


def test_nothing_is_taken_before_the_first_is_wanted() -> None:
    source = Source()
    threads = threading.active_count()
    items = read_ahead(iter(source), DEPTH)
    assert threading.active_count() == threads
    items.close()
    assert source.taken.empty()


@pytest.mark.parametrize("count", [0, 1, 5])
def test_error_comes_in_its_place(count: int) -> None:
    """What was taken before it is not lost. Seen to fail with it raised as soon as it is known."""

    def fail_after() -> Iterator[int]:
        yield from range(count)
        raise LookupError("of the iterator")

    items = read_ahead(fail_after(), DEPTH)
    assert list(itertools.islice(items, count)) == list(range(count))
    with pytest.raises(LookupError, match="of the iterator"):
        next(items)
    assert list(items) == []


def test_items_are_made_in_a_thread_of_their_own() -> None:
    def tell_threads() -> Iterator[threading.Thread]:
        yield threading.current_thread()
        yield threading.current_thread()

    [thread] = set(read_ahead(tell_threads(), DEPTH))
    assert thread is not threading.current_thread()
    thread.join(SECONDS)
    assert not thread.is_alive()


@pytest.mark.parametrize("way", ["closed", "dropped", "failed"])
def test_whoever_goes_ends_the_work(way: str) -> None:
    """The thread ends, though it waits for room, and lets go of what it takes from.

    Seen to fail with the buffer never abandoned.
    """
    source = Source()
    items = read_ahead(iter(source), DEPTH)
    assert next(items) == 0
    for _ in range(DEPTH + 2):
        source.taken.get(timeout=SECONDS)  # the last of them has no room
    if way == "closed":
        items.close()
    elif way == "failed":
        with pytest.raises(LookupError):
            items.throw(LookupError())  # type: ignore[attr-defined]
    del items
    gc.collect()
    assert source.is_closed.wait(SECONDS)
    assert source.taken.empty()


def test_work_that_was_under_way_is_the_last() -> None:
    """And it is waited for: a thread that is held up would be nobody's otherwise.

    Seen to fail with the look whether anybody wants more left out, and with no wait.
    """
    may_go_on, is_closed = threading.Event(), threading.Event()
    made = []

    def work() -> Iterator[int]:
        try:
            for number in itertools.count():
                if number:
                    assert may_go_on.wait(SECONDS)
                made.append(number)
                yield number
        finally:
            is_closed.set()

    items = read_ahead(work(), DEPTH)
    assert next(items) == 0
    closing = threading.Thread(target=items.close)
    closing.start()
    closing.join(WAITING_SECONDS)
    assert closing.is_alive()
    may_go_on.set()
    closing.join(SECONDS)
    assert is_closed.is_set()
    assert made == [0, 1]


def test_work_that_has_begun_is_waited_for_and_no_other_is_begun() -> None:
    """A thread that was left behind in it would be counted by nobody.

    Seen to fail with no wait, and with what had not begun done all the same.
    """
    begun: queue.SimpleQueue[int] = queue.SimpleQueue()
    may_end = threading.Event()

    def work(number: int) -> int:
        begun.put(number)
        if number:
            assert may_end.wait(SECONDS)
        return number

    with ThreadPoolExecutor(1) as threads:
        results = map_ahead(threads, work, range(MANY))
        assert next(results) == 0
        assert [begun.get(timeout=SECONDS) for _ in range(2)] == [0, 1]
        closing = threading.Thread(target=results.close)
        closing.start()
        closing.join(WAITING_SECONDS)
        assert closing.is_alive()
        may_end.set()
        closing.join(SECONDS)
        assert not closing.is_alive()
    assert begun.empty()


def test_thread_that_collects_its_own_work_does_not_wait_for_itself() -> None:
    """Seen to stand still with the wait unconditional."""
    may_close, has_closed = threading.Event(), threading.Event()

    def work(number: int) -> None:
        if number:
            assert may_close.wait(SECONDS)
        if number == 1:
            results.close()
            has_closed.set()

    with ThreadPoolExecutor(READING_THREADS) as threads:
        results = map_ahead(threads, work, range(MANY))
        assert next(results) is None
        may_close.set()
        assert has_closed.wait(SECONDS)
