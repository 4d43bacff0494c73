# SPDX-License-Identifier: Apache-2.0
"""The files that all rests on, as the kernel lets this process and lesser ones open them."""

import os

import pytest
from cowdaemon.system.privileges import (
    Capability,
    assume_file_system_ids,
    read_permitted_capabilities,
    restrict_capabilities,
)
from cowdaemon.worker.kernel_files import KernelError, open_kpageflags
from harness.programs import NOBODY
from unit.children import RunInChild

WORD_BYTES = 8

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: frames show to root alone"),
    pytest.mark.usefixtures("nothing_is_left"),
]


def test_descriptor_of_kpageflags_is_readable_by_whoever_holds_it(run_in_child: RunInChild) -> None:
    kpageflags = open_kpageflags()
    assert os.readlink(f"/proc/self/fd/{kpageflags}") == "/proc/kpageflags"
    os.close(kpageflags)  # the only one that is left

    def read() -> int:
        kpageflags = open_kpageflags()
        os.setresuid(NOBODY.uid, NOBODY.uid, NOBODY.uid)
        return len(os.pread(kpageflags, WORD_BYTES, 0))

    assert run_in_child(read) == WORD_BYTES


@pytest.mark.parametrize(
    ("uid", "kept", "why"),
    [
        (0, Capability.DAC_READ_SEARCH, "shows no frame numbers: cowd needs CAP_SYS_ADMIN"),
        (
            NOBODY.uid,
            Capability.SYS_ADMIN,
            "cannot be opened .Permission denied.: cowd must run",
        ),
    ],
    ids=["no frames", "no file"],
)
def test_process_that_may_not_is_told_what_it_lacks(
    run_in_child: RunInChild, uid: int, kept: Capability, why: str
) -> None:
    def open_with_less() -> int:
        assert kept in read_permitted_capabilities()
        assume_file_system_ids(uid, uid, ())
        restrict_capabilities(kept, kept)
        return open_kpageflags()

    with pytest.raises(KernelError, match=why):
        run_in_child(open_with_less)
