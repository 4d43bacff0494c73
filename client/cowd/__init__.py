# SPDX-License-Identifier: Apache-2.0
"""cowd's client: which pages of a process have been copied, asked of the daemon.

    with cowd.Client() as client:
        pages = client.get_page_flags(pid, address, count)

Importing this is cheap: grpc is imported with the first `Client`.
"""

from cowd._client import DEFAULT_ADDRESS, Client
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
from cowd._pages import (
    CallerCredential,
    DisclosureMasks,
    KernelFeatures,
    Mapping,
    MappingKind,
    MappingList,
    PageAttributes,
    PageFlags,
    PageState,
    ServerInfo,
    is_copied,
)

__all__ = [
    "DEFAULT_ADDRESS",
    "Aborted",
    "AccessDenied",
    "CallerCredential",
    "Client",
    "DisclosureMasks",
    "Error",
    "FailedPrecondition",
    "InternalError",
    "InvalidRequest",
    "KernelFeatures",
    "KernelPageFlags",
    "LimitReached",
    "Mapping",
    "MappingKind",
    "MappingList",
    "NoSuchProcess",
    "PageAttributes",
    "PageFlags",
    "PageState",
    "ServerInfo",
    "TimedOut",
    "Unavailable",
    "__version__",
    "is_copied",
]

__version__ = "0.1.0"
