# SPDX-License-Identifier: Apache-2.0
"""The two files of /proc that all of cowd rests on: checked at start, kpageflags opened for good.

Root, in the zygote before it gives up its privileges, once.
"""

import ctypes
import os
import sys
from typing import Final

__all__ = ["KernelError", "open_kpageflags"]

_FRAME_BITS: Final = (1 << 55) - 1  # Documentation/admin-guide/mm/pagemap.rst


class KernelError(Exception):
    """The kernel does not offer what cowd needs; the text says what, and what to do."""


def open_kpageflags() -> int:
    """Return a descriptor of /proc/kpageflags, after a look at whether pagemap shows frames.

    The descriptor stays readable without any privilege: the kernel checks at open only.

    Raises:
        KernelError: one of the files is missing, or closed to us.
    """
    _verify_frames_are_shown()
    return _open("/proc/kpageflags")


def _open(path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise KernelError(
            f"{path} is missing: the kernel needs CONFIG_PROC_PAGE_MONITOR, and /proc must be "
            "mounted whole (in a unit: no ProcSubset=pid)"
        ) from error
    except OSError as error:
        raise KernelError(
            f"{path} cannot be opened ({error.strerror}): cowd must run on the host, as full root"
        ) from error


def _verify_frames_are_shown() -> None:
    page_size_bytes = os.sysconf("SC_PAGE_SIZE")
    touched = ctypes.create_string_buffer(b"present", 8)
    pagemap = _open("/proc/self/pagemap")
    try:
        entry = os.pread(pagemap, 8, ctypes.addressof(touched) // page_size_bytes * 8)
    finally:
        os.close(pagemap)
    if not int.from_bytes(entry, sys.byteorder) & _FRAME_BITS:
        raise KernelError(
            "/proc/self/pagemap shows no frame numbers: cowd needs CAP_SYS_ADMIN in the initial "
            "user namespace, so it cannot run in an unprivileged container"
        )
