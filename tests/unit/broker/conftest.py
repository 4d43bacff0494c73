# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the broker's tests: openers, pairs."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from cowdaemon import wire
from cowdaemon.broker import pairs
from cowdaemon.broker.pairs import Pair, Pairs
from cowdaemon.broker.peers import Credential
from cowdaemon.system.journal import Journal
from cowdaemon.system.privileges import Capability
from harness.programs import NOBODY, User
from unit.broker.opener_client import NONE, Opener, StartOpener
from unit.broker.pairing import Pairing


@pytest.fixture
def real_pairing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Pairing]:
    """Pairs with real openers."""
    with ExitStack() as stack:
        pairing = Pairing(tmp_path, stack)
        monkeypatch.setattr(pairs.time, "monotonic", lambda: pairing.now)
        yield pairing
        for pair in pairing.pairs:
            pairing.pairs.remove(pair)
            if pair.opener:
                pair.opener.reap()


@pytest.fixture
def pairing(real_pairing: Pairing, monkeypatch: pytest.MonkeyPatch) -> Pairing:
    """Pairs without openers: their workers' ends lead nowhere."""

    def start_no_opener(_: Pairs, __: Pair, ___: Credential) -> socket.socket:
        local, remote = wire.seqpacket_pair()
        local.close()
        return remote

    monkeypatch.setattr(Pairs, "_start_opener", start_no_opener)
    return real_pairing


@pytest.fixture
def start_opener() -> Iterator[StartOpener]:
    with ExitStack() as stack:

        def start(
            user: User = NOBODY,
            capabilities: Capability = NONE,
            granted: wire.Detail = wire.Detail.NONE,
            journal: Journal | None = None,
        ) -> Opener:
            credential = Credential(user.uid, user.gid, user.groups, capabilities)
            opener = Opener(credential, granted, journal or Journal())
            stack.callback(opener.close)
            return opener

        yield start
