# SPDX-License-Identifier: Apache-2.0
"""Fixtures that more than one attack needs."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from harness.mounts import MountProc, ProcMount, read_proc_options


@pytest.fixture
def mount_proc() -> Iterator[MountProc]:
    """Return a function that mounts a /proc with these options, in a namespace of its own."""
    with ExitStack() as stack:

        def mount(options: str) -> ProcMount:
            try:
                mounted = stack.enter_context(ProcMount(options))
            except OSError as error:
                pytest.skip(f"no /proc of its own with {options}: {error}")
            assert set(options.split(",")) <= mounted.options
            assert not any(option.startswith("hidepid") for option in read_proc_options())
            return mounted

        yield mount
