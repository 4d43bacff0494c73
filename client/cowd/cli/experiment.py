# SPDX-License-Identifier: Apache-2.0
"""The experiment of `cowctl demo`: four pages of a private mapping, of a file on disk or in memory.

Runs as the caller and leaves nothing behind: its files have no name. A machine without a place for
one of them fails with click's own error.
"""

import ctypes
import mmap
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

import click

from cowd.cli.text import decode_path

__all__ = ["ACTIONS", "Medium", "map_privately", "open_media"]

ACTIONS: Final = ("written", "untouched", "written", "read")
"""What is done to each page."""
_IN_MEMORY: Final = frozenset({"tmpfs", "ramfs", "rootfs", "devtmpfs", "hugetlbfs"})
_SHARED_MEMORY: Final = "/dev/shm"  # noqa: S108 (the file made there has no name)


class Medium(NamedTuple):
    """Where a file lies. `filesystem` is its type, such as "ext4"."""

    name: str
    filesystem: str
    place: str
    file: BinaryIO


@contextmanager
def map_privately(file: BinaryIO) -> Iterator[int]:
    """Fill `file`, map it with MAP_PRIVATE, write pages 0 and 2, read page 3.

    Yields:
        The address of page 0, in bytes, while it is mapped.
    """
    size_bytes = mmap.PAGESIZE
    file.write(b"original\n".ljust(size_bytes) * len(ACTIONS))
    file.flush()
    with mmap.mmap(
        file.fileno(),
        len(ACTIONS) * size_bytes,
        flags=mmap.MAP_PRIVATE,
        prot=mmap.PROT_READ | mmap.PROT_WRITE,
    ) as memory:
        for page, action in enumerate(ACTIONS):
            if action == "written":
                memory[page * size_bytes] = ord("w")
            elif action == "read":
                memory[page * size_bytes]
        yield ctypes.addressof(ctypes.c_char.from_buffer(memory))


@contextmanager
def open_media() -> Iterator[list[Medium]]:
    """Yield a nameless file on a disk and one in tmpfs (a memfd if no tmpfs can be written).

    Raises:
        click.ClickException: no directory on a disk can be written.
    """
    with ExitStack() as files:
        yield [_open_on_disk(files), _open_in_memory(files)]


def _open_on_disk(files: ExitStack) -> Medium:
    places = (os.environ.get("TMPDIR"), "/var/tmp", ".", os.path.expanduser("~"), "/")  # noqa: S108
    for place in filter(None, places):
        file = _open_nameless(files, place)
        if file is not None:
            filesystem = _read_filesystem(file.fileno())
            if filesystem not in _IN_MEMORY:
                return Medium("disk", filesystem, os.path.realpath(place), file)
    raise click.ClickException(
        "no directory on a disk can be written: set TMPDIR to one that is not on tmpfs"
    )


def _open_in_memory(files: ExitStack) -> Medium:
    file = _open_nameless(files, _SHARED_MEMORY)
    if file is not None and _read_filesystem(file.fileno()) == "tmpfs":
        return Medium("tmpfs", "tmpfs", _SHARED_MEMORY, file)
    # The kernel keeps a memfd in a tmpfs of its own.
    memfd = files.enter_context(os.fdopen(os.memfd_create("cowctl-demo"), "w+b"))
    return Medium("tmpfs", "tmpfs", "memfd", memfd)


def _open_nameless(files: ExitStack, directory: str) -> BinaryIO | None:
    """Return a file that no other process can name, or None if `directory` takes none."""
    try:
        return files.enter_context(tempfile.TemporaryFile(dir=directory))
    except OSError:
        return None


def _read_filesystem(descriptor: int) -> str:
    """Return the type of the file system that an open file is on (Linux: proc_pid_mountinfo(5)).

    By the mount's number, as st_dev does not lead to the mount on btrfs or overlayfs.
    """
    about = Path(f"/proc/self/fdinfo/{descriptor}").read_bytes()
    [number] = re.findall(rb"^mnt_id:\s*(\d+)", about, re.MULTILINE)
    mounts = Path("/proc/self/mountinfo").read_bytes()
    types = re.findall(rb"^%b .*? - (\S+)" % number, mounts, re.MULTILINE)
    return decode_path(types[0]) if types else "unknown"
