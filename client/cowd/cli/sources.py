# SPDX-License-Identifier: Apache-2.0
"""Who answers a command that asks again and again: chosen once, and kept."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import cowd
from cowd.cli.options import note_fallback

__all__ = ["open_source"]

_Answer = TypeVar("_Answer")


@contextmanager
def open_source(
    name: cowd.BackendName, question: Callable[[cowd.Backend], _Answer], socket: str | None
) -> Iterator[tuple[cowd.Backend, _Answer]]:
    """Yield who answers, for further questions, and the answer to the first one.

    "auto" is the daemon, or the kernel alone if the daemon cannot be reached or refuses that first
    question. The user is told so. Who answers it answers all.

    Raises:
        Error: from `question`, the daemon's being the cause of the other's.
    """
    if name == "local":
        local = cowd.Local()
        yield local, question(local)
        return
    with cowd.Client(socket) as client:
        refusal = None
        try:
            answer = question(client)
        except (cowd.Unavailable, cowd.AccessDenied) as error:
            if name == "daemon":
                raise
            refusal = error
        if refusal is None:
            yield client, answer
            return
    local = cowd.Local()
    try:
        answer = question(local)
    except cowd.Error as error:
        raise error from refusal
    note_fallback(refusal)
    yield local, answer
