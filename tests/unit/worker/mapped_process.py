# SPDX-License-Identifier: Apache-2.0
"""Mappings as arrays, any that there may be; and a process of files with one of every kind."""

import os

import numpy as np
from cowdaemon.worker.mappings import MappingKind
from cowdaemon.worker.pagemap import Numbers
from cowdaemon.worker.targets import Target
from hypothesis import strategies as st
from unit.worker.served_process import START_TIME_TICKS, MakeFile

Rows = list[tuple[int, int, int]]
"""First page, page after the last, kind; as of number_extents."""
VSYSCALL = 0xFFFFFFFFFF600000
MAPS = b"""\
1000-3000 r--p 00000000 08:01 7   /file
3000-4000 rw-p 00000000 00:00 0
4000-5000 rw-s 00000000 00:01 8   /dev/shm/file
5000-8000 rw-p 00001000 08:01 7   /file
8000-9000 r--p 00000000 00:00 0   [vvar]
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0   [vsyscall]
"""


@st.composite
def rows(draw: st.DrawFn) -> Rows:
    """Mappings in ascending order, some adjoining, none overlapping."""
    borders = draw(st.lists(st.integers(0, 60), max_size=12).map(sorted))
    kinds = draw(st.lists(st.sampled_from(MappingKind), min_size=6, max_size=6))
    pairs = zip(borders[::2], borders[1::2], kinds, strict=False)
    return [(first, end, kind) for first, end, kind in pairs if first < end]


def as_array(mapped: Rows) -> Numbers:
    return np.array(mapped, np.int64).reshape(-1, 3)


def make_target(make_file: MakeFile, entries: list[int], pid: int) -> Target:
    words = np.array([*entries, 0, 0], "<u8").tobytes()
    return Target(pid, START_TIME_TICKS, os.dup(make_file(words)), os.dup(make_file(MAPS)))
