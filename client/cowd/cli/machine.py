# SPDX-License-Identifier: Apache-2.0
"""What `cowctl doctor` sees of the machine by itself: the kernel, namespaces, signs of a container.

Runs with the caller's own rights and looks at this process and at names that every user may look
at. What cannot be found out is None, never a guess.
"""

import ctypes
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cowd._page_scan import has_pagemap_scan

__all__ = ["Machine", "find_container_marks", "read_machine"]

# The numbers of the namespaces that the machine starts with: PROC_USER_INIT_INO and
# PROC_PID_INIT_INO, include/linux/proc_ns.h.
_FIRST_NAMESPACES: Final = {"user": 0xEFFF_FFFD, "pid": 0xEFFF_FFFC}
_PR_GET_DUMPABLE: Final = 3  # linux/prctl.h
_SUID_DUMP_USER: Final = 1
"""What PR_GET_DUMPABLE says of a process that its own user may inspect."""


@dataclass(frozen=True, slots=True)
class Machine:
    """Facts about this process and the kernel and place that it runs in.

    Attributes:
        uid: effective.
        has_proc: /proc is there, and shows this process.
        is_proc_own: its numbers are those of our own pid namespace.
        proc_options: how it is mounted, such as "rw,hidepid=invisible".
        pagemap_errno: of opening /proc/self/pagemap; 0 if that went well.
        is_dumpable: this process may be inspected by its own user.
        has_kpageflags: /proc/kpageflags is there, whoever may read it.
        has_pagemap_scan: the ioctl works for us; None if there is no pagemap to try it on.
        is_user_namespace_first, is_pid_namespace_first: we are in the one that the machine started
            with; None where that cannot be told.
        container_marks: what says that this is a container, each with where it says so.
    """

    uid: int
    has_proc: bool
    is_proc_own: bool
    proc_options: str
    pagemap_errno: int
    is_dumpable: bool
    has_kpageflags: bool
    has_pagemap_scan: bool | None
    is_user_namespace_first: bool | None
    is_pid_namespace_first: bool | None
    container_marks: tuple[str, ...]


def read_machine() -> Machine:
    """Look at everything once."""
    has_proc = os.path.exists("/proc/self/stat")
    pagemap_errno = _try_to_open("/proc/self/pagemap")
    return Machine(
        uid=os.geteuid(),
        has_proc=has_proc,
        is_proc_own=has_proc and os.readlink("/proc/self") == str(os.getpid()),
        proc_options=_read_proc_options(),
        pagemap_errno=pagemap_errno,
        is_dumpable=_is_dumpable(),
        has_kpageflags=os.path.exists("/proc/kpageflags"),
        has_pagemap_scan=None if pagemap_errno else has_pagemap_scan(),
        is_user_namespace_first=_is_namespace_first("user"),
        is_pid_namespace_first=_is_namespace_first("pid"),
        container_marks=find_container_marks(Path("/"), os.environ),
    )


def find_container_marks(root: Path, environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return the standard signs that programs leave in the containers that they make.

    https://systemd.io/CONTAINER_INTERFACE; Docker and Podman have files of their own.
    """
    marks = []
    if name := environment.get("container"):
        marks.append(f"{name} (environment variable container)")
    try:
        name = (root / "run/systemd/container").read_text("utf-8", "backslashreplace").strip()
        marks.append(f"{name or 'a container'} (/run/systemd/container)")
    except OSError:
        pass
    for place, maker in (("/.dockerenv", "docker"), ("/run/.containerenv", "podman")):
        if os.path.exists(root / place[1:]):
            marks.append(f"{maker} ({place})")
    return tuple(marks)


def _read_proc_options() -> str:
    """Return the options of /proc itself (proc_pid_mountinfo(5)); "" if they cannot be read."""
    try:
        mounts = Path("/proc/self/mountinfo").read_text("utf-8", "backslashreplace")
    except OSError:
        return ""
    found = re.findall(r"^\S+ \S+ \S+ \S+ /proc (\S+) .*?- proc \S+ (\S+)$", mounts, re.MULTILINE)
    return ",".join(found[-1]) if found else ""  # the last one mounted is the one seen


def _try_to_open(path: str) -> int:
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        return error.errno or -1
    return 0


def _is_dumpable() -> bool:
    return int(ctypes.CDLL(None).prctl(_PR_GET_DUMPABLE, 0, 0, 0, 0)) == _SUID_DUMP_USER


def _is_namespace_first(kind: str) -> bool | None:
    try:
        name = os.readlink(f"/proc/self/ns/{kind}")
    except FileNotFoundError:
        # A kernel that has no such namespaces has but the one; without /proc, who knows.
        return True if os.path.isdir("/proc/self/ns") else None
    except OSError:
        return None
    return name == f"{kind}:[{_FIRST_NAMESPACES[kind]}]"
