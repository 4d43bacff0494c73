# SPDX-License-Identifier: Apache-2.0
"""What `cowctl doctor` sees of the daemon: its socket, its answers, and what it says of a page.

Runs with the caller's own rights. Everything has a deadline of a few seconds, and failures are part
of what is returned.
"""

import os
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, TypeAlias

import cowd
from cowd._address import resolve_address, try_to_connect
from cowd.cli.experiment import map_privately

__all__ = [
    "PageAnswer",
    "Service",
    "Socket",
    "ask_about_page",
    "ask_service",
    "examine_socket",
    "write_page",
]

_CONNECT_SECONDS: Final = 2.0
_CALL_SECONDS: Final = 3.0

PageAnswer: TypeAlias = cowd.PageState | cowd.Error
"""What a backend says of a page, or why it does not."""

_KINDS: Final = {
    stat.S_IFDIR: "a directory",
    stat.S_IFREG: "a file",
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


@dataclass(frozen=True, slots=True)
class Socket:
    """The daemon's socket, as far as it can be reached.

    Attributes:
        path: "" if the address is none.
        origin: who says that it is there: "--socket", "COWD_SOCKET" or "the default".
        mistake: what is wrong with the address itself.
        stat_errno: of looking at it; 0 if that went well.
        kind: what it is if not a socket, such as "a directory".
        access: owner, group and mode, such as "root:cowd 0660".
        connect_errno: of connecting, 0 if that went well.
        unit: what systemd says of cowd.socket, if it is not there: "not-found", "masked", or its
            state, such as "failed"; "" if that is not known.
    """

    path: str
    origin: str
    mistake: str = ""
    stat_errno: int = 0
    kind: str = ""
    access: str = ""
    connect_errno: int = 0
    unit: str = ""

    @property
    def is_connectable(self) -> bool:
        """Whether somebody took a connection."""
        return not (self.mistake or self.stat_errno or self.kind or self.connect_errno)


@dataclass(frozen=True, slots=True)
class Service:
    """What the daemon answered: `serving` and `info`, or else `error`."""

    serving: bool = False
    info: cowd.ServerInfo | None = None
    error: cowd.Error | None = None


def examine_socket(address: str | None) -> Socket:
    """Look for the socket that `cowd.Client(address)` would use, connect to it and hang up."""
    origin = "--socket" if address else "the default"
    if not address and os.environ.get("COWD_SOCKET"):
        origin = "COWD_SOCKET"
    try:
        path = resolve_address(address)
    except cowd.InvalidRequest as error:
        return Socket("", origin, mistake=str(error))
    try:
        found = os.stat(path)
    except OSError as error:
        unit = _read_unit() if origin == "the default" else ""
        return Socket(path, origin, stat_errno=error.errno or -1, unit=unit)
    except ValueError:  # A null character.
        return Socket("", origin, mistake=f"{path!r} can be no path")
    kind = stat.S_IFMT(found.st_mode)
    if kind != stat.S_IFSOCK:
        return Socket(path, origin, kind=_KINDS.get(kind, "something else"))
    access = f"{_name_owners(found.st_uid, found.st_gid)} {stat.S_IMODE(found.st_mode):04o}"
    return Socket(path, origin, access=access, connect_errno=try_to_connect(path, _CONNECT_SECONDS))


def ask_service(path: str) -> Service:
    """Ask the daemon whether it is well, and what it is."""
    try:
        with cowd.Client(path, timeout_seconds=_CALL_SECONDS) as client:
            return Service(serving=client.is_serving(), info=client.get_server_info())
    except cowd.Error as error:
        return Service(error=error)


@contextmanager
def write_page() -> Iterator[int]:
    """Yield the address of a page of this process that is a private copy, as it has been written.

    Raises:
        OSError: there can be none.
    """
    with os.fdopen(os.memfd_create("cowctl-doctor"), "w+b") as file, map_privately(file) as address:
        yield address


def ask_about_page(address: int, path: str | None) -> PageAnswer:
    """Ask the daemon at `path`, or the kernel alone, about a page of this process."""
    try:
        if path is None:
            pages = cowd.Local().get_page_flags(os.getpid(), address, 1)
        else:
            with cowd.Client(path, timeout_seconds=_CALL_SECONDS) as client:
                pages = client.get_page_flags(os.getpid(), address, 1)
    except cowd.Error as error:
        return error
    return cowd.PageState(pages.states[0])


def _read_unit() -> str:
    """Return what systemd, which tells everybody, says of cowd.socket."""
    command = ["systemctl", "show", "--property=LoadState", "--property=ActiveState", "cowd.socket"]
    try:
        shown = subprocess.run(  # noqa: S603 - by name, as the caller's own PATH has it
            command, capture_output=True, text=True, timeout=_CALL_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    state = dict(line.partition("=")[::2] for line in shown.stdout.splitlines())
    load, active = state.get("LoadState", ""), state.get("ActiveState", "")
    return active if load == "loaded" else load


def _name_owners(uid: int, gid: int) -> str:
    import grp
    import pwd

    try:
        user = pwd.getpwuid(uid).pw_name
    except KeyError:
        user = str(uid)
    try:
        group = grp.getgrgid(gid).gr_name
    except KeyError:
        group = str(gid)
    return f"{user}:{group}"
