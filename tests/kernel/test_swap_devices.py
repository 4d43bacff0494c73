# SPDX-License-Identifier: Apache-2.0
"""Pages that are swapped out, wherever they went: to a file, or to compressed memory.

That they went there is proved by taking the device away: they come back.
"""

from pathlib import Path

import pytest
from harness import switches
from harness.programs import Caller, StartSubject, iter_stretches, parse_pages
from harness.states import ask


def verify_states(caller: Caller, description: dict[str, object], state: str) -> None:
    """Assert that all pages of a subject are in one state."""
    for stretch in iter_stretches(parse_pages(description)):
        told = ask(caller, stretch[0].pid, stretch[0].address, len(stretch))
        assert {page.state for page in told} == {state}


@pytest.fixture(params=["first_swap_file", "zram"])
def device(request: pytest.FixtureRequest) -> Path:
    """Return where everything that is paged out goes."""
    path: Path = request.getfixturevalue(request.param)
    return path


def test_pages_are_swapped_to_this_device(
    device: Path, public_directory: Path, nobody: Caller, start_subject: StartSubject
) -> None:
    subject = start_subject("swapped", public_directory)
    verify_states(nobody, subject.description, "ANON_SWAPPED")
    switches.swap_off(device)
    verify_states(nobody, subject.description, "ANON")
