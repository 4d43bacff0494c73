# SPDX-License-Identifier: Apache-2.0
"""The daemon's steps between two system calls, each alone, by pytest-benchmark. Not a test.

`make bench` runs it, and `micro.py` takes its figures over; `make test` does not collect it. Every
`extra_info` names the case and how many pages one call is about. The words of pages are made up:
half of them copied ones, the others of a file, as a private mapping has them.
"""

import os
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from cowdaemon.worker.disclosure import SAFE
from cowdaemon.worker.encoding import encode_pages
from cowdaemon.worker.kpageflags import read_flags
from cowdaemon.worker.page_states import EntryLayout, Kpageflags, Words, classify, encode
from cowproto.v1 import twins_pb2 as twins

MANY, FEW = 65_536, 4
FRAMES = 2 * MANY
"""Of the file that stands for kpageflags: every other one is wanted."""
ROUNDS = 31
CALLS = {MANY: 5, FEW: 500}
"""In a round."""
PRESENT, FILE, EXCLUSIVE = 1 << 63, 1 << 61, 1 << 56
SEED = 20261123
LAYOUT = EntryLayout(marker_type=31, has_soft_dirty=True)

Measure = Callable[..., None]


@pytest.fixture
def measure(benchmark) -> Measure:
    """Returns what measures a call, of a step of that name, about so many pages."""

    def run(step: str, pages: int, call: Callable[[], object]) -> None:
        benchmark.extra_info.update(step=step, pages=pages)
        benchmark.pedantic(call, rounds=ROUNDS, iterations=CALLS[pages], warmup_rounds=1)

    return run


@pytest.fixture(params=[MANY, FEW])
def pages(request) -> int:
    return request.param


@pytest.fixture
def entries(pages: int) -> Words:
    frames = np.random.default_rng(SEED).permutation(FRAMES)[:pages].astype(np.uint64)
    is_copied = np.arange(pages) % 2 == 0
    marks = np.where(is_copied, np.uint64(PRESENT | EXCLUSIVE), np.uint64(PRESENT | FILE))
    return frames | marks


@pytest.fixture
def flags(entries: Words) -> Words:
    copied = Kpageflags.UPTODATE | Kpageflags.MMAP | Kpageflags.ANON | Kpageflags.SWAPBACKED
    others = Kpageflags.UPTODATE | Kpageflags.MMAP | Kpageflags.LRU
    return np.where(entries & np.uint64(FILE), np.uint64(others), np.uint64(copied))


@pytest.fixture
def kpageflags() -> Iterator[int]:
    file = os.memfd_create("kpageflags")
    os.write(file, np.random.default_rng(SEED).bytes(8 * FRAMES))
    yield file
    os.close(file)


def test_gather(measure: Measure, kpageflags: int, entries: Words) -> None:
    """Reading included, from a file in memory: what the kernel would take of /proc is not in it."""
    measure("gather", len(entries), lambda: read_flags(kpageflags, entries))


def test_classify(measure: Measure, entries: Words, flags: Words) -> None:
    """With the codes of the pages, which disclosure then has as well."""
    measure("classify", len(entries), lambda: classify(entries, flags, LAYOUT))


def test_disclose(measure: Measure, entries: Words, flags: Words) -> None:
    codes = encode(entries, flags)
    measure("disclose", len(entries), lambda: SAFE.apply(entries, flags, codes))


def test_encode(measure: Measure, flags: Words) -> None:
    states = np.ones(len(flags), np.uint8)
    measure("encode", len(flags), lambda: make_response(flags, states))


def test_decode(measure: Measure, flags: Words) -> None:
    """Into a message of which numpy takes the arrays as they are."""
    answer = make_response(flags, np.ones(len(flags), np.uint8))
    decode = twins.StreamPageFlagsResponse.FromString
    measure("decode", len(flags), lambda: np.frombuffer(decode(answer).kpageflags, np.uint64))


def make_response(flags: Words, states: np.ndarray) -> bytes:
    """Return a response of one stretch."""
    response = twins.StreamPageFlagsResponse(
        count=len(flags), stretch_page_count=np.array([len(flags)], "<u4").tobytes()
    )
    return encode_pages(response, flags, states, states)
