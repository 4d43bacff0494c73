# SPDX-License-Identifier: Apache-2.0
"""How a process closes itself in. Everything happens in forked children, on the real kernel."""

import ctypes
import errno
import os
import select
import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest
from cowdaemon.system import confinement as module
from cowdaemon.system.confinement import (
    PrivilegeError,
    SystemCallFilter,
    bind_to_parent,
    close_to_others,
    name_process,
)
from cowdaemon.system.processes import fork_child
from cowdaemon.system.system_calls import OPENER, WORKER
from harness.processes import Departure, read_status
from unit.children import RunInChild

UID = 65534
PR_GET_DUMPABLE = 3
NUMBER_WITHOUT_MEANING = 30_000
X32_BIT, NUMBER_OF_GETUID = 0x40000000, 102

needs_libseccomp = pytest.mark.skipif(
    not SystemCallFilter({}).is_there, reason="no libseccomp here, or no filters in the kernel"
)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: to be another user")


def number_of(attempt: Callable[[], object]) -> int:
    """Return the number of the error that an attempt fails with, 0 if it does not fail."""
    try:
        attempt()
    except OSError as error:
        return error.errno or -1
    return 0


# To others


def test_closed_process_gains_nothing_by_exec_and_is_not_to_be_traced(
    run_in_child: RunInChild,
) -> None:
    def close() -> tuple[int, str]:
        close_to_others()
        dumpable = ctypes.CDLL(None).prctl(PR_GET_DUMPABLE, 0, 0, 0, 0)
        return dumpable, read_status(os.getpid())["NoNewPrivs"]

    assert run_in_child(close) == (0, "1")


@pytest.mark.parametrize("function", [close_to_others, lambda: bind_to_parent(os.getppid())])
def test_prctl_that_fails_raises(
    run_in_child: RunInChild, break_libc: Callable[..., None], function: Callable[[], None]
) -> None:
    break_libc("prctl", result=-1, error=errno.EINVAL, after_calls=1)  # the child's name
    with pytest.raises(PrivilegeError):
        run_in_child(function)


def test_child_of_a_parent_that_has_died_raises(run_in_child: RunInChild) -> None:
    with pytest.raises(PrivilegeError, match="the parent died first"):
        run_in_child(lambda: bind_to_parent(os.getppid() + 1))


def test_bound_child_dies_with_its_parent() -> None:
    reader, writer = os.pipe()

    def be_parent() -> None:
        parent = os.getpid()

        def be_child() -> None:
            bind_to_parent(parent)
            os.write(writer, os.getpid().to_bytes(4, "little"))
            signal.pause()

        fork_child("cowd-child", be_child, keep=[writer])
        signal.pause()

    parent = fork_child("cowd-parent", be_parent, keep=[writer])
    os.close(writer)
    pid = int.from_bytes(os.read(reader, 4), "little")
    with Departure([pid]) as departure:
        signal.pidfd_send_signal(parent.pidfd, signal.SIGKILL)
        assert departure.wait(10) == []
    parent.reap()
    os.close(reader)


def test_name_is_what_ps_shows(run_in_child: RunInChild) -> None:
    def name() -> str:
        name_process("cowd-opener")
        return read_status(os.getpid())["Name"]

    assert run_in_child(name) == "cowd-opener"


# In system calls


def count_filters() -> tuple[str, str]:
    """Return mode and number of the filters of the calling process."""
    status = read_status(os.getpid())
    return status["Seccomp"], status["Seccomp_filters"]


@needs_libseccomp
def test_filter_holds_all_threads_and_adds_to_the_one_before(run_in_child: RunInChild) -> None:
    """Of a worker's many threads none may be left out, whichever loads the filter."""

    def load() -> list[int]:
        before = int(read_status(os.getpid())["Seccomp_filters"])
        started, loaded = threading.Event(), threading.Event()
        outcomes: list[int] = []

        def look() -> None:
            started.set()
            loaded.wait()
            outcomes.append(number_of(lambda: os.kill(os.getpid(), 0)))
            outcomes.append(int(read_status(threading.get_native_id())["Seccomp_filters"]) - before)

        thread = threading.Thread(target=look)
        thread.start()
        started.wait()
        close_to_others()
        rules = {**OPENER, "seccomp": ((),)}
        filters = [SystemCallFilter(rules), SystemCallFilter({**rules, "kill": ((),)})]
        for filtered in filters:
            filtered.load()
        loaded.set()
        thread.join()
        return outcomes

    assert run_in_child(load) == [errno.ENOSYS, 2]


@needs_libseccomp
def test_what_is_not_on_the_list_is_not_there_or_as_told(run_in_child: RunInChild) -> None:
    def load() -> list[int]:
        filtered = SystemCallFilter(OPENER, {"kill": errno.EACCES})
        close_to_others()
        filtered.load()
        return [number_of(attempt) for attempt in (os.fork, lambda: os.kill(os.getpid(), 0))]

    assert run_in_child(load) == [errno.ENOSYS, errno.EACCES]


@pytest.mark.parametrize(
    ("name", "value"),
    [("_LIBSECCOMP", "libseccomp.so.0"), ("_SECCOMP_SET_MODE_FILTER", NUMBER_WITHOUT_MEANING)],
)
def test_what_the_machine_has_not_is_left_out(
    run_in_child: RunInChild, monkeypatch: pytest.MonkeyPatch, name: str, value: Any
) -> None:
    """A machine without libseccomp, and a kernel without CONFIG_SECCOMP_FILTER."""
    monkeypatch.setattr(module, name, value)
    filtered = SystemCallFilter({})

    def load() -> tuple[str, str]:
        before = count_filters()
        filtered.load()
        return "same" if count_filters() == before else "changed", count_filters()[0]

    assert not filtered.is_there
    assert run_in_child(load)[0] == "same"


@needs_libseccomp
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="x32 is of x86-64 alone")
def test_system_call_of_another_architecture_ends_all_threads() -> None:
    def call() -> None:
        loaded = threading.Event()

        def make_foreign_call() -> None:
            loaded.wait()
            ctypes.CDLL(None).syscall(X32_BIT | NUMBER_OF_GETUID)

        threading.Thread(target=make_foreign_call, daemon=True).start()
        close_to_others()
        SystemCallFilter(OPENER).load()
        loaded.set()
        select.poll().poll(2000)

    assert fork_child("cowd-test", call, keep=[]).reap() == -signal.SIGSYS


@needs_libseccomp
def test_kernel_that_will_not_say_whether_it_has_filters_raises(
    break_libc: Callable[..., None],
) -> None:
    break_libc("syscall", result=-1, error=errno.EPERM)
    with pytest.raises(PrivilegeError, match="seccomp: Operation not permitted"):
        SystemCallFilter(WORKER)


@needs_libseccomp
def test_rule_that_libseccomp_does_not_take_raises() -> None:
    with pytest.raises(PrivilegeError, match="libseccomp, kill: "):
        SystemCallFilter({"kill": (((6, 4, 0, 0),),)})  # type: ignore[dict-item] # no 7th argument


@needs_libseccomp
@needs_root
def test_filter_that_the_kernel_does_not_take_raises(run_in_child: RunInChild) -> None:
    """Nobody may load one who could gain by exec: whoever forgets no_new_privs learns of it."""

    def load() -> None:
        os.setresuid(UID, UID, UID)
        SystemCallFilter(WORKER).load()

    with pytest.raises(PrivilegeError, match="seccomp: Permission denied"):
        run_in_child(load)


@needs_libseccomp
def test_thread_that_cannot_follow_raises(run_in_child: RunInChild) -> None:
    def load() -> None:
        close_to_others()
        loaded, done = threading.Event(), threading.Event()

        def be_different() -> None:
            module._SECCOMP_FILTER_FLAG_TSYNC = 0  # type: ignore[misc]
            SystemCallFilter(WORKER).load()
            module._SECCOMP_FILTER_FLAG_TSYNC = 1  # type: ignore[misc]
            loaded.set()
            done.wait()

        threading.Thread(target=be_different, daemon=True).start()
        loaded.wait()
        SystemCallFilter(WORKER).load()

    with pytest.raises(PrivilegeError, match="seccomp"):
        run_in_child(load)
