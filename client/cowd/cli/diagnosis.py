# SPDX-License-Identifier: Apache-2.0
"""What `cowctl doctor` makes of what it has seen: checks with a result and a next step. Pure.

A check that another one leaves no ground for is left out: nobody learns anything from the version
of a daemon that cannot be reached.
"""

import errno
import os
from collections.abc import Iterator
from typing import Final, NamedTuple

import cowd
from cowd import PageState
from cowd.cli.machine import Machine
from cowd.cli.service import PageAnswer, Service, Socket

__all__ = ["FAILED", "OK", "WARNING", "Check", "iter_checks"]

OK: Final = "ok"
WARNING: Final = "warning"
FAILED: Final = "failed"

_LOG: Final = "`journalctl -u cowd` has the cause; `systemctl restart cowd` starts it again"
_REPAIRS: Final = {
    "not-found": "`apt install cowd`, or whatever else installs its units",
    "masked": "`systemctl unmask --now cowd.socket`",
    "failed": "`journalctl -u cowd` for the cause, such as a mistake in cowd.toml; when it is gone "
    "`systemctl reset-failed cowd.service cowd.socket`, `systemctl start cowd.socket`",
}
"""By the state of cowd.socket; others have to be started."""
_OUTSIDE: Final = "ask from outside the sandbox or container, or run a cowd inside it"
_REFUSALS: Final = {
    "FOREIGN_USER_NAMESPACE": (
        "it refuses you: you are in another user namespace, where your uid means another user",
        _OUTSIDE,
    ),
    "FOREIGN_PID_NAMESPACE": (
        "it refuses you: you are in another pid namespace, where pids mean other processes",
        f"{_OUTSIDE}; a container may share the host's (docker run --pid=host)",
    ),
    "CALLER_GONE": ("it refuses you: it could not see which namespaces you are in", "ask again"),
}


class Check(NamedTuple):
    """One thing that was looked at. `next_step` is None where there is nothing to do."""

    check: str
    result: str
    found: str
    next_step: str | None = None


def iter_checks(
    socket: Socket,
    service: Service | None,
    machine: Machine,
    page_by_daemon: PageAnswer | None,
    page_by_kernel: PageAnswer | None,
) -> Iterator[Check]:
    """Yield the checks, in the order in which one would repair what they find.

    Args:
        socket: as it was found.
        service: what it answered; None if nobody took a connection.
        machine: as it was found.
        page_by_daemon: what cowd says of a page that has been copied; None if it was not asked.
        page_by_kernel: the same without cowd.
    """
    yield from _check_socket(socket)
    if service is None:
        yield Check("service", FAILED, "not asked: there is no connection to it")
    else:
        yield from _check_service(service, machine.uid)
    info = service.info if service else None
    yield from _check_kernel(machine, is_accepted=info is not None)
    if info is not None:
        yield _check_features(info.kernel_features)
        yield _check_confinement(info.confinement)
    yield from _check_container(machine, is_accepted=info is not None)
    if page_by_daemon is not None:
        yield _check_page("page-daemon", page_by_daemon, None)
    if page_by_kernel is not None:
        yield _check_page("page-local", page_by_kernel, page_by_daemon)


def _check_socket(socket: Socket) -> Iterator[Check]:
    found = f"{socket.path} ({socket.origin})"
    problem = _find_socket_problem(socket)
    if problem:
        yield Check("socket", FAILED, *problem)
        return
    yield Check("socket", OK, found)
    problem = _find_connection_problem(socket)
    if problem:
        yield Check("connection", FAILED, *problem)
    else:
        yield Check("connection", OK, f"open to you ({socket.access})")


def _find_socket_problem(socket: Socket) -> tuple[str, str] | None:
    where = f"{socket.path} ({socket.origin})"
    correct = f"correct {_name_origin(socket)}"
    if socket.mistake:
        return f"{socket.origin}: {socket.mistake}", correct
    if socket.kind:
        return (
            f"{where} is {socket.kind}, not a socket",
            correct,
        )
    if socket.stat_errno == errno.ENOENT:
        return f"{where} does not exist", _say_how_to_start(socket, "start")
    if socket.stat_errno == errno.EACCES:
        return (
            f"{where} lies in a directory that is closed to you",
            f"`namei -l {socket.path}` shows which: its owner must let you in (chmod o+x)",
        )
    if socket.stat_errno:
        return f"{where}: {os.strerror(socket.stat_errno)}", correct
    return None


def _find_connection_problem(socket: Socket) -> tuple[str, str] | None:
    number = socket.connect_errno
    if number == errno.ECONNREFUSED:
        return (
            "refused: the socket was left behind by a daemon that has ended",
            _say_how_to_start(socket, "restart"),
        )
    if number in (errno.EACCES, errno.EPERM):
        return (
            f"forbidden: the socket is {socket.access}, and you may not write to it",
            "join its group and log in again, or have SocketMode= of cowd.socket changed "
            "(`systemctl edit cowd.socket`)",
        )
    if number in (errno.ETIMEDOUT, errno.EAGAIN):
        return "not taken: the daemon hangs, or too many wait for it", _LOG
    if number == errno.EPROTOTYPE:
        return "the socket is of another type than cowd's", f"correct {_name_origin(socket)}"
    if number:
        return os.strerror(number), "`systemctl status cowd.socket` may tell more"
    return None


def _say_how_to_start(socket: Socket, verb: str) -> str:
    if socket.origin == "the default":
        by_hand = "or, by hand, `cowd --socket PATH`, and set COWD_SOCKET=PATH"
        return f"as root {_REPAIRS.get(socket.unit, f'`systemctl {verb} cowd.socket`')}; {by_hand}"
    usual = cowd.DEFAULT_ADDRESS.removeprefix("unix:")
    return f"as root `cowd --socket {socket.path}`; or leave {socket.origin} out for {usual}"


def _name_origin(socket: Socket) -> str:
    """Return what to change for another socket."""
    return "COWD_SOCKET or --socket" if socket.origin == "the default" else socket.origin


def _check_service(service: Service, uid: int) -> Iterator[Check]:
    error = service.error
    if isinstance(error, cowd.AccessDenied):
        yield Check("service", OK, "answers")
        yield Check("caller", FAILED, *_REFUSALS.get(error.reason or "", (str(error), None)))
    elif isinstance(error, cowd.LimitReached):
        yield Check("service", WARNING, str(error), "wait for a moment, and ask again")
    elif error is not None:
        yield Check("service", FAILED, str(error), _LOG)
    if service.info is None:
        return
    if service.serving:
        yield Check("service", OK, "answers, and says that it is well")
    else:
        yield Check("service", FAILED, "answers, but says that it is not well", _LOG)
    yield _check_version(service.info.version)
    yield _check_caller(service.info.caller, uid)


def _check_version(version: str) -> Check:
    if version == cowd.__version__:
        return Check("version", OK, f"{version}, as cowctl's")
    return Check(
        "version",
        WARNING,
        f"cowd is {version}, cowctl is {cowd.__version__}",
        "install one version of both; after an upgrade, `systemctl restart cowd`",
    )


def _check_caller(caller: cowd.CallerCredential, uid: int) -> Check:
    groups = ",".join(map(str, caller.groups)) or "none"
    found = f"uid {caller.uid}, gid {caller.gid}, groups {groups}"
    if caller.uid == uid:
        return Check("caller", OK, f"you are {found}")
    return Check(
        "caller",
        WARNING,
        f"it takes you for {found}, and you are uid {uid}",
        "see whether something between you and cowd passes your connection on",
    )


def _check_kernel(machine: Machine, *, is_accepted: bool) -> Iterator[Check]:
    if not machine.has_proc:
        yield Check("proc", FAILED, "/proc is not mounted", "as root `mount -t proc proc /proc`")
        return
    yield _check_proc(machine)
    has_pagemap = machine.pagemap_errno != errno.ENOENT
    if machine.pagemap_errno in (errno.EACCES, errno.EPERM):
        why = (
            "the kernel refuses"
            if machine.is_dumpable
            else "cowctl is not dumpable here: its ids changed, or you may not read its program"
        )
        yield Check(
            "pagemap",
            FAILED,
            f"your own is closed to you: {why}",
            "exec after the change of ids, or prctl(PR_SET_DUMPABLE, 1)",
        )
    elif machine.pagemap_errno == 0:
        yield Check("pagemap", OK, "open to you, of those of your processes that are dumpable")
    elif has_pagemap:
        yield Check("pagemap", FAILED, os.strerror(machine.pagemap_errno), "see dmesg")
    else:
        yield Check("pagemap", FAILED, *_without_page_monitor("/proc/self/pagemap"))
    if machine.has_kpageflags:
        yield Check("kpageflags", OK, "there, for root alone: cowd reads it for you")
    elif is_accepted:
        yield Check("kpageflags", OK, "not shown by this mount of /proc, but cowd has it")
    elif has_pagemap:
        yield Check(
            "kpageflags",
            WARNING,
            "not shown by this mount of /proc, though the kernel has pagemap",
            "run cowd where /proc/kpageflags is, outside this container for example",
        )
    else:
        yield Check("kpageflags", FAILED, *_without_page_monitor("/proc/kpageflags"))
    if machine.has_pagemap_scan:
        yield Check("pagemap-scan", OK, "the kernel tells anybody which pages are of zeros")
    elif machine.has_pagemap_scan is None:
        yield Check("pagemap-scan", WARNING, "cannot tell: there is no pagemap to try it on")
    else:
        yield Check(
            "pagemap-scan",
            WARNING,
            "no such ioctl for you: without cowd, pages of zeros may be shown as unknown",
            "ask through cowd; Linux 6.7 and later have PAGEMAP_SCAN",
        )


def _without_page_monitor(path: str) -> tuple[str, str]:
    return (
        f"no {path}: the kernel was built without CONFIG_PROC_PAGE_MONITOR",
        "run a kernel that has it, as every distribution's does",
    )


def _check_proc(machine: Machine) -> Check:
    if not machine.is_proc_own:
        return Check(
            "proc",
            WARNING,
            "/proc is that of another pid namespace: its pids are not yours",
            "mount it anew in this namespace",
        )
    hiding = [each for each in machine.proc_options.split(",") if each.startswith("hidepid=")]
    if hiding and hiding[-1] not in ("hidepid=0", "hidepid=off"):
        return Check("proc", OK, f"mounted with {hiding[-1]}: other users' processes are hidden")
    return Check("proc", OK, "mounted")


def _check_features(features: cowd.KernelFeatures) -> Check:
    told = {
        "guard regions": features.guard_regions,
        "markers": features.markers,
        "soft-dirty": features.soft_dirty,
        "PAGEMAP_SCAN": features.pagemap_scan,
    }
    there = ", ".join(name for name, is_there in told.items() if is_there) or "nothing more"
    missing = ", ".join(name for name, is_there in told.items() if not is_there)
    return Check("features", OK, f"cowd tells {there}" + (f"; not {missing}" if missing else ""))


def _check_confinement(confinement: cowd.Confinement) -> Check:
    walls = {
        "seccomp": (
            confinement.seccomp,
            "install libseccomp (`apt install libseccomp2`) and `systemctl restart cowd`",
        ),
        "Landlock": (
            confinement.landlock_abi > 0,
            "boot a kernel that has Landlock (Linux 5.13) and uses it (`lsm=` names landlock)",
        ),
    }
    missing = [name for name, (is_there, _) in walls.items() if not is_there]
    if not missing:
        found = f"seccomp and Landlock (ABI {confinement.landlock_abi})"
        return Check("confinement", OK, f"{found} confine the process that serves you")
    return Check(
        "confinement",
        WARNING,
        f"the process that serves you has no privilege, but no {' and no '.join(missing)} either",
        "; ".join(walls[name][1] for name in missing),
    )


def _check_container(machine: Machine, *, is_accepted: bool) -> Iterator[Check]:
    """Yield checks of where we live; a place that is not the machine's own is well if cowd is too.

    Args:
        machine: as it was found.
        is_accepted: the daemon answers us, so it lives in the same namespaces.
    """
    for kind, is_first in (
        ("user", machine.is_user_namespace_first),
        ("pid", machine.is_pid_namespace_first),
    ):
        name = f"{kind}-namespace"
        if is_first is None:
            found = f"cannot tell: /proc/self/ns/{kind} cannot be read"
            yield Check(name, OK if is_accepted else WARNING, found)
        elif is_first:
            yield Check(name, OK, "the machine's first")
        elif is_accepted:
            yield Check(name, OK, "another than the machine's first, and cowd is in it as well")
        else:
            found = "another than the machine's first: a cowd outside of it refuses you"
            yield Check(name, WARNING, found, _OUTSIDE)
    marks = ", ".join(machine.container_marks)
    if not marks:
        yield Check("container", OK, "no sign of one")
    elif is_accepted:
        yield Check("container", OK, f"{marks}; cowd answers you here")
    else:
        step = "pass cowd's socket in and share the host's user and pid namespaces"
        yield Check("container", WARNING, marks, f"{step}, or run a cowd inside")


def _check_page(name: str, answer: PageAnswer, other: PageAnswer | None) -> Check:
    if isinstance(answer, cowd.Error):
        return Check(name, FAILED, str(answer))
    said = answer.name.lower()
    if answer not in (PageState.ANON, PageState.ANON_SWAPPED):
        return Check(
            name,
            FAILED,
            f"a page that cowctl wrote is called {said}, not anon",
            "report this with the output of `cowctl doctor -J` and `uname -r`",
        )
    agreed = ", as cowd says" if answer is other else ""
    return Check(name, OK, f"a page that cowctl wrote is {said}{agreed}: right")
