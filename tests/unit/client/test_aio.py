# SPDX-License-Identifier: Apache-2.0
"""The client for asyncio: as the other one, beside a loop that goes on."""

import asyncio
import gc
import inspect
import threading
import time

import cowd
import grpc
import pytest
from cowd import aio
from cowd._cancellations import Cancellation

PAGE = 4096
START = 0x7F0000000000
SECONDS = 20.0


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 2 * SECONDS))


async def collect(iterator):
    return [each async for each in iterator]


async def wait_for(event):
    assert await asyncio.to_thread(event.wait, SECONDS / 2)  # less than the fake daemon holds


def test_methods_are_those_of_the_client():
    """With the same arguments; what is no iterator is a coroutine."""

    def describe(kind):
        members = inspect.getmembers(kind, inspect.isfunction)
        return {name: inspect.signature(each) for name, each in members if name[0] != "_"}

    plain, own = describe(cowd.Client), describe(aio.Client)
    assert plain.keys() == own.keys()
    for name, signature in plain.items():
        assert own[name].parameters == signature.parameters
        is_iterator = "Iterator" in str(signature.return_annotation)
        assert ("AsyncIterator" in str(own[name].return_annotation)) == is_iterator
        assert inspect.iscoroutinefunction(getattr(aio.Client, name)) != is_iterator
    assert inspect.signature(cowd.Client).parameters == inspect.signature(aio.Client).parameters


def test_answers_are_those_of_the_client(fake):
    ranges = [(START, 20), (START, 1)]

    async def ask():
        async with cowd.aio.Client(fake.path) as client:
            assert client.path == fake.path
            return [
                await client.get_page_flags(7, START, 4),
                await client.list_mappings(7, with_page_counts=True),
                await client.get_server_info(),
                await client.is_serving(),
                await collect(client.iter_page_flags(7, ranges)),
                await collect(client.stream_page_flags(7, ranges)),
                await collect(client.compare_pages(7, 9, ranges)),
                await collect(client.count_compared_pages(7, 9, ranges, with_copiers=False)),
                await collect(client.summarize_processes()),
                await collect(client.summarize_processes([8, 3])),
            ]

    with cowd.Client(fake.path) as client:
        assert run(ask()) == [
            client.get_page_flags(7, START, 4),
            client.list_mappings(7, with_page_counts=True),
            client.get_server_info(),
            client.is_serving(),
            list(client.iter_page_flags(7, ranges)),
            list(client.stream_page_flags(7, ranges)),
            list(client.compare_pages(7, 9, ranges)),
            list(client.count_compared_pages(7, 9, ranges, with_copiers=False)),
            list(client.summarize_processes()),
            list(client.summarize_processes([8, 3])),
        ]


def test_a_call_does_not_hold_up_the_loop(fake):
    """Seen to fail where the call is made in the loop's thread."""
    fake.hold = threading.Event()

    async def ask():
        async with aio.Client(fake.path) as client:
            sweep = client.summarize_processes()
            await anext(sweep)
            waiting = asyncio.create_task(anext(sweep))
            await asyncio.sleep(0)  # the task begins
            assert not waiting.done()
            fake.hold.set()  # by the loop, which is free to
            assert (await waiting).pid == 5

    run(ask())


def test_calls_wait_side_by_side(fake):
    fake.delay_seconds = 0.4

    async def ask():
        async with aio.Client(fake.path) as client:
            await asyncio.gather(*(client.get_server_info() for _ in range(2)))

    before = time.monotonic()
    run(ask())
    assert time.monotonic() - before < 0.75


async def leave_by_closing(iterator):
    await anext(iterator)
    await iterator.aclose()


async def leave_by_break(iterator):
    async for _ in iterator:
        break


async def leave_by_forgetting(iterator):
    await anext(iterator)


async def leave_by_error(iterator):
    try:
        async for _ in iterator:
            raise ZeroDivisionError
    except ZeroDivisionError:
        pass


async def leave_while_waiting(iterator):
    await anext(iterator)
    waiting = asyncio.create_task(anext(iterator))
    await asyncio.sleep(0.05)  # it may wait by now; if not, it is cancelled before
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def leave_by_timeout(iterator):
    await anext(iterator)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(anext(iterator), 0.05)


LEAVE = [
    leave_by_closing,
    leave_by_break,
    leave_by_forgetting,
    leave_by_error,
    leave_while_waiting,
    leave_by_timeout,
]
STREAMS = {
    "pages": lambda client: client.stream_page_flags(7, [(START, 1 << 20)]),
    "summaries": lambda client: client.summarize_processes(),
    "comparisons": lambda client: client.count_compared_pages(7, 9, [(START, 1 << 20)]),
}


@pytest.mark.parametrize("leave", LEAVE)
@pytest.mark.parametrize("begin", STREAMS.values(), ids=STREAMS)
def test_a_stream_that_is_left_ends_the_call(fake, leave, begin):
    """Seen to fail, while it waits, where only the iterator is closed."""
    fake.hold = threading.Event()

    async def ask():
        async with aio.Client(fake.path) as client:
            iterator = begin(client)
            await leave(iterator)
            del iterator
            await wait_for(fake.ended)  # while it is held
            fake.hold.set()
            assert await client.is_serving()

    gc.disable()
    try:
        run(ask())
    finally:
        gc.enable()
        fake.hold.set()


def test_a_call_that_is_cancelled_frees_its_thread(fake):
    """More than there are threads, and then one more. Seen to fail where they wait for answers."""
    fake.delay_seconds = 3

    async def ask():
        async with aio.Client(fake.path) as client:
            for _ in range(2 * aio._THREADS):
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(client.get_server_info(), 0.02)
            fake.delay_seconds = 0
            before = time.monotonic()
            while client._threads._work_queue.qsize():
                await asyncio.sleep(0.01)
            assert time.monotonic() - before < 2

    run(ask())


class Call:
    """Counts how often it was ended."""

    def __init__(self):
        self.count = 0

    def cancel(self):
        self.count += 1


def test_a_call_that_begins_after_the_cancellation_ends_as_well():
    """As where a stream is asked for again. Seen to fail without the look in `attach`."""
    first, second, late = Call(), Call(), Call()
    cancellation = Cancellation()
    cancellation.attach(first)
    cancellation.attach(second)
    assert not cancellation.is_cancelled
    cancellation.cancel()
    cancellation.attach(late)
    assert cancellation.is_cancelled
    assert (first.count, second.count, late.count) == (0, 1, 1)


def test_errors_are_those_of_the_client(fake, tmp_path):
    async def ask():
        async with aio.Client(fake.path) as client:
            with pytest.raises(cowd.FailedPrecondition) as caught:
                await client.list_mappings(7, expected_start_time_ticks=4)
            assert (caught.value.reason, caught.value.pid) == ("START_TIME_DIFFERS", 7)
            with pytest.raises(cowd.InvalidRequest):
                await collect(client.stream_page_flags(7, [None]))
            fake.lost_codes = [grpc.StatusCode.UNAVAILABLE] * 2  # of calls that are made again
            assert await client.is_serving()
        async with aio.Client(str(tmp_path / "nobody")) as client:
            with pytest.raises(cowd.Unavailable, match="cannot connect"):
                await client.is_serving()

    run(ask())


def test_a_closed_client_says_so(fake):
    fake.hold = threading.Event()

    async def ask():
        client = aio.Client(fake.path)
        sweep = client.summarize_processes()
        await anext(sweep)
        waiting = asyncio.create_task(anext(sweep))
        await asyncio.sleep(0.05)
        await client.close()
        await client.close()
        with pytest.raises(cowd.Unavailable, match="this client"):
            await waiting
        with pytest.raises(cowd.Unavailable, match="client is closed"):
            await client.is_serving()
        with pytest.raises(cowd.Unavailable, match="client is closed"):
            await anext(client.summarize_processes())

    run(ask())
    fake.hold.set()


def test_a_client_that_is_none_is_said_at_once():
    with pytest.raises(cowd.InvalidRequest):
        aio.Client(timeout_seconds=0)
