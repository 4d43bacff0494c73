# SPDX-License-Identifier: Apache-2.0
"""Where the daemon's socket is, and whether somebody listens there. Needs no grpc."""

import errno
import os
import re
import socket
from typing import Final

from cowd._errors import InvalidRequest

__all__ = ["DEFAULT_ADDRESS", "make_target", "resolve_address", "try_to_connect"]

DEFAULT_ADDRESS: Final = "unix:/run/cowd/cowd.sock"
_PLAIN: Final = re.compile(r"[\w/.-]+", re.ASCII)
"""What stands for itself in a URI. Few paths are anything else, and urllib is slow to import."""


def resolve_address(address: str | None) -> str:
    """Return the path of the daemon's socket.

    Args:
        address: a path, or a URI such as unix:/run/cowd/cowd.sock; None for the environment
            variable COWD_SOCKET, or the daemon's usual place if that is unset or empty.

    Raises:
        InvalidRequest: it is neither.
    """
    address = address or os.environ.get("COWD_SOCKET") or DEFAULT_ADDRESS
    if not isinstance(address, str):
        raise InvalidRequest(f"{address!r} is no address of cowd: give a str")
    try:
        os.fsencode(address)
    except UnicodeEncodeError as error:
        raise InvalidRequest(f"{address!r} is no address of cowd: it can be no path") from error
    scheme, colon, rest = address.partition(":")
    if not colon or "/" in scheme:
        return address
    path = rest.removeprefix("//")
    if "%" in path:
        from urllib.parse import unquote

        path = unquote(path)
    if scheme != "unix" or not path or (rest.startswith("//") and not path.startswith("/")):
        raise InvalidRequest(
            f"{address!r} is no address of cowd: give the path of a Unix socket, or unix:PATH"
        )
    return path


def make_target(path: str) -> str:
    """Return what grpc calls the socket at `path`."""
    if _PLAIN.fullmatch(path):
        return f"unix:{path}"
    from urllib.parse import quote

    return f"unix:{quote(os.fsencode(path))}"


def try_to_connect(path: str, timeout_seconds: float = 1.0) -> int:
    """Connect to a socket and hang up; return the number of the error, 0 if there was none."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(timeout_seconds)
        try:
            probe.connect(path)
        except TimeoutError:
            return errno.ETIMEDOUT
        except OSError as error:  # A path that is too long has no number.
            return error.errno or errno.ENAMETOOLONG
    return 0
