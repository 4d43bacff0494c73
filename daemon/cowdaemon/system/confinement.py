# SPDX-License-Identifier: Apache-2.0
"""How a process closes itself in: to others, in the system calls it can make, in what it reaches.

Used in every process. Three walls that do not rest on each other: prctl, which every kernel has;
seccomp, with filters that libseccomp compiles; Landlock, by its own system calls. What this machine
does not have is left out, and whoever asks is told so. What it has and does not do raises
PrivilegeError, and the process must end: it fails closed. No kernel version is ever asked for.
"""

import ctypes
import errno
import os
import signal
import struct
from collections.abc import Mapping
from enum import IntFlag
from typing import Final

from cowdaemon.system.system_calls import Rules

__all__ = [
    "FileRight",
    "PrivilegeError",
    "SystemCallFilter",
    "bind_to_parent",
    "close_to_others",
    "name_process",
    "read_landlock_abi",
    "restrict_files",
]

_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long

_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h
_PR_SET_DUMPABLE: Final = 4
_PR_SET_NAME: Final = 15
_PR_SET_NO_NEW_PRIVS: Final = 38


_SANDBOX: Final = (
    ": something around cowd forbids to ask (in a unit: SystemCallFilter=; around a container, "
    "systemd-nspawn: --system-call-filter=)"
)


class PrivilegeError(Exception):
    """The kernel did not make the process what it was told to make it."""


def _check(result: int, what: str) -> None:
    if result != 0:
        raise PrivilegeError(f"{what}: {os.strerror(ctypes.get_errno())}")


# To others


def close_to_others() -> None:
    """Gain nothing by exec, and be closed to ptrace and core dumps."""
    _check(_libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0), "prctl")
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl")


def bind_to_parent(parent_pid: int) -> None:
    """Be killed when the parent dies; raise if it has died already.

    To be called after the last change of ids, which resets it (commit_creds, kernel/cred.c).
    """
    _check(_libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "prctl")
    if os.getppid() != parent_pid:
        raise PrivilegeError("the parent died first")


def name_process(name: str) -> None:
    """Set what `ps` shows as the command, at most 15 characters."""
    _check(_libc.prctl(_PR_SET_NAME, name.encode(), 0, 0, 0), "prctl")


# In system calls

_LIBSECCOMP: Final = "libseccomp.so.2"

_SCMP_ACT_ALLOW: Final = 0x7FFF0000  # seccomp.h of libseccomp 2.5
_SCMP_ACT_ERRNO: Final = 0x00050000
_SCMP_ACT_KILL_PROCESS: Final = 0x80000000
_SCMP_FLTATR_ACT_BADARCH: Final = 2

_SECCOMP_SET_MODE_FILTER: Final = 1  # linux/seccomp.h
_SECCOMP_FILTER_FLAG_TSYNC: Final = 1
_INSTRUCTION_BYTES: Final = 8  # struct sock_filter, linux/filter.h


class _ArgumentComparison(ctypes.Structure):
    """struct scmp_arg_cmp."""

    _fields_ = (
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("datum_a", ctypes.c_uint64),
        ("datum_b", ctypes.c_uint64),
    )


class _Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def _open_libseccomp() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL(_LIBSECCOMP)
    except OSError:
        return None
    context = ctypes.c_void_p
    library.seccomp_init.restype = context
    library.seccomp_init.argtypes = (ctypes.c_uint32,)
    library.seccomp_attr_set.argtypes = (context, ctypes.c_int, ctypes.c_uint32)
    library.seccomp_rule_add_array.argtypes = (
        context,
        ctypes.c_uint32,
        ctypes.c_int,
        ctypes.c_uint,
        ctypes.POINTER(_ArgumentComparison),
    )
    library.seccomp_export_bpf.argtypes = (context, ctypes.c_int)
    library.seccomp_release.argtypes = (context,)
    library.seccomp_syscall_resolve_name.argtypes = (ctypes.c_char_p,)
    return library


class SystemCallFilter:
    """A list of system calls that a process may make, compiled once and loaded by many.

    Compiling takes as long as loading (0.2 ms each), so whoever forks the processes compiles.

    Whatever is not on the list fails with ENOSYS, as if the kernel were older. C libraries try what
    is new (clone3, epoll_pwait2), and that is the answer after which they do without; EPERM is not,
    and to be killed for trying would be an end for nothing. System calls of another architecture
    do kill: nobody makes them in good faith.

    Args:
        allowed: the list.
        errors: what is to fail with another error, and its number.

    Attributes:
        is_there: whether this machine has both libseccomp and filters of system calls.

    Raises:
        PrivilegeError: it has, and they do not work.
    """

    def __init__(self, allowed: Rules, errors: Mapping[str, int] | None = None) -> None:
        self._program: bytes | None = None
        library = _open_libseccomp()
        if library is not None:
            self._number: Final[int] = library.seccomp_syscall_resolve_name(b"seccomp")
            if _has_filters(self._number):
                self._program = _compile(library, allowed, errors or {})
        self.is_there: Final = self._program is not None

    def load(self) -> None:
        """Hold this process, all its threads, and what it forks, to the list, for good.

        no_new_privs must be set before. Does nothing where the machine has no filters.

        Raises:
            PrivilegeError: the kernel did not take it.
        """
        if self._program is None:
            return
        program = _Program(len(self._program) // _INSTRUCTION_BYTES, self._program)
        result = _set_filter(self._number, ctypes.byref(program))
        if result > 0:
            raise PrivilegeError(f"seccomp: thread {result} cannot follow")
        _check(result, "seccomp")


def _set_filter(number: int, program: object) -> int:
    """Return 0, -1, or the thread that could not follow."""
    arguments = (_SECCOMP_SET_MODE_FILTER, _SECCOMP_FILTER_FLAG_TSYNC, program)
    return int(_libc.syscall(ctypes.c_long(number), *arguments))


def _has_filters(number: int) -> bool:
    """Try whether the kernel would take a filter, by one that cannot be read (seccomp(2))."""
    _set_filter(number, None)
    error = ctypes.get_errno()
    if error not in (errno.EFAULT, errno.ENOSYS, errno.EINVAL):
        raise PrivilegeError(f"seccomp: {os.strerror(error)}{_SANDBOX}")
    return error == errno.EFAULT


def _compile(library: ctypes.CDLL, allowed: Rules, errors: Mapping[str, int]) -> bytes:
    """Return the filter as instructions of BPF."""
    context = library.seccomp_init(_SCMP_ACT_ERRNO | errno.ENOSYS)
    if context is None:
        raise PrivilegeError("seccomp_init: no memory")
    try:
        attribute, action = _SCMP_FLTATR_ACT_BADARCH, _SCMP_ACT_KILL_PROCESS
        _check_library(library.seccomp_attr_set(context, attribute, action), "seccomp_attr_set")
        rules = [
            (name, _SCMP_ACT_ALLOW, conditions)
            for name, cases in allowed.items()
            for conditions in cases
        ]
        rules += [(name, _SCMP_ACT_ERRNO | number, ()) for name, number in errors.items()]
        for name, action, conditions in rules:
            number = library.seccomp_syscall_resolve_name(name.encode())
            if number < 0:
                continue  # of other architectures, or newer than this libseccomp
            comparisons = [_ArgumentComparison(*condition) for condition in conditions]
            count = len(comparisons)
            array = (_ArgumentComparison * count)(*comparisons)
            _check_library(
                library.seccomp_rule_add_array(context, action, number, count, array), name
            )
        return _export(library, context)
    finally:
        library.seccomp_release(context)


def _export(library: ctypes.CDLL, context: int) -> bytes:
    file = os.memfd_create("filter", os.MFD_CLOEXEC)
    try:
        _check_library(library.seccomp_export_bpf(context, file), "seccomp_export_bpf")
        return os.pread(file, os.fstat(file).st_size, 0)
    finally:
        os.close(file)


def _check_library(result: int, what: str) -> None:
    if result != 0:
        raise PrivilegeError(f"libseccomp, {what}: {os.strerror(-result)}")


# In what it reaches

_SYS_LANDLOCK_CREATE_RULESET: Final = 444  # asm-generic/unistd.h
_SYS_LANDLOCK_ADD_RULE: Final = 445
_SYS_LANDLOCK_RESTRICT_SELF: Final = 446
_LANDLOCK_CREATE_RULESET_VERSION: Final = 1  # linux/landlock.h
_LANDLOCK_RULE_PATH_BENEATH: Final = 1
# struct landlock_ruleset_attr: older kernels take the longer one, too, if the rest of it is 0.
_RULESET: Final = struct.Struct("=QQQ")
_PATH_BENEATH: Final = struct.Struct("=Qi")  # struct landlock_path_beneath_attr

_TCP: Final = 0b11  # bind and connect
_SCOPES: Final = 0b11  # abstract Unix sockets, and signals
_HANDLED_BY_ABI: Final = (
    (0, 0, 0),
    ((1 << 13) - 1, 0, 0),
    ((1 << 14) - 1, 0, 0),
    ((1 << 15) - 1, 0, 0),
    ((1 << 15) - 1, _TCP, 0),
    ((1 << 16) - 1, _TCP, 0),
    ((1 << 16) - 1, _TCP, _SCOPES),
)
"""Every right to files and to the network that each version knows, and every scope."""


class FileRight(IntFlag):
    """The rights to files that cowd makes exceptions for (LANDLOCK_ACCESS_FS_*)."""

    READ_FILE = 1 << 2
    REMOVE_FILE = 1 << 5
    MAKE_SOCK = 1 << 9


def read_landlock_abi() -> int:
    """Return the version of Landlock's interface that the kernel has; 0 if it has, or uses, none.

    Raises:
        PrivilegeError: something keeps us from knowing.
    """
    version = _landlock(_SYS_LANDLOCK_CREATE_RULESET, None, 0, _LANDLOCK_CREATE_RULESET_VERSION)
    if version < 0 and ctypes.get_errno() not in (errno.ENOSYS, errno.EOPNOTSUPP):
        raise PrivilegeError(f"Landlock: {os.strerror(ctypes.get_errno())}{_SANDBOX}")
    return max(version, 0)


def restrict_files(abi: int, exceptions: Mapping[int, FileRight], kept: FileRight) -> None:
    """Take every right to files from the calling thread and what it starts, for good.

    As far as `abi` has it, TCP as well, and signals and abstract Unix sockets of all processes but
    those that it starts from now on. What is open stays open. no_new_privs must be set before.

    Ptrace access to others goes, too, whatever the ruleset, and with it their /proc/PID/pagemap and
    maps: EACCES also for processes of one's own uid (tried on Linux 6.18). To open just these is
    what openers are for, so they are not restricted.

    Args:
        abi: as read_landlock_abi() returned it; 0 does nothing.
        exceptions: rights that stay, by descriptors of the files and directories that they are to.
        kept: rights that stay wherever they are.

    Raises:
        PrivilegeError: the kernel did not do it.
    """
    if not abi:
        return
    files, network, scopes = _HANDLED_BY_ABI[min(abi, len(_HANDLED_BY_ABI) - 1)]
    # As a number: the inverse of an IntFlag has no bits above its highest name.
    attribute = _RULESET.pack(files & ~int(kept), network, scopes)
    ruleset = _landlock(_SYS_LANDLOCK_CREATE_RULESET, attribute, len(attribute), 0)
    _check(min(ruleset, 0), "landlock_create_ruleset")
    try:
        for descriptor, rights in exceptions.items():
            rule = _PATH_BENEATH.pack(rights, descriptor)
            added = _landlock(_SYS_LANDLOCK_ADD_RULE, ruleset, _LANDLOCK_RULE_PATH_BENEATH, rule, 0)
            _check(added, "landlock_add_rule")
        _check(_landlock(_SYS_LANDLOCK_RESTRICT_SELF, ruleset, 0), "landlock_restrict_self")
    finally:
        os.close(ruleset)


def _landlock(number: int, *arguments: object) -> int:
    return int(_libc.syscall(ctypes.c_long(number), *arguments))
