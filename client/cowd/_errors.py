# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: N818 (cowd.AccessDenied reads better than cowd.AccessDeniedError)
"""Everything that cowd's client raises, and the one table from gRPC codes to it.

cowd.Error
├── Unavailable           the daemon cannot be reached, is stopping, or did not take the call;
│                         or the client is closed
├── AccessDenied          the kernel, or cowd, does not let you look at the process
├── NoSuchProcess         no process has this pid, or it is hidden from you
├── InvalidRequest        the arguments are wrong, or outside the process's address space
├── FailedPrecondition    the process cannot be asked: a kernel thread, or the pid was reused
├── Aborted               the process exited or executed another program while it was read
├── LimitReached          one of the daemon's limits; `retry_after_seconds` says when to retry
├── TimedOut              no answer in time
└── InternalError         a defect of the daemon or of the conversation with it
"""

from typing import Final

__all__ = [
    "OF_ONE_PROCESS",
    "Aborted",
    "AccessDenied",
    "Error",
    "FailedPrecondition",
    "InternalError",
    "InvalidRequest",
    "LimitReached",
    "NoSuchProcess",
    "TimedOut",
    "Unavailable",
    "error_from_status",
]


class Error(Exception):
    """Base of all errors of cowd. Can be pickled.

    Args:
        message: a sentence that says what to do.
        reason: the stable reason, such as `ACCESS_DENIED`, that the daemon gives
            (google.rpc.ErrorInfo with the domain `cowd`), and the local backend for the same; None
            where there is none.
        pid: the process that was asked about, if any.
        retry_after_seconds: how long the daemon asks to wait before the next try; None if it
            does not say.
    """

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        pid: int | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.pid = pid
        self.retry_after_seconds = retry_after_seconds


class Unavailable(Error):
    """The daemon cannot be reached, is stopping, or did not take the call; or this is closed."""


class AccessDenied(Error):
    """The kernel, or cowd, does not let you look at the process, or not connect at all."""


class NoSuchProcess(Error):
    """No process has this pid, or it is hidden from you."""


class InvalidRequest(Error):
    """The arguments are wrong, or outside the process's address space."""


class FailedPrecondition(Error):
    """The process cannot be asked: a kernel thread, a zombie, or the pid was reused."""


class Aborted(Error):
    """The process exited or executed another program while it was read."""


class LimitReached(Error):
    """One of the daemon's limits is reached."""


class TimedOut(Error):
    """No answer came in time."""


class InternalError(Error):
    """A defect of the daemon, or of the conversation with it."""


OF_ONE_PROCESS: Final = (AccessDenied, NoSuchProcess, FailedPrecondition, Aborted, TimedOut)
"""What of one process is no matter of the others that are asked about."""

# gRPC status codes (google/rpc/code.proto) as integers: this module is imported with `import cowd`,
# which must not import grpc. Codes that are not here are InternalError.
_CLASS_BY_CODE: Final[dict[int, type[Error]]] = {
    1: Unavailable,  # CANCELLED: the client was closed during the call.
    3: InvalidRequest,  # INVALID_ARGUMENT
    4: TimedOut,  # DEADLINE_EXCEEDED
    5: NoSuchProcess,  # NOT_FOUND
    7: AccessDenied,  # PERMISSION_DENIED
    8: LimitReached,  # RESOURCE_EXHAUSTED
    9: FailedPrecondition,  # FAILED_PRECONDITION
    10: Aborted,  # ABORTED
    11: InvalidRequest,  # OUT_OF_RANGE
    14: Unavailable,  # UNAVAILABLE
}
_CLASS_BY_REASON: Final[dict[str | None, type[Error]]] = {
    "UNKNOWN_SERVICE": InvalidRequest,  # NOT_FOUND as grpc.health.v1 has it: not a process.
}


def error_from_status(
    code: int,
    message: str,
    *,
    reason: str | None,
    pid: int | None,
    retry_after_seconds: float | None,
) -> Error:
    """Return the error for a gRPC status: its class by `code`, the rest as in `Error`."""
    kind = _CLASS_BY_REASON.get(reason) or _CLASS_BY_CODE.get(code, InternalError)
    return kind(message, reason=reason, pid=pid, retry_after_seconds=retry_after_seconds)
