# SPDX-License-Identifier: Apache-2.0
"""Asks the daemon, as whoever runs this, about pages that this process has copied."""

import mmap
import os
import tempfile

import cowd

with tempfile.TemporaryFile(dir="/var/tmp") as file:
    file.write(os.urandom(4 * mmap.PAGESIZE))
    file.flush()
    memory = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE)
memory[0] = memory[2 * mmap.PAGESIZE] = 7
memory[3 * mmap.PAGESIZE]

pages = cowd.pages(memory, backend="daemon")
print(pages)
assert pages.copied.tolist() == [True, False, True, False]
assert pages.kpageflags is not None

with cowd.Client() as client:
    mapping = client.list_mappings(os.getpid()).mappings[0]
    assert len(client.get_page_flags(os.getpid(), mapping.start_address, 1).states) == 1
    try:
        client.get_page_flags(1, mapping.start_address, 1)
    except cowd.AccessDenied as refusal:
        print(refusal)
    else:
        raise AssertionError("an ordinary user was told of PID 1")
