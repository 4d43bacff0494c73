# SPDX-License-Identifier: Apache-2.0
"""Has the kernel refuse a system call, or skip it and say that it was done (seccomp(2)).

Runs in the daemon under test, as root: imported by what a test has it do before it starts. The log
has a line of what was refused and to whom, so that a test knows that it came to that.
"""

import ctypes
import os
import platform
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from cowdaemon.broker import opener, pairs
from cowdaemon.system import confinement

NUMBERS = {
    "x86_64": {
        "setgroups": 116,
        "setresuid": 117,
        "setresgid": 119,
        "setfsuid": 122,
        "setfsgid": 123,
        "capset": 126,
    },
    "aarch64": {
        "capset": 91,
        "setresuid": 147,
        "setresgid": 149,
        "setfsuid": 151,
        "setfsgid": 152,
        "setgroups": 159,
    },
}
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
"""BPF_LD | BPF_W | BPF_ABS, BPF_JMP | BPF_JEQ | BPF_K, BPF_RET | BPF_K: linux/bpf_common.h."""
ERRNO, ALLOW = 0x00050000, 0x7FFF0000
"""SECCOMP_RET_*, linux/seccomp.h."""
PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2

libc = ctypes.CDLL(None, use_errno=True)


def refuse(call: str, error: int, whom: str) -> None:
    """Have a system call of this process and its children fail; with error 0, do nothing."""
    number = NUMBERS[platform.machine()][call]
    instructions = [
        (LOAD, 0, 0, 0),
        (JUMP_IF_EQUAL, 0, 1, number),
        (RETURN, 0, 0, ERRNO | error),
        (RETURN, 0, 0, ALLOW),
    ]
    program = b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions)
    code = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("@HP", len(instructions), ctypes.addressof(code))
    if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, header, 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp")
    os.write(2, f"refused {call} to {whom}\n".encode())


def refuse_to_openers(uid: int, call: str, error: int, moment: str) -> None:
    """Refuse it to the openers of one uid.

    The moment is "becoming" the caller, or "raising" or "dropping" a capability for an open.
    """
    run_opener, raised = pairs.run_opener, opener.raised
    is_meant = False

    def run(credential: Any, *arguments: Any) -> Any:
        nonlocal is_meant
        is_meant = credential.uid == uid
        if is_meant and moment == "becoming":
            refuse(call, error, "an opener")
        elif is_meant:
            confinement.SystemCallFilter.load = no_filter  # which lets nobody load another
        return run_opener(credential, *arguments)

    def no_filter(_: Any) -> None:
        pass

    @contextmanager
    def raise_in_vain(*arguments: Any) -> Iterator[None]:
        if is_meant and moment == "raising":
            refuse(call, error, "an opener")
        with raised(*arguments):
            if is_meant and moment == "dropping":
                refuse(call, error, "an opener")
            yield

    changed: Callable[..., Any] = raise_in_vain
    pairs.run_opener, opener.raised = run, changed
