# SPDX-License-Identifier: Apache-2.0
"""What an opener puts on record: who was refused, and who looked at whom by grant."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NoReturn

import pytest
from cowdaemon.broker import audit
from cowdaemon.broker import opener as module
from cowdaemon.errors import Reason
from cowdaemon.system.processes import fork_child
from cowdaemon.wire import Detail, Purpose
from harness.processes import wait_to_be_killed
from harness.programs import GAMES, NOBODY, StartSubject
from unit.broker.opener_client import StartOpener
from unit.journald import JoinJournal

INIT = 1
OPENS = (Purpose.PAGES, Purpose.SUMMARY, Purpose.SWEEP)
NAME, ESCAPED = b"a\nP=0\x1b[2J", r"a\nP=0\x1b[2J"

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it becomes an opener"),
    pytest.mark.usefixtures("nothing_is_left"),
]

StartNamed = Callable[[], int]


@pytest.fixture
def start_named() -> Iterator[StartNamed]:
    """Return a function that starts a process of user games with a hostile name."""
    with ExitStack() as stack:

        def start() -> int:
            reader, writer = os.pipe()

            def be_named() -> NoReturn:
                Path("/proc/self/comm").write_bytes(NAME)
                os.setresgid(GAMES.gid, GAMES.gid, GAMES.gid)
                os.setresuid(NOBODY.uid, GAMES.uid, NOBODY.uid)
                os.close(writer)
                wait_to_be_killed()

            child = fork_child("cowd-test", be_named, keep=[writer])
            stack.callback(child.reap)
            stack.callback(os.kill, child.pid, signal.SIGKILL)
            os.close(writer)
            assert os.read(reader, 1) == b""  # it is what it is to be by now
            os.close(reader)
            return child.pid

        yield start


def expect(decision: str, reason: str, pid: int) -> dict[str, str]:
    """Return the fields of a record about a process of start_named()."""
    return {
        "PRIORITY": "5",
        "SYSLOG_IDENTIFIER": "cowd",
        "MESSAGE": f"{decision} {reason}: uid 65534 and process {pid} ({ESCAPED}) of uid 5",
        "COWD_DECISION": decision,
        "COWD_REASON": reason,
        "COWD_CALLER_UID": "65534",
        "COWD_CALLER_GID": "65534",
        "COWD_CALLER_LABEL": "",
        "COWD_TARGET_PID": str(pid),
        "COWD_TARGET_UID": "5",
        "COWD_TARGET_COMM": ESCAPED,
    }


def test_every_use_of_a_grant_is_on_record(
    start_opener: StartOpener, start_named: StartNamed, join_journal: JoinJournal
) -> None:
    """Also when processes are looked at one after the other: that is what it is for."""
    journald, journal = join_journal()
    pid = start_named()
    opener = start_opener(granted=Detail.PAGES, journal=journal)
    for purpose in OPENS:
        assert opener.refusal(pid, purpose) is None
        assert journald.receive_all() == [expect("granted", purpose.name, pid)]


def test_refusals_are_on_record_unless_they_are_no_news(
    start_opener: StartOpener, start_named: StartNamed, join_journal: JoinJournal
) -> None:
    journald, journal = join_journal()
    pid = start_named()
    opener = start_opener(journal=journal)
    for purpose in Purpose.PAGES, Purpose.SUMMARY:
        assert opener.refusal(pid, purpose) is Reason.ACCESS_DENIED
        assert journald.receive_all() == [expect("refused", "ACCESS_DENIED", pid)]
    assert opener.refusal(pid, Purpose.SWEEP) is Reason.ACCESS_DENIED
    assert journald.receive_all() == []


def test_what_a_grant_does_not_open_is_on_record(
    start_opener: StartOpener, start_named: StartNamed, join_journal: JoinJournal
) -> None:
    journald, journal = join_journal()
    pid = start_named()
    opener = start_opener(granted=Detail.SUMMARY, journal=journal)
    assert opener.refusal(pid, Purpose.PAGES) is Reason.ACCESS_DENIED
    assert journald.receive_all() == [expect("refused", "ACCESS_DENIED", pid)]


def test_look_at_cowd_itself_is_on_record(
    start_opener: StartOpener, join_journal: JoinJournal
) -> None:
    journald, journal = join_journal()
    opener = start_opener(granted=Detail.PAGES, journal=journal)
    assert opener.refusal(opener.pids["opener"]) is Reason.OWN_PROCESS
    (record,) = journald.receive_all()
    assert (record["COWD_DECISION"], record["COWD_REASON"]) == ("refused", "OWN_PROCESS")
    assert record["COWD_TARGET_PID"] == str(opener.pids["opener"])
    assert record["COWD_TARGET_COMM"] == "cowd-opener"
    assert opener.refusal(opener.pids["opener"], Purpose.SWEEP) is Reason.OWN_PROCESS
    assert journald.receive_all() == []


def test_what_is_no_question_of_access_is_not_on_record(
    start_opener: StartOpener, start_subject: StartSubject, join_journal: JoinJournal
) -> None:
    journald, journal = join_journal()
    own, zombie = start_subject("anonymous"), start_subject("zombie").description["zombie"]
    opener = start_opener(granted=Detail.PAGES, journal=journal)
    for purpose in OPENS:
        assert opener.refusal(own.pid, purpose) is None
        assert opener.refusal(zombie, purpose) is Reason.NO_ADDRESS_SPACE
        assert opener.refusal(2**31 - 1, purpose) is Reason.NO_SUCH_PROCESS
    opener.ask(0, Purpose.LIST)
    assert journald.receive_all() == []


def test_record_without_a_journal_is_on_standard_error(
    start_opener: StartOpener,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    assert start_opener().refusal(INIT) is Reason.ACCESS_DENIED
    (line,) = capfd.readouterr().err.splitlines()
    assert f'"COWD_TARGET_PID": {INIT}' in line


def test_idle_opener_tells_what_it_has_dropped(
    start_opener: StartOpener, join_journal: JoinJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody has to ask it anything first; and it answers afterwards."""
    monkeypatch.setattr(module, "AUDIT_SECONDS", 0.2)
    monkeypatch.setattr(audit, "AUDIT_SECONDS", 0.2)
    monkeypatch.setattr(audit, "AUDIT_RECORDS_PER_UID", 1)
    journald, journal = join_journal()
    opener = start_opener(journal=journal)
    asked = 3
    for _ in range(asked):
        assert opener.refusal(INIT) is Reason.ACCESS_DENIED
    told = 0
    while told < asked:
        record = journald.receive()
        told += int(record.get("COWD_DROPPED_COUNT", 1))
    assert told == asked
    assert opener.refusal(INIT) is Reason.ACCESS_DENIED
