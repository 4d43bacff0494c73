# SPDX-License-Identifier: Apache-2.0
"""States from pagemap alone, against what pagemap and kpageflags say together, of every kind."""

import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
from cowdaemon.worker import reader as module
from cowdaemon.worker.features import KernelFeatures, probe_features
from cowdaemon.worker.kpageflags import read_flags
from cowdaemon.worker.mappings import MappingKind, iter_mappings
from cowdaemon.worker.page_states import PageState, Words
from cowdaemon.worker.pagemap import Stretches, read_stretches
from cowdaemon.worker.reader import Reader, classify_readings
from harness.programs import PAGE_BYTES, StartSubject, parse_pages
from harness.states import VSYSCALL

PAGES_AT_ONCE = 65_536


def iter_parts(pid: int) -> Iterator[tuple[Stretches, Stretches]]:
    """Yield all that a process has mapped, in parts; and which of it is anonymous memory."""
    maps = os.open(f"/proc/{pid}/maps", os.O_RDONLY)
    mappings = [each for each in iter_mappings(maps) if each.path != VSYSCALL]
    os.close(maps)
    anonymous = [each for each in mappings if each.kind is MappingKind.ANONYMOUS]
    rows = np.array([each[:2] for each in anonymous], np.int64).reshape(-1, 2) // PAGE_BYTES
    for each in mappings:
        first, end = each.start_address // PAGE_BYTES, each.end_address // PAGE_BYTES
        for page in range(first, end, PAGES_AT_ONCE):
            yield np.array([[page, min(page + PAGES_AT_ONCE, end)]]), rows


def name(states: np.ndarray) -> list[str]:
    return [PageState(state).name for state in states.tolist()]


def without_frames_of_zeros() -> KernelFeatures:
    """What is found where the kernel does not tell which frames these are."""
    features = probe_features()
    return replace(features, layout=replace(features.layout, zero_frames=()))


@pytest.mark.parametrize("probe", [probe_features, without_frames_of_zeros])
def test_kind_is_the_same_by_its_entry(
    kind: tuple[str, ...],
    start_subject: StartSubject,
    probe: type[KernelFeatures],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The whole process that has it, and its relatives; and little is asked of kpageflags.

    Seen to fail with the huge page of zeros taken for a file's (huge-zero), with frames of zeros
    taken for anonymous pages (in all), and with markers taken for swapped pages (uffd-file).
    """
    asked: list[Words] = []

    def read_and_count(kpageflags: int, entries: Words) -> Words:
        asked.append(entries)
        return read_flags(kpageflags, entries)

    subject = start_subject(*kind)
    pids = {page.pid for page in parse_pages(subject.description)}
    with subject.stopped(), closing(Reader(os.open("/proc/kpageflags", 0), probe())) as reader:
        for pid in pids:
            pagemap = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY)
            read_count = 0
            for stretches, anonymous in iter_parts(pid):
                first, end = stretches[0].tolist()
                readings = reader.read(pagemap, first * PAGE_BYTES, end - first)
                due, _ = classify_readings(readings, reader.features.layout)
                with monkeypatch.context() as patch:
                    patch.setattr(module, "read_flags", read_and_count)
                    states = reader.read_states(pagemap, stretches, anonymous)
                assert name(states) == name(due), (pid, hex(first * PAGE_BYTES))
                entries = read_stretches(pagemap, stretches)
                states, _ = reader.classify_entries(entries, stretches, anonymous)
                assert name(states) == name(due), (pid, hex(first * PAGE_BYTES))
                read_count += int((entries >> np.uint64(63)).sum())
            os.close(pagemap)
            if probe is probe_features and len(pids) == 1:
                assert sum(map(len, asked)) < read_count / 4
