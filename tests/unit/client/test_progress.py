# SPDX-License-Identifier: Apache-2.0
"""The bar: on a terminal, for work over a second, and never in the way."""

import errno
import io
import threading
from types import SimpleNamespace

import pytest
from cowd.cli import progress

CHUNKS = [SimpleNamespace(page_count=4)] * 3
SECONDS = 20.0
"""For a bar to be painted: generous, other tests share the machine."""


class Terminal(io.StringIO):
    """Tells when the bar is there."""

    def __init__(self):
        super().__init__()
        self.painted = threading.Event()

    def isatty(self):
        return True

    def write(self, text):
        length = super().write(text)
        if "Reading" in text:
            self.painted.set()
        return length


@pytest.fixture
def connect(monkeypatch):
    """Return a function that makes a terminal of standard error; no thread may be left.

    Nobody waits before a bar is shown. pytest has another standard error for fixtures than for
    tests.
    """
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(progress, "_PATIENCE_SECONDS", 0.0)

    def connect():
        terminal = Terminal()
        monkeypatch.setattr("sys.stderr", terminal)
        return terminal

    before = threading.active_count()
    yield connect
    assert threading.active_count() == before


def test_a_bar_is_for_those_who_wait_at_a_terminal(connect):
    """Seen to fail without the last look at what is done."""
    terminal = connect()
    tracked = progress.track_pages(CHUNKS, "Reading", 12)
    assert next(tracked) is CHUNKS[0]
    assert terminal.painted.wait(SECONDS)
    assert list(tracked) == CHUNKS[1:]
    assert "100%" in terminal.getvalue()


def test_nothing_is_shown_of_quick_work(connect, monkeypatch):
    """Seen to fail without the wait."""
    terminal = connect()
    monkeypatch.setattr(progress, "_PATIENCE_SECONDS", SECONDS)
    assert list(progress.track_pages(CHUNKS, "Reading", 12)) == CHUNKS
    assert terminal.getvalue() == ""


@pytest.mark.usefixtures("connect")
def test_nothing_is_shown_to_a_pipe_and_no_thread_is_started(monkeypatch):
    """Seen to fail without the look at what standard error is."""
    pipe = io.StringIO()
    monkeypatch.setattr("sys.stderr", pipe)
    before = threading.active_count()
    tracked = progress.track_items("ab", "Reading", 2)
    assert next(tracked) == "a"
    assert threading.active_count() == before
    assert list(tracked) == ["b"]
    assert pipe.getvalue() == ""


def test_items_count_for_one_each(connect):
    """Seen to fail with items that count for two."""
    terminal = connect()
    tracked = progress.track_items("abcd", "Reading", 8)
    assert next(tracked) == "a"
    assert terminal.painted.wait(SECONDS)
    assert list(tracked) == ["b", "c", "d"]
    assert " 50%" in terminal.getvalue()
    assert "100%" not in terminal.getvalue()


def test_a_bar_is_there_before_anything_has_come(connect):
    """Seen to fail with a bar that is painted as items come."""
    terminal = connect()

    def wait_for_bar():
        assert terminal.painted.wait(SECONDS)
        yield "a"

    assert list(progress.track_items(wait_for_bar(), "Reading", 1)) == ["a"]


def test_without_a_total_no_share_is_shown(connect):
    """Seen to fail with a total of 100 for one that is not known."""
    terminal = connect()
    with progress.show_progress("Reading"):
        assert terminal.painted.wait(SECONDS)
    assert "%" not in terminal.getvalue()


def test_work_that_fails_leaves_no_bar(connect):
    """Seen to fail, as a thread was left, without `finally`."""
    terminal = connect()
    with pytest.raises(KeyboardInterrupt), progress.show_progress("Reading"):  # noqa: PT012
        assert terminal.painted.wait(SECONDS)
        raise KeyboardInterrupt


def test_tracked_items_may_be_left(connect):
    """Seen to fail, as a thread was left, without `finally`."""
    terminal = connect()
    tracked = progress.track_pages(CHUNKS, "Reading", 12)
    assert next(tracked) is CHUNKS[0]
    assert terminal.painted.wait(SECONDS)
    tracked.close()


def test_a_terminal_that_is_gone_is_no_error(connect, monkeypatch):
    """Seen to fail, with an exception in a thread, where it was not let go."""
    terminal = connect()
    tried = threading.Event()

    def fail(_text):
        tried.set()
        raise OSError(errno.EIO, "gone")

    monkeypatch.setattr(terminal, "write", fail)
    with progress.show_progress("Reading"):
        assert tried.wait(SECONDS)
