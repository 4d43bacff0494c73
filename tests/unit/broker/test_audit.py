# SPDX-License-Identifier: Apache-2.0
"""Records of refusals and grants: what is in them, how many there may be, what is told of the rest.

The clock is the test's, the journal a real socket.
"""

import json

import pytest
from cowdaemon.broker import audit as module
from cowdaemon.broker.audit import Audit, Target
from cowdaemon.broker.peers import Credential
from cowdaemon.limits import AUDIT_RECORDS, AUDIT_RECORDS_PER_UID, AUDIT_SECONDS
from cowdaemon.system.journal import Journal
from cowdaemon.system.privileges import Capability
from unit.journald import JoinJournal

UID, OTHER_UID = 1000, 1001
NOTICE = "5"
HOSTILE = "x\nPRIORITY=0\n\x1b[2J"
ESCAPED = r"x\nPRIORITY=0\n\x1b[2J"

pytestmark = pytest.mark.usefixtures("nothing_is_left")


class Clock:
    """The time that records are counted by."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def monotonic(self) -> float:
        """Stand in for time.monotonic."""
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def caller(uid: int = UID, label: bytes = b"") -> Credential:
    return Credential(uid, 100, (4, 5), Capability(0), label)


def refuse(audit: Audit, uid: int, times: int = 1) -> None:
    for _ in range(times):
        audit.record(caller(uid), "refused", "ACCESS_DENIED", Target(1, 0, "init"))


def test_record_says_who_asked_about_whom_and_what_came_of_it(join_journal: JoinJournal) -> None:
    journald, journal = join_journal()
    target = Target(4711, 0, "init")
    Audit(journal).record(caller(label=b"confined"), "granted", "SUMMARY", target)
    assert journald.receive() == {
        "MESSAGE": "granted SUMMARY: uid 1000 and process 4711 (init) of uid 0",
        "PRIORITY": NOTICE,
        "SYSLOG_IDENTIFIER": "cowd",
        "COWD_DECISION": "granted",
        "COWD_REASON": "SUMMARY",
        "COWD_CALLER_UID": "1000",
        "COWD_CALLER_GID": "100",
        "COWD_CALLER_LABEL": "confined",
        "COWD_TARGET_PID": "4711",
        "COWD_TARGET_UID": "0",
        "COWD_TARGET_COMM": "init",
    }


def test_record_of_a_caller_alone_has_no_target(join_journal: JoinJournal) -> None:
    journald, journal = join_journal()
    Audit(journal).record(caller(), "refused", "CALLER_GONE")
    record = journald.receive()
    assert record["MESSAGE"] == "refused CALLER_GONE: uid 1000"
    assert not [name for name in record if name.startswith("COWD_TARGET")]


def test_names_that_somebody_chose_are_escaped(join_journal: JoinJournal) -> None:
    """In the fields, too: a terminal shows those as well."""
    journald, journal = join_journal()
    label = HOSTILE.encode() + b"\xff"
    Audit(journal).record(caller(label=label), "refused", "ACCESS_DENIED", Target(1, 0, HOSTILE))
    record = journald.receive()
    assert record["COWD_TARGET_COMM"] == ESCAPED
    assert record["COWD_CALLER_LABEL"] == ESCAPED + r"\xff"
    assert f"({ESCAPED})" in record["MESSAGE"]
    assert record["PRIORITY"] == NOTICE


def test_record_is_a_line_of_json_without_a_journal(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    refuse(Audit(Journal()), UID)
    (line,) = capfd.readouterr().err.splitlines()
    record = json.loads(line)
    assert (record["COWD_CALLER_UID"], record["COWD_TARGET_PID"]) == (UID, 1)
    assert (record["COWD_DECISION"], record["COWD_REASON"]) == ("refused", "ACCESS_DENIED")


class Log:
    """What becomes of the records of an audit, which standard error has room for."""

    def __init__(self, err: pytest.CaptureFixture[str]) -> None:
        self.audit = Audit(Journal())
        self._err = err
        self.written: dict[int, int] = {}
        self.dropped: dict[int, int] = {}

    def refuse(self, uid: int, times: int = 1) -> None:
        """Have a uid refused, and count what is written."""
        refuse(self.audit, uid, times)
        self._read()

    def flush(self) -> None:
        """Have it look at the clock."""
        self.audit.flush()
        self._read()

    def _read(self) -> None:
        for record in map(json.loads, self._err.readouterr().err.splitlines()):
            uid = record["COWD_CALLER_UID"]
            if "COWD_DROPPED_COUNT" in record:
                assert record["PRIORITY"] == int(NOTICE)
                assert uid not in self.dropped
                self.dropped[uid] = record["COWD_DROPPED_COUNT"]
            else:
                self.written[uid] = self.written.get(uid, 0) + 1


@pytest.fixture
def log(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    clock: Clock,  # noqa: ARG001
) -> Log:
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    return Log(capfd)


def test_records_of_one_uid_are_bounded(log: Log) -> None:
    log.refuse(UID, AUDIT_RECORDS_PER_UID + 5)
    assert log.written == {UID: AUDIT_RECORDS_PER_UID}


def test_uid_that_is_dropped_keeps_nobody_elses_record_out(log: Log) -> None:
    """However often it is refused."""
    log.refuse(UID, AUDIT_RECORDS * 2)
    log.refuse(OTHER_UID, AUDIT_RECORDS_PER_UID)
    assert log.written == {UID: AUDIT_RECORDS_PER_UID, OTHER_UID: AUDIT_RECORDS_PER_UID}


def test_records_are_bounded_in_all(log: Log) -> None:
    for uid in range(AUDIT_RECORDS + 5):
        log.refuse(uid)
    assert log.written == dict.fromkeys(range(AUDIT_RECORDS), 1)


def test_what_was_dropped_is_told_when_its_time_is_over(log: Log, clock: Clock) -> None:
    """Once, and of each uid for itself; and then there is room again."""
    log.refuse(UID, AUDIT_RECORDS_PER_UID + 3)
    log.refuse(OTHER_UID, AUDIT_RECORDS_PER_UID + 7)
    clock.now += AUDIT_SECONDS - 0.01
    log.flush()
    assert log.dropped == {}
    clock.now += 0.01
    log.flush()
    assert log.dropped == {UID: 3, OTHER_UID: 7}
    log.written.clear()
    log.refuse(UID)
    assert log.written == {UID: 1}
    clock.now += AUDIT_SECONDS
    log.flush()  # would fail if something were told again


def test_next_record_tells_what_was_dropped_before_it(log: Log, clock: Clock) -> None:
    """Whether or not somebody flushes meanwhile."""
    log.refuse(UID, AUDIT_RECORDS_PER_UID + 3)
    clock.now += AUDIT_SECONDS
    log.refuse(OTHER_UID)
    assert log.dropped == {UID: 3}
    assert log.written == {UID: AUDIT_RECORDS_PER_UID, OTHER_UID: 1}


def test_nothing_is_told_where_nothing_was_dropped(log: Log, clock: Clock) -> None:
    log.refuse(UID, AUDIT_RECORDS_PER_UID)
    clock.now += AUDIT_SECONDS
    log.flush()
    assert log.dropped == {}


def test_what_the_journal_has_no_room_for_is_dropped_and_told(
    join_journal: JoinJournal, clock: Clock
) -> None:
    """Also what was to be told of that: it is told as soon as there is room."""
    journald, journal = join_journal()
    filler = 0
    while journal.write(6, "filler", {}):
        filler += 1
    audit = Audit(journal)
    refuse(audit, UID, 2)
    clock.now += AUDIT_SECONDS
    audit.flush()
    assert len(journald.receive_all()) == filler
    clock.now += AUDIT_SECONDS
    audit.flush()
    (told,) = journald.receive_all()
    assert (told["COWD_CALLER_UID"], told["COWD_DROPPED_COUNT"]) == (str(UID), "2")
    assert "2 records ACCESS_DENIED of uid 1000 were dropped" in told["MESSAGE"]


def test_what_is_told_of_dropped_records_is_bounded_too(log: Log, clock: Clock) -> None:
    """Those of whom most were dropped come first, the others when their time is over again."""
    for uid in range(AUDIT_RECORDS * 3):
        log.refuse(uid)
    log.refuse(AUDIT_RECORDS * 3, 2)
    clock.now += AUDIT_SECONDS
    log.flush()
    assert len(log.dropped) == AUDIT_RECORDS
    assert log.dropped[AUDIT_RECORDS * 3] == 2
    for _ in range(2):
        clock.now += AUDIT_SECONDS
        log.flush()
    assert set(log.dropped) == set(range(AUDIT_RECORDS, AUDIT_RECORDS * 3 + 1))
