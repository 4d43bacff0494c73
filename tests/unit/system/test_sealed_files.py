# SPDX-License-Identifier: Apache-2.0
"""Files that can be read by whoever has their descriptor, and changed by nobody."""

import fcntl
import mmap
import os
import resource

import pytest
from cowdaemon.system.sealed_files import make_file_of_fixed_size, make_sealed_file

CONTENT = b"sealed" * 1000

pytestmark = pytest.mark.usefixtures("nothing_is_left")


def test_content_is_there_and_stays() -> None:
    descriptor = make_sealed_file("test", CONTENT)
    try:
        assert os.pread(descriptor, 2 * len(CONTENT), 0) == CONTENT
        with pytest.raises(PermissionError):
            os.pwrite(descriptor, b"x", 0)
        with pytest.raises(PermissionError):
            os.ftruncate(descriptor, 0)
        with pytest.raises(PermissionError):
            os.ftruncate(descriptor, 2 * len(CONTENT))
        with pytest.raises(PermissionError):
            mmap.mmap(descriptor, len(CONTENT))
        with pytest.raises(PermissionError):
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, 0)
    finally:
        os.close(descriptor)


def test_size_stays_and_content_may_change() -> None:
    descriptor = make_file_of_fixed_size("test", len(CONTENT))
    try:
        assert os.pread(descriptor, 2 * len(CONTENT), 0) == bytes(len(CONTENT))
        os.pwrite(descriptor, CONTENT, 0)
        assert os.pread(descriptor, 2 * len(CONTENT), 0) == CONTENT
        for size_bytes in 0, len(CONTENT) - 1, len(CONTENT) + 1:
            with pytest.raises(PermissionError):
                os.ftruncate(descriptor, size_bytes)
        with pytest.raises(PermissionError):
            os.pwrite(descriptor, b"x", len(CONTENT))
        with pytest.raises(PermissionError):
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
    finally:
        os.close(descriptor)


@pytest.mark.parametrize(
    ("most_bytes", "why"), [(0, "File too large"), (len(CONTENT) // 2, "No space left")]
)
def test_what_cannot_all_be_written_leaves_nothing_open(most_bytes: int, why: str) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, hard))
    try:
        with pytest.raises(OSError, match=why):
            make_sealed_file("test", CONTENT)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert len(os.listdir("/proc/self/fd")) == before
