# SPDX-License-Identifier: Apache-2.0
"""Plays systemd-journald: has its socket, and understands its native protocol.

Written from the protocol's description (https://systemd.io/JOURNAL_NATIVE_PROTOCOL), not from what
cowd sends: both forms of a field are understood, and whatever is neither raises.
"""

import os
import re
import select
import socket
import struct
from collections.abc import Callable
from pathlib import Path

from cowdaemon.system.journal import Journal

SECONDS = 10.0
NAME = re.compile(r"[A-Z][A-Z0-9_]{0,63}")
"""Of a field that a client may set: a leading underscore is the journal's own."""
DATAGRAM_BYTES = 1 << 20


class Journald:
    """Its end of the socket."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(os.fspath(path))
        self._socket.settimeout(SECONDS)

    def receive(self) -> dict[str, str]:
        """Return the next record, once it is there."""
        return parse_record(self._socket.recv(DATAGRAM_BYTES))

    def receive_all(self) -> list[dict[str, str]]:
        """Return what is there already."""
        records = []
        while select.select([self._socket], [], [], 0)[0]:
            records.append(self.receive())
        return records

    def close(self) -> None:
        """End, as far as those who write can see."""
        self._socket.close()


def parse_record(datagram: bytes) -> dict[str, str]:
    """Return the fields of a record; raise ValueError where it is none."""
    record: dict[str, str] = {}
    left = datagram
    while left:
        line, end, left = left.partition(b"\n")
        if not end:
            raise ValueError(f"{line!r} does not end")
        name, equals, value = line.partition(b"=")
        if not equals:
            (length_bytes,) = struct.unpack("<Q", left[:8])
            value, left = left[8 : 8 + length_bytes], left[8 + length_bytes :]
            if len(value) != length_bytes or left[:1] != b"\n":
                raise ValueError(f"{name!r} is not as long as it says")
            left = left[1:]
        if not NAME.fullmatch(name.decode()) or name.decode() in record:
            raise ValueError(f"{name!r} is no name, or there twice")
        record[name.decode()] = value.decode()
    return record


JoinJournal = Callable[[], tuple[Journald, Journal]]
"""The fixture join_journal."""
