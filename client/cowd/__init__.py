# SPDX-License-Identifier: Apache-2.0
"""cowd's client: which pages of a process have been copied.

    words = numpy.memmap("words.dat", mode="c")
    words[0] = 7
    print(cowd.copied(words))

`copied`, `pages` and `Tracker` answer about buffers of this process; `Client`, which asks the
daemon, and `Local`, which asks the kernel alone, about any process that the caller may inspect.

Importing this is cheap: grpc is imported with the first `Client`, numpy with the first buffer, and
`Local` when it is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from cowd._address import DEFAULT_ADDRESS
from cowd._backend import BACKENDS, Backend, BackendName
from cowd._client import Client
from cowd._comparisons import (
    ComparedPages,
    Comparison,
    ComparisonChunk,
    ComparisonTotals,
    MappingComparison,
    PageComparison,
    PageCopier,
)
from cowd._counts import PageCounts
from cowd._errors import (
    Aborted,
    AccessDenied,
    Error,
    FailedPrecondition,
    InternalError,
    InvalidRequest,
    LimitReached,
    NoSuchProcess,
    TimedOut,
    Unavailable,
)
from cowd._kpageflags import KernelPageFlags
from cowd._mappings import Mapping, MappingKind, MappingList, is_copied
from cowd._pages import (
    CallerCredential,
    Confinement,
    DisclosureMasks,
    KernelFeatures,
    PageAttributes,
    PageChunk,
    PageFlags,
    PageState,
    ServerInfo,
)
from cowd._runs import Run
from cowd._summaries import KindTotals, ProcessSummary

if TYPE_CHECKING:
    from cowd._buffer_pages import Pages, Summary, copied, pages
    from cowd._buffers import Span
    from cowd._local import Local
    from cowd._tracker import Change, Tracker

__all__ = [
    "BACKENDS",
    "DEFAULT_ADDRESS",
    "Aborted",
    "AccessDenied",
    "Backend",
    "BackendName",
    "CallerCredential",
    "Change",
    "Client",
    "ComparedPages",
    "Comparison",
    "ComparisonChunk",
    "ComparisonTotals",
    "Confinement",
    "DisclosureMasks",
    "Error",
    "FailedPrecondition",
    "InternalError",
    "InvalidRequest",
    "KernelFeatures",
    "KernelPageFlags",
    "KindTotals",
    "LimitReached",
    "Local",
    "Mapping",
    "MappingComparison",
    "MappingKind",
    "MappingList",
    "NoSuchProcess",
    "PageAttributes",
    "PageChunk",
    "PageComparison",
    "PageCopier",
    "PageCounts",
    "PageFlags",
    "PageState",
    "Pages",
    "ProcessSummary",
    "Run",
    "ServerInfo",
    "Span",
    "Summary",
    "TimedOut",
    "Tracker",
    "Unavailable",
    "__version__",
    "copied",
    "is_copied",
    "pages",
]

__version__ = "0.1.0"

# What is slow to import, by the module that has it.
_LATE = {
    "Change": "cowd._tracker",
    "Local": "cowd._local",
    "Pages": "cowd._buffer_pages",
    "Span": "cowd._buffers",
    "Summary": "cowd._buffer_pages",
    "Tracker": "cowd._tracker",
    "copied": "cowd._buffer_pages",
    "pages": "cowd._buffer_pages",
}


def __dir__() -> list[str]:
    return sorted(__all__)  # with what is late, so that help() and Tab tell of it


def __getattr__(name: str) -> Any:  # noqa: ANN401 (PEP 562)
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value = getattr(import_module(_LATE[name]), name)
    return value
