# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the tests that make real pages: what the machine has to offer, and every kind."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from conftest import MakeDirectory, available
from harness import switches
from harness.local import LocalCaller
from harness.puppets import Puppet
from harness.reference import Reference

HUGETLB_PAGES = 8
"""More than any kind of kinds/hugetlb.py has at once."""
CASES = {
    "file": "public_directory",
    "tmpfs": "tmpfs_directory",
    "memfd": None,
    "shared-file": "public_directory",
    "shared-memfd": None,
    "shared-anonymous": None,
    "dropped": "public_directory",
    "same-byte": "public_directory",
    "populated": "public_directory",
    "locked": "public_directory",
    "injected": "public_directory",
    "forbidden": "public_directory",
    "truncated": "public_directory",
    "truncated on tmpfs": "tmpfs_directory",
    "punched": "public_directory",
    "punched on tmpfs": "tmpfs_directory",
    "fault-around": "public_directory",
    "fresh": "public_directory",
    "guard-file": "public_directory",
    "device-zero": None,
    "anonymous": None,
    "zero": None,
    "guard": None,
    "lazyfree": None,
    "merged": "merging_directory",
    "merged-alone": "merging",
    "thp": None,
    "thp-dropped": None,
    "thp-protected": None,
    "thp-unmapped": None,
    "thp-forked": None,
    "thp-forked-parent": None,
    "huge-zero": None,
    "large-folio": "public_directory",
    "large-folio on tmpfs": "huge_tmpfs_directory",
    "hugetlb": "hugetlb",
    "hugetlb-file": "hugetlb",
    "hugetlb-shared": "hugetlb",
    "hugetlb-fork": "hugetlb",
    "fork": None,
    "fork-parent": None,
    "fork-merged": "merging",
    "fork-file": "public_directory",
    "fork-alive": "public_directory",
    "fork-exited": "public_directory",
    "swapped": "swapped_directory",
    "swapped to zram": "zram_directory",
    "swapped-back": "swapped_directory",
    "swapped-shared": "swap_space",
    "uffd": None,
    "uffd-populated": None,
    "uffd-file": None,
    "uffd-poisoned": None,
    "uffd-swapped": "swapped_directory",
    "special": None,
    "vdso": None,
}
"""The kinds of subjects.py that are kinds of page, with the fixture that they need.

The name of a kind is the first word. If the fixture is a path, it is the kind's argument.
"""


@pytest.fixture(params=CASES)
def kind(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """Return the arguments that make subjects.py create one kind of page."""
    fixture = CASES[request.param]
    value = request.getfixturevalue(fixture) if fixture else None
    return (request.param.split()[0], *([str(value)] if isinstance(value, Path) else []))


@pytest.fixture(scope="session")
def reference() -> Iterator[Reference]:
    """Return the slow reader that every state is compared with."""
    with closing(Reference()) as reader:
        yield reader


@pytest.fixture
def local(reachable: None) -> Iterator[LocalCaller]:  # noqa: ARG001
    """Return a program that asks without the daemon."""
    with closing(LocalCaller()) as caller:
        yield caller


@pytest.fixture
def puppet(
    reachable: None,  # noqa: ARG001
) -> Iterator[Puppet]:
    """Return a process that does what it is told."""
    started = Puppet()
    yield started
    started.close()


@pytest.fixture
def zram() -> Iterator[Path]:
    """Return a device of compressed memory, where everything that is paged out goes."""
    with available(switches.swapping_first_to_memory()) as device:
        yield device


@pytest.fixture
def first_swap_file(make_directory: MakeDirectory) -> Iterator[Path]:
    """Return a file where everything that is paged out goes."""
    with available(switches.swapping_first_to_file(make_directory() / "swap")) as path:
        yield path


@pytest.fixture
def zram_directory(
    zram: Path,  # noqa: ARG001
    public_directory: Path,
) -> Path:
    """Return a public directory, on a machine that swaps to compressed memory."""
    return public_directory


@pytest.fixture
def merging() -> Iterator[None]:
    """Have the kernel merge equal pages during the test."""
    with available(switches.ksm_running()):
        yield


@pytest.fixture
def merging_directory(
    merging: None,  # noqa: ARG001
    public_directory: Path,
) -> Path:
    """Return a public directory, on a machine that merges pages."""
    return public_directory


@pytest.fixture(scope="session")
def hugetlb() -> Iterator[None]:
    """Have huge pages set aside until the tests end."""
    with available(switches.hugetlb_pages(HUGETLB_PAGES)):
        yield


@pytest.fixture
def huge_tmpfs_directory(make_directory: MakeDirectory) -> Iterator[Path]:
    """Return a public directory whose files are kept in huge pages."""
    with available(switches.huge_tmpfs(make_directory())) as directory:
        yield directory
