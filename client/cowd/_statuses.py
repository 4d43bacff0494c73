# SPDX-License-Identifier: Apache-2.0
"""What a failed call says: the daemon's own reason, or why there was no answer. Sees protobuf."""

import errno
import os
from collections.abc import Iterable
from typing import Final

from cowproto.v1 import twins_pb2
from google.protobuf.message import DecodeError

from cowd._address import try_to_connect
from cowd._errors import AccessDenied, Error, Unavailable

__all__ = ["decode_details", "explain_lost"]

_ERROR_DOMAIN: Final = "cowd"
_TYPE_PREFIX: Final = "type.googleapis.com/google.rpc."


def decode_details(
    trailing_metadata: Iterable[tuple[str, str | bytes]] | None,
) -> tuple[str | None, float | None]:
    """Return the daemon's reason and retry delay from a failed call's trailing metadata."""
    reason: str | None = None
    retry_after_seconds: float | None = None
    for key, value in trailing_metadata or ():
        if key != "grpc-status-details-bin" or not isinstance(value, bytes):
            continue
        try:
            for detail in twins_pb2.Status.FromString(value).details:
                if detail.type_url == f"{_TYPE_PREFIX}ErrorInfo":
                    info = twins_pb2.ErrorInfo.FromString(detail.value)
                    reason = info.reason if info.domain == _ERROR_DOMAIN else reason
                elif detail.type_url == f"{_TYPE_PREFIX}RetryInfo":
                    delay = twins_pb2.RetryInfo.FromString(detail.value).retry_delay
                    retry_after_seconds = delay.seconds + delay.nanos / 1e9
        except DecodeError:
            continue  # The status itself still says what failed.
    return reason, retry_after_seconds


def explain_lost(path: str, details: str, pid: int | None) -> Error:
    """Find out why no call got through, by connecting once more: grpc's words vary by version."""
    number = try_to_connect(path)
    if number in (errno.EACCES, errno.EPERM):
        return AccessDenied(
            f"you may not connect to cowd at {path}: `ls -l` shows whose the socket is; join its "
            "group, and log in again",
            pid=pid,
        )
    if number:
        return Unavailable(f"cannot connect to cowd at {path}: {os.strerror(number)}", pid=pid)
    return Unavailable(f"cowd at {path} took the connection but not the call: {details}", pid=pid)
