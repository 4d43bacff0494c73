# SPDX-License-Identifier: Apache-2.0
"""Records as the journal understands them, whatever is in them; never a wait for who reads none."""

import json
import logging
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cowdaemon.system import journal as module
from cowdaemon.system.journal import Journal, JournalHandler, escape
from cowdaemon.system.processes import fork_child
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from unit.journald import JoinJournal, Journald

SECONDS = 10.0
FORGED = "x\nPRIORITY=0\nMESSAGE=\x1b[2J\n"
MOST_RECORDS = 100_000
"""More than wait in any socket (net.unix.max_dgram_qlen)."""
TEXTS = st.text(st.characters() | st.integers(0xD800, 0xDFFF).map(chr))
"""With what no encoding has, as of bytes that were no UTF-8."""

pytestmark = pytest.mark.usefixtures("nothing_is_left")


def test_record_is_what_was_written(join_journal: JoinJournal) -> None:
    journald, journal = join_journal()
    assert journal.is_structured
    assert journal.write(5, "refused", {"COWD_CALLER_UID": 1000, "COWD_TARGET_COMM": "sh"})
    assert journald.receive() == {
        "MESSAGE": "refused",
        "PRIORITY": "5",
        "SYSLOG_IDENTIFIER": "cowd",
        "COWD_CALLER_UID": "1000",
        "COWD_TARGET_COMM": "sh",
    }


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(message=TEXTS, value=TEXTS)
def test_no_value_passes_for_a_field(join_journal: JoinJournal, message: str, value: str) -> None:
    journald, journal = join_journal()
    assert journal.write(6, message, {"COWD_TARGET_COMM": value})
    record = journald.receive()
    assert list(record) == ["MESSAGE", "PRIORITY", "COWD_TARGET_COMM", "SYSLOG_IDENTIFIER"]
    assert record["PRIORITY"] == "6"
    for written, received in (message, "MESSAGE"), (value, "COWD_TARGET_COMM"):
        assert record[received] == written.encode(errors="backslashreplace").decode()


def test_field_cannot_be_forged(join_journal: JoinJournal) -> None:
    journald, journal = join_journal()
    assert journal.write(5, FORGED, {"COWD_TARGET_COMM": FORGED, "COWD_CALLER_LABEL": FORGED})
    record = journald.receive()
    assert record.pop("PRIORITY") == "5"
    assert record.pop("SYSLOG_IDENTIFIER") == "cowd"
    assert record == dict.fromkeys(["MESSAGE", "COWD_TARGET_COMM", "COWD_CALLER_LABEL"], FORGED)


@pytest.fixture
def no_wait() -> Iterator[None]:
    """Fail where the test waits for anything."""

    def fail(*_: object) -> None:
        raise AssertionError("it waits")

    before = signal.signal(signal.SIGALRM, fail)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("no_wait")
def test_journal_that_does_not_read_is_not_waited_for(join_journal: JoinJournal) -> None:
    """What does not fit is lost, and whoever writes is told; what was taken is whole."""
    journald, journal = join_journal()
    taken = 0
    while taken < MOST_RECORDS and journal.write(6, "one of many", {"COWD_NUMBER": taken}):
        taken += 1
    assert 0 < taken < MOST_RECORDS
    assert not journal.write(6, "one too many", {})
    numbers = [record["COWD_NUMBER"] for record in journald.receive_all()]
    assert numbers == [str(number) for number in range(taken)]
    assert journal.write(6, "room again", {})


def test_journal_that_is_gone_ends_nobody(join_journal: JoinJournal) -> None:
    journald, journal = join_journal()
    journald.close()
    assert not journal.write(6, "to nobody", {})


def test_child_that_keeps_its_descriptors_writes_to_the_same(join_journal: JoinJournal) -> None:
    journald, journal = join_journal()
    child = fork_child(
        "cowd-test", lambda: not journal.write(6, "of a child", {}), keep=journal.descriptors
    )
    assert child.reap() == 0
    assert journald.receive()["MESSAGE"] == "of a child"


@pytest.mark.parametrize("stream", [None, "", "1:1", "not a number"])
def test_without_a_journal_records_are_lines_of_json(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], stream: str | None
) -> None:
    """Also where another program's standard error leads to it: that variable is inherited."""
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    if stream is not None:
        monkeypatch.setenv("JOURNAL_STREAM", stream)
    journal = Journal()
    assert not journal.is_structured
    assert journal.descriptors == []
    assert journal.write(5, FORGED, {"COWD_CALLER_UID": 1000, "COWD_TARGET_COMM": FORGED})
    assert journal.write(6, "\udcff", {})
    out, err = capfd.readouterr()
    assert out == ""
    assert err.isascii()
    assert [json.loads(line) for line in err.splitlines()] == [
        {"MESSAGE": FORGED, "PRIORITY": 5, "COWD_CALLER_UID": 1000, "COWD_TARGET_COMM": FORGED},
        {"MESSAGE": "\udcff", "PRIORITY": 6},
    ]


@pytest.mark.parametrize("is_there", [True, False], ids=["closed", "absent"])
def test_journal_that_cannot_be_reached_leaves_standard_error(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    is_there: bool,
) -> None:
    """A daemon that starts meanwhile does start."""
    if is_there:
        Journald(tmp_path / "journal").close()
    monkeypatch.setattr(module, "JOURNAL_SOCKET", tmp_path / "journal")
    log_file = os.fstat(2)
    monkeypatch.setenv("JOURNAL_STREAM", f"{log_file.st_dev}:{log_file.st_ino}")
    journal = Journal()
    assert not journal.is_structured
    assert journal.write(6, "there", {})
    assert json.loads(capfd.readouterr().err) == {"MESSAGE": "there", "PRIORITY": 6}


def test_standard_error_that_takes_nothing_ends_nobody(
    run_in_child: Callable[[Callable[[], Any]], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)

    def write() -> bool:
        os.dup2(os.open("/dev/full", os.O_WRONLY), 2)
        return Journal().write(5, "nowhere", {})

    assert run_in_child(write) is False


@pytest.mark.parametrize(
    ("level", "priority"),
    [
        (logging.CRITICAL, "2"),
        (logging.ERROR, "3"),
        (logging.WARNING, "4"),
        (logging.INFO, "6"),
        (logging.DEBUG, "6"),
        (35, "6"),
    ],
)
def test_what_is_logged_is_a_record(join_journal: JoinJournal, level: int, priority: str) -> None:
    """The text is formatted here: what stands in it has been escaped by whoever logs it."""
    journald, journal = join_journal()
    handler = JournalHandler(journal)
    handler.setFormatter(logging.Formatter("cowd: %(message)s"))
    record = logging.LogRecord("name", level, "path", 1, "%d of %s", (3, "four"), None, "broker")
    handler.handle(record)
    assert journald.receive() == {
        "MESSAGE": "cowd: 3 of four",
        "PRIORITY": priority,
        "SYSLOG_IDENTIFIER": "cowd",
        "CODE_FUNC": "broker",
    }
    journald.close()
    handler.handle(record)  # nobody is left to be told


@given(TEXTS | st.binary())
def test_what_is_escaped_can_be_printed(text: str | bytes) -> None:
    assert escape(text).isprintable()


@given(st.text().filter(str.isprintable))
def test_what_can_be_printed_stays_as_it_is(text: str) -> None:
    assert escape(text) == escape(text.encode()) == text


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("\x1b[2J", r"\x1b[2J"),
        ("a\nb\tc\0", r"a\nb\tc\x00"),
        (b"\xff\xfe", r"\xff\xfe"),
        ("\u202eabc", r"\u202eabc"),
        ("\x9b", r"\x9b"),
        ("\U000e0001", r"\U000e0001"),
    ],
    ids=["ESC", "lines", "no UTF-8", "right to left", "CSI", "tag"],
)
def test_what_would_do_something_is_spelt_out(text: str | bytes, escaped: str) -> None:
    assert escape(text) == escaped
