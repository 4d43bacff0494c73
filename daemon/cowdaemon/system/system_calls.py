# SPDX-License-Identifier: Apache-2.0
"""The system calls that zygote, workers and openers need, by what they need them for.

Pure values, for confinement.SystemCallFilter: whatever is not here is not there for these
processes. The lists were found by tracing the tests on the oldest and newest releases that cowd
runs on, and completed by what other C libraries and machines use in the same places; a name that a
machine does not have does no harm. 64-bit machines only.
"""

import errno
import fcntl
import mmap
import os
import signal
import socket
import termios
from collections.abc import Mapping
from enum import IntEnum
from typing import Final, NamedTuple, TypeAlias

from cowdaemon.limits import MOST_NICE, WORKER_DESCRIPTORS

__all__ = ["OPENER", "WORKER", "WORKER_ERRORS", "ZYGOTE", "Comparison", "Condition", "Rules"]


class Comparison(IntEnum):
    """Of arguments, as libseccomp counts them (enum scmp_compare).

    All 64 bits of a register are compared, of which the kernel takes 32 for an int: one that must
    not be some number may be that number and something above it. So there is no NOT_EQUAL here.
    """

    LESS_OR_EQUAL = 3
    EQUAL = 4
    MASKED_EQUAL = 7


class Condition(NamedTuple):
    """What one argument must be; for MASKED_EQUAL, `value` is the mask and `masked` the rest."""

    argument: int
    comparison: Comparison
    value: int
    masked: int = 0


Rules: TypeAlias = Mapping[str, tuple[tuple[Condition, ...], ...]]
"""System calls, and the cases in which each is allowed: all conditions of one case must hold."""


def _always(*names: str) -> Rules:
    return dict.fromkeys(names, ((),))


def _one_of(argument: int, *values: int) -> tuple[tuple[Condition, ...], ...]:
    return tuple((Condition(argument, Comparison.EQUAL, value),) for value in values)


def _bits(argument: int, having: int = 0, lacking: int = 0) -> Condition:
    return Condition(argument, Comparison.MASKED_EQUAL, having | lacking, having)


# For any program.

_RUNNING: Final = _always(
    "exit",
    "exit_group",
    "futex",
    "getpid",
    "getppid",
    "getrandom",
    "gettid",
    "restart_syscall",
    "rt_sigprocmask",
    "rt_sigreturn",
    "sched_yield",
)
_TIME: Final = _always(
    "clock_getres", "clock_gettime", "clock_nanosleep", "gettimeofday", "nanosleep", "time"
)
_MEMORY: Final[Rules] = {
    **_always("brk", "madvise", "mremap", "munmap"),
    # No code but what is there already.
    # And none to share, which RLIMIT_DATA does not count.
    "mmap": ((_bits(2, lacking=mmap.PROT_EXEC), _bits(3, lacking=mmap.MAP_SHARED)),),
    "mprotect": ((_bits(2, lacking=mmap.PROT_EXEC),),),
}
_READING: Final = _always("close", "lseek", "pread64", "preadv", "preadv2", "read", "readv")
_WRITING: Final = _always("write", "writev")  # standard error, and what wakes a thread up
_MESSAGES: Final = _always("recv", "recvfrom", "recvmsg", "send", "sendmsg", "sendto")
_WAITING: Final = _always("poll", "ppoll")

# Workers, from their first connection on. By then all that they need is imported and open: they
# open, make, execute and signal nothing, make no process, and bind to no address.

_PR_SET_NAME: Final = 15  # linux/prctl.h
_CLONE_THREAD: Final = 0x00010000  # linux/sched.h
_NAMESPACES: Final = 0x7E020000
_CLONE_FLAGS: Final = 1 if os.uname().machine == "s390x" else 0  # CONFIG_CLONE_BACKWARDS2

_THREADS: Final[Rules] = {
    **_always(
        "getcpu",
        "membarrier",
        "rseq",
        "sched_getaffinity",
        "sched_getparam",
        "sched_getscheduler",
        "set_robust_list",
        "sigaltstack",
    ),
    # clone3 cannot be looked into; a C library that finds it missing takes clone.
    "clone": ((_bits(_CLONE_FLAGS, having=_CLONE_THREAD, lacking=_NAMESPACES),),),
    # Nothing else, such as to be dumpable again or to outlive the zygote.
    "prctl": _one_of(0, _PR_SET_NAME),
}
_EVENTS: Final = _always(
    "epoll_create1", "epoll_ctl", "epoll_pwait", "epoll_pwait2", "epoll_wait", "eventfd2"
)
_STREAM_SOCKET: Final = (
    Condition(0, Comparison.EQUAL, socket.AF_UNIX),
    _bits(
        1,
        having=socket.SOCK_STREAM,
        lacking=0xFFFFFFFF & ~(socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK),
    ),
)
# To its own gRPC server: /proc/self/fd/NN, the family before and a NUL behind. A filter cannot read
# a name, only how long it is; few sockets of others have one as short as this.
_OWN_ADDRESS_BYTES: Final = 2 + len("/proc/self/fd/NN") + 1
# A descriptor that a worker may have and that is not 2: some bit is another one.
_NO_DESCRIPTOR: Final = (1 << 64) - WORKER_DESCRIPTORS
_NOT_STANDARD_ERROR: Final = tuple(
    (_bits(0, having=bit & ~2, lacking=_NO_DESCRIPTOR | bit & 2),)
    for bit in (1 << number for number in range((WORKER_DESCRIPTORS - 1).bit_length()))
)
_CONNECTIONS: Final[Rules] = {
    **_always("accept", "accept4", "getpeername", "getsockname", "getsockopt"),
    "connect": ((Condition(2, Comparison.LESS_OR_EQUAL, _OWN_ADDRESS_BYTES),),),
    # F_SETOWN would have the kernel send signals for it. Standard error is root's as well.
    "fcntl": tuple(
        (*descriptor, *command)
        for descriptor in _NOT_STANDARD_ERROR
        for command in _one_of(1, fcntl.F_GETFD, fcntl.F_SETFD, fcntl.F_GETFL, fcntl.F_SETFL)
    ),
    "shutdown": _NOT_STANDARD_ERROR,
    "socket": (_STREAM_SOCKET,),
}
_PAGEMAP_SCAN: Final = 0xC0606610  # linux/fs.h
_REQUESTS: Final[Rules] = {"ioctl": _one_of(1, termios.FIONBIO, _PAGEMAP_SCAN)}
_COUNTING: Final[Rules] = {"pwrite64": _NOT_STANDARD_ERROR}

WORKER: Final[Rules] = {
    **_RUNNING,
    **_TIME,
    **_MEMORY,
    **_READING,
    **_WRITING,
    **_MESSAGES,
    **_WAITING,
    **_THREADS,
    **_EVENTS,
    **_CONNECTIONS,
    **_REQUESTS,
    **_COUNTING,
    **_always("uname"),  # gRPC asks what the kernel is called
}
"""A worker that serves."""

WORKER_ERRORS: Final = {"open": errno.EACCES, "openat": errno.EACCES}
"""Python tries to import what it can do without: after this error it does, ENOSYS is a failure."""

# The zygote, and each worker until it serves. A filter adds to the one before: what the zygote may
# not, no worker may.

_READ_ONLY: Final = _bits(2, lacking=os.O_ACCMODE | os.O_CREAT | os.O_TRUNC)
_PR_SET_PDEATHSIG: Final = 1

# Of the calling thread, and no value that needs a privilege.
_OWN_NICE_VALUE: Final = (
    Condition(0, Comparison.EQUAL, os.PRIO_PROCESS),
    Condition(1, Comparison.EQUAL, 0),
    Condition(2, Comparison.LESS_OR_EQUAL, MOST_NICE),
)
_WORKERS: Final[Rules] = {
    **_always("pidfd_open"),
    "clone": ((_bits(_CLONE_FLAGS, lacking=_NAMESPACES),),),
    "pidfd_send_signal": _one_of(1, signal.SIGKILL),
    "setpriority": (_OWN_NICE_VALUE,),
    "prctl": (
        *_one_of(0, _PR_SET_NAME),
        (
            Condition(0, Comparison.EQUAL, _PR_SET_PDEATHSIG),
            Condition(1, Comparison.EQUAL, signal.SIGKILL),
        ),
    ),
}
_START: Final[Rules] = {
    **_always("bind", "listen", "rt_sigaction", "unlinkat"),
    **_always("landlock_add_rule", "landlock_create_ruleset", "landlock_restrict_self", "seccomp"),
    "openat": ((_READ_ONLY,),),
}

ZYGOTE: Final[Rules] = {**WORKER, **_WORKERS, **_START}
"""The zygote, and a worker that starts."""

# Openers: what the kernel lets the caller read they read for it, and nothing else.

OPENER: Final[Rules] = {
    **_RUNNING,
    **_TIME,
    **_MEMORY,
    **_READING,
    **_WRITING,
    **_MESSAGES,
    **_WAITING,
    **_always("fstat", "getdents64", "newfstatat", "pidfd_open"),
    "openat": ((_READ_ONLY,),),
    **_always("capget", "capset", "setitimer"),  # of what it is permitted, around one open
    # A list of pids is handed over as a file in memory.
    **_always("ftruncate", "memfd_create"),
    "fcntl": _one_of(
        1, fcntl.F_GETFD, fcntl.F_SETFD, fcntl.F_GETFL, fcntl.F_DUPFD_CLOEXEC, fcntl.F_ADD_SEALS
    ),
}
"""An opener, from its first request on."""
