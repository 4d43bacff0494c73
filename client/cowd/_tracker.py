# SPDX-License-Identifier: Apache-2.0
"""Which pages of a buffer have been copied since one last looked.

Runs with the caller's own rights. The kernel copies a page once, at the first store; later stores
to the copy are not seen here. That makes a look cheap, and is what it cannot tell.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cowd._backend import Backend, BackendName
from cowd._buffer_pages import copied
from cowd._buffers import Memory, Span, as_array

__all__ = ["Change", "Tracker"]


class Change(NamedTuple):
    """What has become of the pages of a buffer, by their numbers in it; both of dtype intp.

    Attributes:
        copied: pages that are private copies now and were not at the last look.
        dropped: pages that were private copies and are not any more, so that they show the file
            again (MADV_DONTNEED, or a truncated file).
    """

    copied: NDArray[np.intp]
    dropped: NDArray[np.intp]


class Tracker:
    """Tells with every look which pages of a buffer have been copied since the last one.

    The first look tells all that are copies by then. To keep a checkpoint of a mapped file, save
    the pages in `Change.copied` at each look. A page that was told of and has been stored to since
    is not told of again: where that happens, save every page of `cowd.copied(buffer)`, which is
    still no more than what differs from the file.

    Args:
        buffer: as `cowd.copied` takes it. It is kept, so an mmap cannot be closed or resized while
            there is a tracker of it.
        backend: as `cowd.pages` takes it.

    Attributes:
        span: which of the buffer's bytes each page holds.

    Raises:
        InvalidRequest: the buffer is none.
    """

    def __init__(self, buffer: Memory, *, backend: Backend | BackendName = "auto") -> None:
        self._memory = as_array(buffer)
        self._backend = backend
        self.span = Span(self._memory.ctypes.data, self._memory.nbytes)
        self._was_copied = np.zeros(self.span.page_count, np.bool_)

    def look(self) -> Change:
        """Return what has changed since the last look.

        Raises:
            Error: as `cowd.copied`; the next look then tells of all since the last good one.
        """
        is_copied = copied(self._memory, backend=self._backend)
        was_copied, self._was_copied = self._was_copied, is_copied
        return Change(
            copied=np.flatnonzero(is_copied & ~was_copied),
            dropped=np.flatnonzero(was_copied & ~is_copied),
        )
