# SPDX-License-Identifier: Apache-2.0
"""Each list of system calls on the real kernel: what must not go does not, what must go does.

In forked children. What is refused is tried without the filter as well: it would have gone, or
failed for another reason.
"""

import ctypes
import errno
import fcntl
import mmap
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cowdaemon import wire
from cowdaemon.system import confinement
from cowdaemon.system.confinement import (
    FileRight,
    SystemCallFilter,
    bind_to_parent,
    close_to_others,
    read_landlock_abi,
    restrict_files,
)
from cowdaemon.system.privileges import read_permitted_capabilities, restrict_capabilities
from cowdaemon.system.system_calls import OPENER, WORKER, WORKER_ERRORS, ZYGOTE, Rules
from cowdaemon.worker.inner_listener import InnerListener
from cowdaemon.worker.page_scan import PAGEMAP_SCAN, PAGEMAP_SCAN_ARGUMENT
from unit.children import RunInChild

Attempts = dict[str, Callable[[], object]]

PAGE = mmap.PAGESIZE
EXECUTABLE = mmap.PROT_READ | mmap.PROT_EXEC
MAP_ANONYMOUSLY = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
THREAD_IN_NAMESPACE = 0x10010900
"""CLONE_VM | CLONE_SIGHAND | CLONE_THREAD | CLONE_NEWUSER: the kernel always says EINVAL."""
ABOVE = 1 << 32
"""Of a register, whatever else it has: for an int, the kernel takes what is below."""
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NAME, PR_SET_PTRACER = 1, 4, 15, 0x59616D61
F_SETOWN, F_SETSIG, FIOSETOWN, TIOCSTI = 8, 10, 0x8901, 0x5412
SCAN_OF_NOTHING = PAGEMAP_SCAN_ARGUMENT.pack(PAGEMAP_SCAN_ARGUMENT.size, *[0] * 11)
EVERY_RIGHT = FileRight.MAKE_SOCK | FileRight.REMOVE_FILE
LIBRARY = confinement._open_libseccomp()
LIBC = ctypes.CDLL(None, use_errno=True)

pytestmark = pytest.mark.skipif(LIBRARY is None, reason="no libseccomp here")


def call(name: str, *arguments: int | bytes | None) -> Callable[[], None]:
    """Return a function that makes a system call, as nobody's library would."""
    assert LIBRARY
    number = LIBRARY.seccomp_syscall_resolve_name(name.encode())
    assert number >= 0

    def make() -> None:
        longs = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
        if LIBC.syscall(ctypes.c_long(number), *longs) < 0:
            raise OSError(ctypes.get_errno(), name)

    return make


def fork() -> None:
    if os.fork() == 0:
        os._exit(0)


def start_thread() -> None:
    thread = threading.Thread(target=int)
    thread.start()
    thread.join()


def change_action() -> None:
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)


OF_OTHERS: Attempts = {
    "signal": call("kill", os.getpid(), 0),
    "signal a thread": call("tgkill", os.getpid(), os.getpid(), 0),
    "signal a thread by its number": call("tkill", os.getpid(), 0),
    "queue a signal": call("rt_sigqueueinfo", -1, 0, None),
    "trace": call("ptrace", 0x4200, -1, None, None),
    "read memory": call("process_vm_readv", os.getpid(), None, 0, None, 0, 0),
    "write memory": call("process_vm_writev", os.getpid(), None, 0, None, 0, 0),
    "advise on memory": call("process_madvise", -1, None, 0, 0, 0),
    "take a descriptor": call("pidfd_getfd", -1, 0, 0),
    "set a limit": call("prlimit64", 0, 7, None, None),
    "set a process's priority": call("setpriority", 0, os.getpid(), 0),
    "set the user's priority": call("setpriority", 2, 0, 0),
    "set processors": call("sched_setaffinity", 0, 0, None),
}
OF_IDS: Attempts = {
    "execute": call("execve", None, None, None),
    "execute a descriptor": call("execveat", -1, None, None, None, 0),
    "set uids": call("setresuid", -1, -1, -1),
    "set uid": call("setuid", os.getuid()),
    "set gids": call("setresgid", -1, -1, -1),
    "set groups": call("setgroups", 70_000, None),
    "set file-system uid": call("setfsuid", -1),
    "be dumpable": call("prctl", PR_SET_DUMPABLE, 0, 0, 0, 0),
    "outlive the parent": call("prctl", PR_SET_PDEATHSIG, 0, 0, 0, 0),
    "let others trace": call("prctl", PR_SET_PTRACER, -1, 0, 0, 0),
    "make a namespace": call("unshare", 0),
    "enter a namespace": call("setns", -1, 0),
    "fork by clone3": call("clone3", None, 0),
    "clone into a namespace": call("clone", THREAD_IN_NAMESPACE, None, None, None, None),
}
OF_FILES: Attempts = {
    "make": call("openat", -1, b"/dev/null", os.O_CREAT, 0),
    "open to write": call("openat", -1, b"/dev/null", os.O_WRONLY),
    "open to read and write": call("openat", -1, b"/dev/null", os.O_RDWR),
    "open to truncate": call("openat", -1, b"/dev/null", os.O_TRUNC),
    "open in some new way": call("openat2", -1, b"/dev/null", None, 0),
    "make a directory": call("mkdirat", -1, b"", 0o700),
    "make a link": call("symlinkat", b"", -1, b""),
    "make a name": call("linkat", -1, b"", -1, b"", 0),
    "make a device": call("mknodat", -1, b"", 0, 0),
    "rename": call("renameat2", -1, b"", -1, b"", 0),
    "change a mode": call("fchmodat", -1, b"", 0),
    "change an owner": call("fchownat", -1, b"", -1, -1, 0),
    "change times": call("utimensat", -1, b"", None, 0),
    "change directory": call("chdir", b""),
    "change root": call("chroot", b""),
    "mount": call("mount", None, b"", None, 0, None),
    "unmount": call("umount2", b"", 0),
    "watch": call("inotify_init1", 0),
}
OF_NETWORKS: Attempts = {
    "make a TCP socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM),
    "make a UDP socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
    "make a netlink socket": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),
    "make a datagram socket": lambda: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM),
    "make a packet socket": lambda: socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET),
    "set an option": call("setsockopt", -1, 0, 0, None, 0),
}
OF_MEMORY: Attempts = {
    "map to execute": call("mmap", None, PAGE, EXECUTABLE, MAP_ANONYMOUSLY, -1, 0),
    "make executable": call("mprotect", None, 0, EXECUTABLE),
    "make executable with a key": call("pkey_mprotect", None, 0, EXECUTABLE, -1),
    "lock": call("mlock", None, 0),
    "share": call("shmget", -1, 0, 0),
    "share a queue": call("msgget", -1, 0),
}
BY_WORKER: Attempts = {
    "fork": fork,
    "find a process": call("pidfd_open", os.getpid(), 0),
    "signal by descriptor": call("pidfd_send_signal", -1, signal.SIGKILL, None, 0),
    "open": call("openat", -1, b"/dev/null", os.O_RDONLY),
    "look at a file": call("newfstatat", -1, b"", None, 0),
    "remove": call("unlinkat", -1, b"", 0),
    "list": call("getdents64", -1, None, 0),
    "make a file in memory": call("memfd_create", b"x", 0),
    "bind": call("bind", -1, None, 0),
    "listen": call("listen", -1, 0),
    "make a pair": call("socketpair", -1, 0, 0, None),
    "connect to a long name": call("connect", -1, None, 20),
    "have signals sent": call("fcntl", -1, F_SETOWN, 1),
    "have another signal sent": call("fcntl", -1, F_SETSIG, signal.SIGKILL),
    "have signals sent by a socket": call("ioctl", -1, FIOSETOWN, None),
    "type on the terminal": call("ioctl", -1, TIOCSTI, None),
    "change how standard error is written to": call("fcntl", 2, fcntl.F_SETFL, os.O_APPEND),
    "shut standard error down": call("shutdown", 2, socket.SHUT_WR),
    "write into what standard error is": call("pwrite64", 2, None, 0, 0),
    "set an alarm": call("setitimer", 0, None, None),
    "restrict": call("landlock_restrict_self", -1, 0),
    "be nicer": call("setpriority", 0, 0, 19),
}
WITH_MORE_ABOVE: Attempts = {
    "look at standard error": call("fcntl", ABOVE | 2, fcntl.F_GETFL),
    "shut standard error down, and more": call("shutdown", ABOVE | 2, socket.SHUT_WR),
    "write into standard error": call("pwrite64", ABOVE | 2, None, 0, 0),
    "have a signal sent": call("fcntl", -1, ABOVE | F_SETOWN, 1),
    "have a signal sent by a socket": call("ioctl", -1, ABOVE | FIOSETOWN, None),
    "be dumpable, and more": call("prctl", ABOVE | PR_SET_DUMPABLE, 0, 0, 0, 0),
    "connect to a name that is long": call("connect", -1, None, ABOVE | 20),
    "connect to a name that seems long": call("connect", -1, None, ABOVE | 2),
    "make a socket of datagrams": call("socket", socket.AF_UNIX, ABOVE | socket.SOCK_DGRAM, 0),
    "make a socket of TCP": call("socket", ABOVE | socket.AF_INET, socket.SOCK_STREAM, 0),
    "go before others, and more": call("setpriority", 0, 0, ABOVE | 0xFFFFFFFF),
    "clone into a namespace, and more": call("clone", ABOVE | THREAD_IN_NAMESPACE, *[None] * 4),
    "be executable": call("mprotect", None, 0, ABOVE | EXECUTABLE),
}
BY_ZYGOTE: Attempts = {
    "go before others": call("setpriority", 0, 0, -1),
    "stop by descriptor": call("pidfd_send_signal", -1, signal.SIGSTOP, None, 0),
}
BY_OPENER: Attempts = {
    "fork": fork,
    "make a thread": start_thread,
    "signal by descriptor": call("pidfd_send_signal", -1, signal.SIGKILL, None, 0),
    "remove": call("unlinkat", -1, b"", 0),
    "make a stream socket": lambda: socket.socket(socket.AF_UNIX, socket.SOCK_STREAM),
    "make a pair": call("socketpair", -1, 0, 0, None),
    "connect": call("connect", -1, None, 0),
    "bind": call("bind", -1, None, 0),
    "request": call("ioctl", -1, 0, None),
    "be named": call("prctl", PR_SET_NAME, b"x", 0, 0, 0),
    "change what signals do": change_action,
    "load a filter": call("seccomp", 1, 0, None),
}
ALL = OF_OTHERS | OF_IDS | OF_FILES | OF_NETWORKS | OF_MEMORY


def try_all(attempts: Attempts) -> dict[str, int]:
    """Return the number of the error that each attempt ends with, 0 if it goes."""
    outcomes = {}
    for what, attempt in attempts.items():
        try:
            attempt()
        except OSError as error:
            outcomes[what] = error.errno or -1
        except RuntimeError:  # "can't start new thread"
            outcomes[what] = errno.ENOSYS
        else:
            outcomes[what] = 0
    return outcomes


def try_behind(compiled: SystemCallFilter, attempts: Attempts) -> dict[str, int]:
    compiled.load()
    return try_all(attempts)


@pytest.mark.parametrize(
    ("rules", "errors", "forbidden"),
    [
        pytest.param(WORKER, WORKER_ERRORS, ALL | BY_WORKER | WITH_MORE_ABOVE, id="worker"),
        pytest.param(ZYGOTE, {}, ALL | BY_ZYGOTE | WITH_MORE_ABOVE, id="zygote"),
        pytest.param(OPENER, {}, ALL | BY_OPENER, id="opener"),
    ],
)
def test_what_nobody_needs_is_not_there(
    run_in_child: RunInChild, rules: Rules, errors: dict[str, int], forbidden: Attempts
) -> None:
    compiled = SystemCallFilter(rules, errors)

    def be_confined() -> dict[str, int]:
        close_to_others()
        return try_behind(compiled, forbidden)

    outcomes = run_in_child(be_confined)
    by_openat = {"make", "open", "open to write", "open to read and write", "open to truncate"}
    assert outcomes == {
        what: errors.get("openat", errno.ENOSYS) if what in by_openat else errno.ENOSYS
        for what in forbidden
    }


def test_what_a_worker_tries_to_import_is_missing(run_in_child: RunInChild) -> None:
    """As in `try: import faster except ImportError: import slower`, when a call needs it."""
    compiled = SystemCallFilter(WORKER, WORKER_ERRORS)

    def try_to_import() -> str:
        close_to_others()
        compiled.load()
        try:
            import no_such_module  # noqa: F401
        except (ImportError, OSError) as error:
            return type(error).__name__
        return ""

    assert run_in_child(try_to_import) == "ModuleNotFoundError"


@pytest.mark.parametrize("attempts", [ALL | BY_WORKER, WITH_MORE_ABOVE, BY_ZYGOTE, BY_OPENER])
def test_it_would_be_there_without_the_filter(run_in_child: RunInChild, attempts: Attempts) -> None:
    outcomes = run_in_child(lambda: try_all(attempts))
    assert [what for what, number in outcomes.items() if number == errno.ENOSYS] == []


ALWAYS_NEEDED: Attempts = {
    "have memory": lambda: bytearray(64 << 20),
    "sleep": lambda: time.sleep(0.001),
    "wait": lambda: select.poll().poll(0),
    "be random": lambda: os.urandom(8),
    "log": lambda: os.write(2, b""),
}


def send_descriptor(one: socket.socket, other: socket.socket) -> None:
    wire.send(one, b"x", [2])
    message, descriptors = wire.receive(other, 1)
    assert message == b"x"
    os.close(*descriptors)


def test_what_a_worker_needs_is_there(run_in_child: RunInChild, tmp_path: Path) -> None:
    filters = SystemCallFilter(ZYGOTE), SystemCallFilter(WORKER, WORKER_ERRORS)

    def start_and_serve() -> dict[str, int]:
        pagemap = os.open("/proc/self/pagemap", os.O_RDONLY)
        close_to_others()
        pair, room = wire.seqpacket_pair(), os.open(tmp_path, os.O_PATH)
        outcomes = try_behind(
            filters[0],
            {
                "fork and kill": fork_and_kill,
                "be bound to the parent": lambda: bind_to_parent(os.getppid()),
                "be nicer": lambda: os.setpriority(os.PRIO_PROCESS, 0, 1),
                "be restricted": lambda: restrict_files(
                    read_landlock_abi(), {room: EVERY_RIGHT}, FileRight.READ_FILE
                ),
            },
        )
        listening = socket.socket(socket.AF_UNIX)

        def bind(address: str) -> None:
            listening.bind(address.removeprefix("unix:"))
            listening.listen()

        inner = InnerListener(room, bind)

        def connect() -> None:
            with inner.connect() as one, listening.accept()[0] as other:
                one.settimeout(10)
                one.sendall(b"x")
                assert other.recv(1) == b"x"
                one.shutdown(socket.SHUT_WR)
                assert other.recv(1) == b""

        return outcomes | try_behind(
            filters[1],
            {
                **ALWAYS_NEEDED,
                "start a thread": start_thread,
                "name a thread": call("prctl", PR_SET_NAME, b"call", 0, 0, 0),
                "read pagemap": lambda: os.preadv(pagemap, [bytearray(8)], 0),
                "scan pagemap": lambda: fcntl.ioctl(pagemap, PAGEMAP_SCAN, SCAN_OF_NOTHING),
                "connect to itself": connect,
                "send a descriptor": lambda: send_descriptor(*pair),
                "wait for events": lambda: select.epoll().poll(0),
            },
        )

    outcomes = run_in_child(start_and_serve)
    if outcomes["scan pagemap"] == errno.ENOTTY:
        outcomes["scan pagemap"] = 0  # so says a kernel before 6.7
    assert outcomes == dict.fromkeys(outcomes, 0)


def fork_and_kill() -> None:
    pid = os.fork()
    if pid == 0:
        select.poll().poll()
    pidfd = os.pidfd_open(pid)
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    select.epoll().poll(0)
    os.close(pidfd)


def test_what_an_opener_needs_is_there(run_in_child: RunInChild) -> None:
    compiled = SystemCallFilter(OPENER)

    def list_in_memory() -> None:
        file = os.memfd_create("pids", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.write(file, b"pids")
        os.ftruncate(file, 4)
        fcntl.fcntl(file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK)
        assert os.lseek(file, 0, os.SEEK_END) == 4

    def be_permitted() -> None:
        permitted = read_permitted_capabilities()
        restrict_capabilities(permitted, permitted)

    needed: Attempts = {
        **ALWAYS_NEEDED,
        "open": lambda: os.open("/proc/uptime", os.O_RDONLY | os.O_CLOEXEC),
        "open a place": lambda: os.open("/proc/self", os.O_PATH | os.O_DIRECTORY),
        "read a text": lambda: Path("/proc/self/status").read_text(),
        "list": lambda: os.listdir("/proc"),
        "list an open place": lambda: os.listdir(os.open("/proc", os.O_RDONLY)),
        "find a process": lambda: os.close(os.pidfd_open(os.getpid())),
        "set an alarm": lambda: signal.setitimer(signal.ITIMER_REAL, 60),
        "make a list in memory": list_in_memory,
        "be permitted": be_permitted,
    }

    def serve() -> dict[str, int]:
        pair = wire.seqpacket_pair()
        send = {"send a descriptor": lambda: send_descriptor(*pair)}
        close_to_others()
        return try_behind(compiled, needed | send)

    outcomes = run_in_child(serve)
    assert outcomes == dict.fromkeys(outcomes, 0)


def test_a_zygotes_list_has_all_that_its_workers_list_has() -> None:
    """Filters add to each other: what the zygote lacks, no worker has."""
    assert set(WORKER) <= set(ZYGOTE)
