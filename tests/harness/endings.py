# SPDX-License-Identifier: Apache-2.0
"""Subjects that end, by exit or by exec, at every moment of a call about them.

Runs as root in the test process. A race that is never won raises AssertionError: nothing was shown.
"""

import random
import time
from collections.abc import Iterator

from harness.outcomes import ENDED, GONE
from harness.programs import Subject

ENDINGS = ("exit", "execute")
ROUNDS = 60
"""Of a race, at most."""
ROUNDS_WON = 3
"""After which it has been seen often enough that the end fell into a read."""


class EndRace:
    """Rounds in which a subject ends while a call about it runs.

    Args:
        ending: one of ENDINGS.
    """

    def __init__(self, ending: str) -> None:
        self.outcomes: list[tuple[str, str]] = []
        """How the calls failed that did: for the test to add to."""
        self._ending = ending
        self._moments = random.Random(0)
        self._longest_seconds = 0.0

    def rounds(self) -> Iterator[int]:
        """Number the rounds, until the end fell into the read often enough; verify that it did."""
        for number in range(ROUNDS):
            yield number
            if self.outcomes.count(GONE) >= ROUNDS_WON:
                break
        assert set(self.outcomes) <= ENDED
        assert self.outcomes.count(GONE) >= ROUNDS_WON

    def measured(self, seconds: float) -> None:
        """Take note of how long a call takes that nothing ends."""
        self._longest_seconds = max(self._longest_seconds, seconds)

    def end(self, subject: Subject) -> None:
        """End a subject at some moment of the call that has just begun."""
        # The moment of the end is what is varied: there is no event to wait for.
        time.sleep(self._moments.uniform(0.0, self._longest_seconds))
        subject.kill() if self._ending == "exit" else subject.write({"execute": True})
