# SPDX-License-Identifier: Apache-2.0
"""The log: structured records in systemd's journal, or lines on standard error.

Root, in the broker and the openers. Nothing here waits: systemd-python's own handler would, for a
journal that does not read, and all callers of cowd behind it. So a record is one datagram of the
journal's documented form (https://systemd.io/JOURNAL_NATIVE_PROTOCOL), sent or dropped. Every value
goes with its length, so that none can pass for another field.
"""

import json
import logging
import os
import select
import socket
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Final

__all__ = ["Journal", "JournalHandler", "escape", "write_line"]

JOURNAL_SOCKET: Final = Path("/run/systemd/journal/socket")
_IDENTIFIER: Final = "cowd"
_LINE_BYTES: Final = select.PIPE_BUF - 1  # a pipe that is ready takes as much at once
# syslog(3), by the levels of logging.
_PRIORITIES: Final = {logging.CRITICAL: 2, logging.ERROR: 3, logging.WARNING: 4, logging.INFO: 6}


class Journal:
    """Where records go: the journal if standard error leads there, else standard error."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        log_file = os.fstat(2)
        # systemd.exec(5): other programs inherit the variable, too.
        if os.environ.get("JOURNAL_STREAM") == f"{log_file.st_dev}:{log_file.st_ino}":
            reaching = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            try:
                reaching.connect(os.fspath(JOURNAL_SOCKET))
                self._socket = reaching
            except OSError:
                reaching.close()  # not reached: lines on standard error get there later

    @property
    def descriptors(self) -> list[int]:
        """What a child must keep to write records, beside standard error."""
        return [self._socket.fileno()] if self._socket else []

    @property
    def is_structured(self) -> bool:
        """Whether records go to the journal."""
        return self._socket is not None

    def write(self, priority: int, message: str, fields: Mapping[str, str | int]) -> bool:
        """Write one record; return whether it was taken.

        Args:
            priority: as in syslog(3).
            message: for people; holds nothing unescaped that somebody else chose.
            fields: by the names that the journal knows them by, upper case.
        """
        record = {"MESSAGE": message, "PRIORITY": priority, **fields}
        if self._socket is None:
            return write_line(json.dumps(record))
        record["SYSLOG_IDENTIFIER"] = _IDENTIFIER
        try:
            self._socket.send(b"".join(_pack(*field) for field in record.items()))
        except OSError:
            return False
        return True


class JournalHandler(logging.Handler):
    """Writes what is logged to the journal, or as lines for people.

    Args:
        journal: where to.
    """

    def __init__(self, journal: Journal) -> None:
        super().__init__()
        self._journal = journal

    def emit(self, record: logging.LogRecord) -> None:
        """Write it; what does not get there is lost, as there is nobody left to tell."""
        if not self._journal.is_structured:
            write_line(f"{_IDENTIFIER}: {self.format(record)}")
            return
        priority = _PRIORITIES.get(record.levelno, 6)
        self._journal.write(priority, self.format(record), {"CODE_FUNC": record.funcName or ""})


def write_line(line: str) -> bool:
    """Write a line to standard error; return whether it was taken, without waiting for a reader."""
    ready = select.poll()
    ready.register(2, select.POLLOUT)
    if not ready.poll(0):
        return False
    try:
        os.write(2, line.encode(errors="backslashreplace")[:_LINE_BYTES] + b"\n")
    except OSError:
        return False
    return True


def escape(text: bytes | str) -> str:
    r"""Return it without a character that would do something to whoever prints it: \x1b for ESC."""
    if isinstance(text, bytes):
        text = text.decode(errors="backslashreplace")
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )


def _pack(name: str, value: str | int) -> bytes:
    content = str(value).encode(errors="backslashreplace")
    return b"%s\n%s%s\n" % (name.encode(), struct.pack("<Q", len(content)), content)
