# SPDX-License-Identifier: Apache-2.0
"""Interim."""

from collections.abc import Collection
from dataclasses import dataclass, field
from cowdaemon import limits as _l
from cowdaemon.wire import Detail


@dataclass(frozen=True, slots=True)
class Limits:
    connections: int = _l.CONNECTIONS
    connections_per_uid: int = _l.CONNECTIONS_PER_UID
    workers: int = _l.WORKERS
    workers_per_uid: int = _l.WORKERS_PER_UID
    worker_idle_seconds: float = _l.WORKER_IDLE_SECONDS
    worker_memory_bytes: int = _l.WORKER_DATA_BYTES
    calls_per_worker: int = _l.CALLS_PER_WORKER


@dataclass(frozen=True, slots=True)
class Settings:
    limits: Limits = field(default_factory=Limits)

    def may_connect(self, uid: int, gids: Collection[int]) -> bool:
        return True

    def granted(self, gids: Collection[int]) -> Detail:
        return Detail.NONE

    def sees_all_flags(self, uid: int, gids: Collection[int]) -> bool:
        return False
