# SPDX-License-Identifier: Apache-2.0
"""Fixtures that more than one attack needs."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from harness.mounts import MountProc, ProcMount, read_proc_options
from security.silent_file_system import SilentFileSystem


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


@pytest.fixture
def silent_file_system(public_directory: Path) -> Iterator[SilentFileSystem]:
    """Return a file system whose file hangs whoever closes it."""
    mount_point = public_directory / "mount"
    mount_point.mkdir()
    try:
        file_system = SilentFileSystem(mount_point)
    except OSError as error:
        pytest.skip(f"no FUSE here: {error}")
    with file_system:
        yield file_system
    assert not any(mount_point.iterdir())
    assert str(mount_point) not in Path("/proc/self/mounts").read_text()
