# SPDX-License-Identifier: Apache-2.0
"""Files in memory that nobody can change any more, to hand to another process.

Used by root, in openers.
"""

import errno
import fcntl
import os
from typing import Final

__all__ = ["make_sealed_file"]

_SEALS: Final = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL


def make_sealed_file(name: str, content: bytes) -> int:
    """Return a descriptor of a file with `content`, sealed; `name` shows in /proc alone.

    Raises:
        OSError: there is no memory or no descriptor for it; nothing is left open.
    """
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        if os.write(descriptor, content) < len(content):  # memory ran out half way
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
