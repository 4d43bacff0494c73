# SPDX-License-Identifier: Apache-2.0
"""cowd's client: which pages of a process have been copied.

    words = numpy.memmap("words.dat", mode="c")
    words[0] = 7
    print(cowd.copied(words))

`copied`, `pages` and `Tracker` answer about buffers of this process; `Client`, which asks the
daemon, and `Local`, which asks the kernel alone, about any process that the caller may inspect.
Of whole processes: `mappings` and `summarize` count pages, `compare` says what two of them share,
`family` what one shares with its children. `cowd.aio.Client` is for asyncio.

Importing this is cheap: grpc is imported with the first `Client`, numpy with the first buffer, and
what is not always needed when it is used.
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
    GrantDetail,
    KernelFeatures,
    PageAttributes,
    PageChunk,
    PageFlags,
    PageState,
    ServerInfo,
)
from cowd._runs import Run
from cowd._statistics import CallCount, CallDurations, ServerStatistics
from cowd._summaries import KindTotals, ProcessSummary

if TYPE_CHECKING:
    from cowd import aio
    from cowd._buffer_pages import Pages, Summary, copied, pages
    from cowd._buffers import Span
    from cowd._family import Child, Family, family
    from cowd._local import Local
    from cowd._overviews import compare, mappings, summarize
    from cowd._shares import MemoryGroup, Shares
    from cowd._tracker import Change, Tracker

__all__ = [
    "BACKENDS",
    "DEFAULT_ADDRESS",
    "Aborted",
    "AccessDenied",
    "Backend",
    "BackendName",
    "CallCount",
    "CallDurations",
    "CallerCredential",
    "Change",
    "Child",
    "Client",
    "ComparedPages",
    "Comparison",
    "ComparisonChunk",
    "ComparisonTotals",
    "Confinement",
    "DisclosureMasks",
    "Error",
    "FailedPrecondition",
    "Family",
    "GrantDetail",
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
    "MemoryGroup",
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
    "ServerStatistics",
    "Shares",
    "Span",
    "Summary",
    "TimedOut",
    "Tracker",
    "Unavailable",
    "__version__",
    "aio",
    "compare",
    "copied",
    "family",
    "is_copied",
    "mappings",
    "pages",
    "summarize",
]

__version__ = "0.1.0"

# What is slow to import, by the module that has it.
_LATE = {
    "Change": "cowd._tracker",
    "Child": "cowd._family",
    "Family": "cowd._family",
    "Local": "cowd._local",
    "MemoryGroup": "cowd._shares",
    "Pages": "cowd._buffer_pages",
    "Shares": "cowd._shares",
    "Span": "cowd._buffers",
    "Summary": "cowd._buffer_pages",
    "Tracker": "cowd._tracker",
    "compare": "cowd._overviews",
    "copied": "cowd._buffer_pages",
    "family": "cowd._family",
    "mappings": "cowd._overviews",
    "pages": "cowd._buffer_pages",
    "summarize": "cowd._overviews",
}


def __dir__() -> list[str]:
    return sorted(__all__)  # with what is late, so that help() and Tab tell of it


def __getattr__(name: str) -> Any:  # noqa: ANN401 (PEP 562)
    if name == "aio":
        return import_module("cowd.aio")
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value = getattr(import_module(_LATE[name]), name)
    return value
