# SPDX-License-Identifier: Apache-2.0
"""Files in memory that nobody can change any more, or not in size, to hand to another process.

Used by root, in openers and the broker.
"""

import errno
import fcntl
import os
from typing import Final

__all__ = ["make_file_of_fixed_size", "make_sealed_file"]

_FIXED_SIZE: Final = fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL


def make_sealed_file(name: str, content: bytes) -> int:
    """Return a descriptor of a file with `content`, sealed; `name` shows in /proc alone.

    Raises:
        OSError: there is no memory or no descriptor for it; nothing is left open.
    """
    return _make_file(name, content, fcntl.F_SEAL_WRITE | _FIXED_SIZE)


def make_file_of_fixed_size(name: str, size_bytes: int) -> int:
    """Return a descriptor of a file of zeros, to be written to; it can neither grow nor shrink.

    So whoever else has it can take no memory by it, and leaves nobody with a file that is cut off.

    Raises:
        OSError: as of make_sealed_file().
    """
    return _make_file(name, bytes(size_bytes), _FIXED_SIZE)


def _make_file(name: str, content: bytes, seals: int) -> int:
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        if os.write(descriptor, content) < len(content):  # memory ran out half way
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
