# SPDX-License-Identifier: Apache-2.0
"""That gRPC is asked for the older listener where it knows the name, and nowhere else."""

import os
from pathlib import Path

import pytest
from cowdaemon.worker.grpc_settings import choose_listener


@pytest.mark.parametrize(
    ("content", "before", "after"),
    [
        (b"..event_engine_listener..", None, "-event_engine_listener"),
        (b"..event_engine_dns..", None, None),
        (b"..event_engine_listener..", "tcp_rcv_lowat", "tcp_rcv_lowat"),
    ],
    ids=["known", "not known", "somebody asked for something"],
)
def test_older_listener_is_asked_for_where_it_is_known(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    content: bytes,
    before: str | None,
    after: str | None,
) -> None:
    library = tmp_path / "grpc/_cython/cygrpc.cpython-311-x86_64-linux-gnu.so"
    library.parent.mkdir(parents=True)
    library.write_bytes(content)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("GRPC_EXPERIMENTS", raising=False)
    if before:
        monkeypatch.setenv("GRPC_EXPERIMENTS", before)
    choose_listener()
    assert os.environ.get("GRPC_EXPERIMENTS") == after
    monkeypatch.delenv("GRPC_EXPERIMENTS", raising=False)
