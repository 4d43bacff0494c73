# SPDX-License-Identifier: Apache-2.0
"""Where a buffer lies, and which of its bytes each page holds."""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cowd._errors import InvalidRequest

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["Memory", "Span", "as_array"]

Memory: TypeAlias = "Buffer | NDArray[Any]"
"""What has the buffer protocol; arrays by name, since numpy's types say so from Python 3.12 on."""

_PAGE_SIZE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Span:
    """The memory of a buffer, which may start and end inside a page. No bytes lie in no page.

    Attributes:
        start: address of its first byte.
        size_bytes: number of its bytes.
        page_size_bytes: of every page.
    """

    start: int
    size_bytes: int
    page_size_bytes: int = _PAGE_SIZE_BYTES

    @property
    def address(self) -> int:
        """Address of the first page."""
        return self.start - self.start % self.page_size_bytes

    @property
    def page_count(self) -> int:
        """Number of pages that hold a byte of it."""
        end = self.start + self.size_bytes
        return -(-(end - self.address) // self.page_size_bytes) if self.size_bytes else 0

    @property
    def end(self) -> int:
        """Address after the last page."""
        return self.address + self.page_count * self.page_size_bytes

    @property
    def starts_inside_page(self) -> bool:
        """Whether the first page begins with bytes of something else."""
        return self.page_count > 0 and self.start != self.address

    @property
    def ends_inside_page(self) -> bool:
        """Whether the last page ends with bytes of something else."""
        return self.page_count > 0 and self.start + self.size_bytes != self.end

    def slice_of(self, page: int) -> slice:
        """Return which of the buffer's bytes page number `page` holds; -1 is the last page.

        Raises:
            IndexError: there is no such page.
        """
        first = self.address + range(self.page_count)[page] * self.page_size_bytes - self.start
        return slice(max(0, first), min(first + self.page_size_bytes, self.size_bytes))


def as_array(buffer: Memory) -> NDArray[np.generic]:
    """Return an array in the memory of `buffer`, which keeps that from being closed or resized.

    Raises:
        InvalidRequest: it has no memory, or is not contiguous.
    """
    # An array may have elements that the buffer protocol has no name for, such as dates.
    if isinstance(buffer, np.ndarray):
        array: NDArray[np.generic] = buffer
        is_contiguous = array.flags.forc
    else:
        try:
            view = memoryview(buffer)
            is_contiguous = view.contiguous
            # As bytes, since numpy does not know all that an element may be called.
            array = (
                np.frombuffer(view, np.uint8)
                if view.c_contiguous and view.nbytes
                else np.asarray(view)
            )
        except (TypeError, ValueError, BufferError) as error:
            raise InvalidRequest(
                f"a {type(buffer).__name__} has no memory to look at ({error}): give an open "
                "mmap, a numpy array, or what memoryview() takes"
            ) from error
    if not is_contiguous:
        raise InvalidRequest("the buffer is not contiguous: ask about its base, or about one row")
    return array
