# SPDX-License-Identifier: Apache-2.0
"""Summaries of processes that have every kind of page, against the answers about single pages.

What the kernel lets a summary skip must be just what a single page is told to be absent: guards and
other markers stand in the page table as pages do.
"""

import os
from dataclasses import replace

import pytest
from cowdaemon.worker import mapping_counts, page_scan
from cowdaemon.worker.features import probe_features
from cowdaemon.worker.page_scan import iter_populated
from cowdaemon.worker.reader import Reader
from cowdaemon.worker.summaries import iter_summaries
from cowdaemon.worker.targets import Target
from harness.programs import PAGE_BYTES, Caller, StartSubject, parse_pages
from harness.states import (
    VSYSCALL,
    add_up_pages,
    ask,
    iter_ranges,
    name_totals,
    read_smaps_rollup,
)


def test_summary_is_the_sum_of_single_pages(
    kind: tuple[str, ...], nobody: Caller, start_subject: StartSubject
) -> None:
    subject = start_subject(*kind)
    with subject.stopped():
        for pid in {page.pid for page in parse_pages(subject.description)}:
            (summary,) = nobody.summarize([pid])
            assert name_totals(summary) == add_up_pages(nobody, pid)


def test_what_is_skipped_is_absent(
    kind: tuple[str, ...], nobody: Caller, start_subject: StartSubject
) -> None:
    """Page by page over the whole process, without what a summary reads along between regions."""
    if not probe_features().has_pagemap_scan:
        pytest.skip("the kernel has no PAGEMAP_SCAN (it is in 6.7)")
    subject = start_subject(*kind)
    made = {page.address: page for page in parse_pages(subject.description)}
    with subject.stopped(), open(f"/proc/{subject.pid}/pagemap", "rb", buffering=0) as pagemap:
        for mapping in nobody.list_mappings(subject.pid):
            if mapping.path == VSYSCALL:
                continue
            for address, count in iter_ranges(mapping):
                first = address // PAGE_BYTES
                populated = {
                    page
                    for part in iter_populated(pagemap.fileno(), first, first + count)
                    for start, end in part.tolist()
                    for page in range(start, end)
                }
                for page, told in enumerate(ask(nobody, subject.pid, address, count), first):
                    place = (mapping, page - first)
                    assert page in populated or told.state == "ABSENT", place
                    if known := made.get(page * PAGE_BYTES):
                        is_something = told.state != "ABSENT" or known.marker
                        assert (page in populated) == is_something, place


def test_whatever_is_skipped_the_sums_are_the_same(
    kind: tuple[str, ...], start_subject: StartSubject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All is read, as before 6.7; or regions are told, a few at a time; or what is around is read.

    Or every anonymous mapping is scanned as large ones are. Seen to fail with what is around read
    twice, with none of it read, and with one of several scans left out.
    """
    features = probe_features()
    if not features.has_pagemap_scan:
        pytest.skip("the kernel has no PAGEMAP_SCAN (it is in 6.7)")
    without_scan = replace(features, has_pagemap_scan=False)
    apart = {"_LARGE_PAGES": 1, "_MANY_LARGE": 1_000}
    around = {"_MANY_REGIONS": 1, "_AROUND_PAGES": 64}
    monkeypatch.setattr(page_scan, "_REGIONS", 2)
    subject = start_subject(*kind)
    with subject.stopped():
        totals = []
        ways = (features, {}), (without_scan, {}), (features, apart), (features, around)
        for each, limits in ways:
            for name, value in limits.items():
                monkeypatch.setattr(mapping_counts, name, value)
            reader = Reader(os.open("/proc/kpageflags", os.O_RDONLY), each)
            pagemap, maps = (
                os.open(f"/proc/{subject.pid}/{name}", os.O_RDONLY) for name in ("pagemap", "maps")
            )
            target = Target(subject.pid, 1, pagemap, maps)
            totals += [told for _, told in iter_summaries(reader, [(0, target)], lambda: None)]
            reader.close()
        assert totals == [totals[0]] * len(ways)


def test_reservation_of_most_of_the_address_space(
    nobody: Caller, start_subject: StartSubject
) -> None:
    """To read every page of it takes a minute at the very least, and the call has 20 seconds."""
    if not nobody.get_server_info().kernel_features.pagemap_scan:
        pytest.skip("the kernel has no PAGEMAP_SCAN (it is in 6.7): it takes as long as it takes")
    subject = start_subject("reservation")
    with subject.stopped():
        (summary,) = nobody.summarize([subject.pid])
        rollup = read_smaps_rollup(subject.pid)
    totals = name_totals(summary)
    anonymous = sum(each["ANON"] for each in totals.values())
    assert anonymous * PAGE_BYTES == rollup["Anonymous"]
    written = len(subject.description["pages"])
    assert totals["ANONYMOUS"]["ANON"] >= written
    assert totals["ANONYMOUS"]["ABSENT"] >= subject.description["count"] - written
