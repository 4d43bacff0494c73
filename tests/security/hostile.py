# SPDX-License-Identifier: Apache-2.0
"""What a worker tries that was taken over.

For harness.changed_zygote: the workers are real and really confined, but after `be_hostile()` they
answer one method more, with what comes of every attack there is; the zygote writes the same to
standard error before it serves. No attack does harm when it succeeds.
"""

import array
import ctypes
import errno
import fcntl
import json
import mmap
import os
import signal
import socket
import sys
from collections.abc import Callable

import grpc
from cowdaemon.worker import zygote
from cowdaemon.worker.service import PageFlagsService

TARGETS = "COWD_TEST_TARGETS"
METHOD = "/hostile/Attack"
MARK = "attacks of the zygote: "
SUCCESS = "success"

PTRACE_DETACH, PTRACE_SEIZE, PTRACE_INTERRUPT = 17, 0x4206, 0x4207
WALL = 0x40000000
RLIMIT_NOFILE = 7
EXECUTABLE = mmap.PROT_READ | mmap.PROT_EXEC
PR_SET_PDEATHSIG, PR_SET_DUMPABLE = 1, 4
SYS_PIDFD_GETFD = 438  # asm-generic/unistd.h
DESCRIPTORS = 16
"""As many of a process as are tried; all that matters has a lower number."""

Targets = dict[str, int | str]
"""Pids by what the processes are; "file" to read, "directory" to write to, "socket" and "abstract"
to connect to."""

_libc = ctypes.CDLL(None, use_errno=True)


def be_hostile() -> None:
    """Have this zygote and its workers attack."""
    zygote.PageFlagsService = HostileService  # type: ignore[misc]
    serve = zygote._serve

    def attack_and_serve(*arguments: object) -> None:
        targets = json.loads(os.environ[TARGETS])
        outcomes = attack(targets | {"broker": os.getppid()})
        print(f"{MARK}{json.dumps(outcomes)}", file=sys.stderr, flush=True)
        serve(*arguments)  # type: ignore[arg-type]

    zygote._serve = attack_and_serve  # type: ignore[assignment]


class HostileService(PageFlagsService):
    """The service, and the method."""

    def make_handler(self) -> grpc.GenericRpcHandler:
        handler = super().make_handler()

        class Hostile(grpc.GenericRpcHandler):
            def service(self, details):
                if details.method != METHOD:
                    return handler.service(details)
                return grpc.unary_unary_rpc_method_handler(
                    lambda request, _: json.dumps(attack(json.loads(request))).encode()
                )

        return Hostile()


def check(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), "")
    return result


def attack(targets: Targets) -> dict[str, str]:
    """Try everything; return what came of it: the error's name, or SUCCESS."""
    attempts: dict[str, Callable[[], object]] = {}
    for name, pid in targets.items():
        if isinstance(pid, int):
            for what, attempt in ON_PROCESSES.items():
                attempts[f"{what} {name}"] = lambda attempt=attempt, pid=pid: attempt(pid)
    for what, attempt in ALONE.items():
        attempts[what] = lambda attempt=attempt: attempt(targets)
    outcomes = {}
    for what, attempt in attempts.items():
        try:
            attempt()
        except OSError as error:
            outcomes[what] = errno.errorcode[error.errno or 0]
        else:
            outcomes[what] = SUCCESS
    return outcomes


def trace(pid: int) -> None:
    check(_libc.ptrace(PTRACE_SEIZE, pid, None, None))
    check(_libc.ptrace(PTRACE_INTERRUPT, pid, None, None))
    os.waitpid(pid, WALL)
    check(_libc.ptrace(PTRACE_DETACH, pid, None, None))


def read_memory(pid: int) -> None:
    here = ctypes.create_string_buffer(8)
    vector = array.array("Q", [ctypes.addressof(here), 8])
    address, _ = vector.buffer_info()
    pointer = ctypes.c_void_p(address)
    read = _libc.process_vm_readv(pid, pointer, 1, pointer, 1, 0)
    if ctypes.get_errno() != errno.EFAULT:  # nothing is there: so it looked
        check(read)


def take_descriptor(pid: int) -> None:
    check(_libc.syscall(SYS_PIDFD_GETFD, os.pidfd_open(pid), 2, 0))


def signal_by_descriptor(pid: int) -> None:
    signal.pidfd_send_signal(os.pidfd_open(pid), 0)


def connect(address: str) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)


def connect_to_descriptors(pid: int) -> None:
    last = OSError(errno.EACCES, "")
    for number in range(DESCRIPTORS):
        try:
            connect(f"/proc/{pid}/fd/{number}")
        except OSError as error:
            last = error
        else:
            return
    raise last


def fork(_: object) -> None:
    if os.fork() == 0:
        os._exit(0)


def make_socket(targets: Targets) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(f"{targets['directory']}/socket-{os.getpid()}")


def bind_tcp(_: object) -> None:
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))


def change_and_restore(option: int, value: int, restored: int) -> None:
    check(_libc.prctl(option, value, 0, 0, 0))
    check(_libc.prctl(option, restored, 0, 0, 0))


ON_PROCESSES: dict[str, Callable[[int], object]] = {
    "signal": lambda pid: os.kill(pid, 0),
    "signal by descriptor": signal_by_descriptor,
    "signal a thread of": lambda pid: check(_libc.tgkill(pid, pid, 0)),
    "have signals sent to": lambda pid: fcntl.fcntl(2, fcntl.F_SETOWN, pid),
    "trace": trace,
    "read memory of": read_memory,
    "open memory of": lambda pid: os.open(f"/proc/{pid}/mem", os.O_RDWR),
    "open pagemap of": lambda pid: os.open(f"/proc/{pid}/pagemap", os.O_RDONLY),
    "take a descriptor of": take_descriptor,
    "connect to what is open in": connect_to_descriptors,
    "limit": lambda pid: check(_libc.prlimit(pid, RLIMIT_NOFILE, None, None)),
    "slow down": lambda pid: os.setpriority(os.PRIO_PROCESS, pid, 0),
    "look at": lambda pid: os.stat(f"/proc/{pid}"),
}
ALONE: dict[str, Callable[[Targets], object]] = {
    "read a file": lambda targets: os.open(targets["file"], os.O_RDONLY),
    "open kpageflags anew": lambda _: os.open("/proc/self/fd/3", os.O_RDONLY),
    "open the log anew": lambda _: os.open("/proc/self/fd/2", os.O_RDONLY),
    "list a directory": lambda targets: os.listdir(targets["directory"]),
    "look at a file": lambda targets: os.stat(targets["file"]),
    "make a file": lambda targets: os.open(
        f"{targets['directory']}/file-{os.getpid()}", os.O_CREAT | os.O_WRONLY
    ),
    "make a socket": make_socket,
    "make a file in memory": lambda _: os.memfd_create("x"),
    "execute": lambda _: os.posix_spawn("/bin/true", ["true"], {}),
    "fork": fork,
    "make a namespace": lambda _: check(_libc.unshare(0)),
    "have memory to execute": lambda _: mmap.mmap(-1, mmap.PAGESIZE, prot=EXECUTABLE),
    "connect to a path": lambda targets: connect(str(targets["socket"])),
    "connect to an abstract name": lambda targets: connect(f"\0{targets['abstract']}"),
    "bind TCP": bind_tcp,
    "be dumpable": lambda _: change_and_restore(PR_SET_DUMPABLE, 1, 0),
    "outlive the zygote": lambda _: change_and_restore(PR_SET_PDEATHSIG, 0, signal.SIGKILL),
}
