# SPDX-License-Identifier: Apache-2.0
"""The bar: on a terminal, for work over a second, and never in the way."""

import io
from types import SimpleNamespace

import pytest
from cowd.cli import progress

CHUNKS = [SimpleNamespace(page_count=4)] * 3


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("terminal", "patience_seconds", "shown"),
    [(True, 0.0, True), (True, 60.0, False), (False, 0.0, False)],
)
def test_a_bar_is_for_those_who_wait_at_a_terminal(monkeypatch, terminal, patience_seconds, shown):
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setattr(progress, "_PATIENCE_SECONDS", patience_seconds)
    assert list(progress.track_pages(CHUNKS, "Reading", 12)) == CHUNKS
    assert ("Reading" in stream.getvalue()) is shown
    assert ("100%" in stream.getvalue()) is shown
