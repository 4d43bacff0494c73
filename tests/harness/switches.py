# SPDX-License-Identifier: Apache-2.0
"""What is switched on for the whole machine while a test needs it, and put back afterwards.

Runs as root in the test process. Other runs of the tests may do the same at the same time, so each
switch is guarded by a lock on the kernel's own file, counts are added to and not set, and devices
are one's own. UnavailableError says what this machine cannot do.
"""

import ctypes
import errno
import fcntl
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

KSM_RUN = Path("/sys/kernel/mm/ksm/run")
HUGETLB_COUNT = Path("/proc/sys/vm/nr_hugepages")
SWAPS = Path("/proc/swaps")
ZRAM_ADD = Path("/sys/class/zram-control/hot_add")
ZRAM_REMOVE = Path("/sys/class/zram-control/hot_remove")
SWAP_BYTES = 32 << 20
SWAP_FLAG_PREFER = 0x8000  # linux/swap.h
HIGHEST_PRIORITY = 0x7FFF
"""Above all that has no priority by wish: what is paged out goes there first."""
BUSY_SECONDS = 10.0
LOOK_SECONDS = 0.01

_libc = ctypes.CDLL(None, use_errno=True)


class UnavailableError(Exception):
    """This machine cannot do that."""


@contextmanager
def locked(path: Path, exclusive: bool = True) -> Iterator[None]:
    """Hold one of the kernel's files against other runs of the tests."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def ksm_running() -> Iterator[None]:
    """Have the kernel merge equal pages where it was told that it may."""
    if not KSM_RUN.exists():
        raise UnavailableError("the kernel merges no pages (CONFIG_KSM)")
    with locked(KSM_RUN):
        before = KSM_RUN.read_text()
        KSM_RUN.write_text("1")
        try:
            yield
        finally:
            KSM_RUN.write_text(before)


@contextmanager
def hugetlb_pages(count: int) -> Iterator[None]:
    """Set `count` more huge pages aside."""
    if not HUGETLB_COUNT.exists():
        raise UnavailableError("the kernel has no hugetlb pages (CONFIG_HUGETLB_PAGE)")
    got = _add_hugetlb_pages(count)
    try:
        if got < count:
            raise UnavailableError(f"the kernel set only {got} huge pages aside, not {count}")
        yield
    finally:
        _add_hugetlb_pages(-got)


def _add_hugetlb_pages(count: int) -> int:
    with locked(HUGETLB_COUNT):
        before = int(HUGETLB_COUNT.read_text())
        HUGETLB_COUNT.write_text(str(max(0, before + count)))
        return int(HUGETLB_COUNT.read_text()) - before


@contextmanager
def swapping_to_file(path: Path) -> Iterator[Path]:
    """Have the kernel swap to a new file, at the priority that it gives by itself."""
    make_swap_file(path)
    try:
        with locked(SWAPS):
            swap_on(path, 0)
        try:
            yield path
        finally:
            with locked(SWAPS):
                swap_off(path)
    finally:
        path.unlink()


@contextmanager
def swapping_first_to_file(path: Path) -> Iterator[Path]:
    """Have the kernel swap to a new file before anything else, while others wait."""
    make_swap_file(path)
    try:
        with swapping_first_to(path):
            yield path
    finally:
        path.unlink()


@contextmanager
def swapping_first_to_memory() -> Iterator[Path]:
    """Have the kernel swap to compressed memory (zram) before anything else, while others wait."""
    if not ZRAM_ADD.exists():
        raise UnavailableError("no zram: modprobe zram")
    number = int(ZRAM_ADD.read_text())
    device, block = Path(f"/dev/zram{number}"), Path(f"/sys/block/zram{number}")
    try:
        (block / "disksize").write_text(str(SWAP_BYTES))
        with swapping_first_to(device):
            yield device
    finally:
        remove_zram(number, block)


@contextmanager
def swapping_first_to(device: Path) -> Iterator[None]:
    """Have the kernel swap there before anything else.

    Others who swap wait meanwhile: their pages would come here, and back when it ends.
    """
    with locked(SWAPS):
        swap_on(device, SWAP_FLAG_PREFER | HIGHEST_PRIORITY)
        try:
            yield
        finally:
            names = [line.split()[0] for line in SWAPS.read_text().splitlines()]
            if str(device) in names:  # the test may have ended it
                swap_off(device)


def make_swap_file(path: Path) -> None:
    """Make a file that the kernel may swap to."""
    with path.open("wb") as file:
        os.fchmod(file.fileno(), 0o600)
        os.posix_fallocate(file.fileno(), 0, SWAP_BYTES)


def swap_on(device: Path, flags: int) -> None:
    """Make swap space of a file or device, and have it used."""
    subprocess.run(["/sbin/mkswap", device], check=True, capture_output=True)
    if _libc.swapon(os.fsencode(device), flags):
        raise UnavailableError(f"cannot swap to {device}: {os.strerror(ctypes.get_errno())}")


def swap_off(device: Path) -> None:
    """Have swap space no longer used: what is there comes back."""
    if _libc.swapoff(os.fsencode(device)):
        raise OSError(ctypes.get_errno(), f"swapoff {device}")


def remove_zram(number: int, block: Path) -> None:
    """Take the device away; whoever looks at new devices may have it open for a moment."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            (block / "reset").write_text("1")
            ZRAM_REMOVE.write_text(str(number))
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise
            time.sleep(LOOK_SECONDS)
        else:
            return


@contextmanager
def huge_tmpfs(directory: Path) -> Iterator[Path]:
    """Mount a tmpfs on `directory` that keeps files in huge pages, for everybody."""
    options = "huge=always,mode=1777"
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", directory]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        raise UnavailableError("the kernel has no tmpfs with huge pages")
    try:
        yield directory
    finally:
        subprocess.run(["umount", directory], check=True)
