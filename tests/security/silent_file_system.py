# SPDX-License-Identifier: Apache-2.0
"""A FUSE file system of one file, whose FLUSH is never answered: whoever closes it hangs.

Runs as root in the test process, in a thread of its own, straight on /dev/fuse (linux/fuse.h). A
program that executes another while it holds the file open close-on-exec hangs in the middle of
exec, with the lock that every open of its /proc files takes (begin_new_exec() in fs/exec.c).
Nobody in the test process may touch the mount: it would wait for itself.
"""

import ctypes
import errno
import os
import select
import struct
import threading
from pathlib import Path

FILE = "file"
FILE_NODE = 2

# Opcodes and layouts: include/uapi/linux/fuse.h, protocol 7.31 or later.
LOOKUP, FORGET, GETATTR, OPEN, RELEASE, FLUSH, INIT, INTERRUPT = 1, 2, 3, 14, 18, 25, 26, 36
BATCH_FORGET = 42
NO_REPLY = {FORGET, BATCH_FORGET, INTERRUPT}
IN_HEADER = struct.Struct("=IIQQIIII")
OUT_HEADER = struct.Struct("=IiQ")
INIT_OUT = struct.Struct("=IIIIHHIIHH8I")
ATTRIBUTES = struct.Struct("=QQQQQQIIIIIIIIII")
ENTRY_OUT = struct.Struct("=QQQQII")
ATTR_OUT = struct.Struct("=QII")
OPEN_OUT = struct.Struct("=QIi")
VERSION = (7, 31)
READ_BYTES = 1 << 17
MNT_DETACH = 2
MS_NOSUID_NODEV = 2 | 4


class SilentFileSystem:
    """The mount, from construction to `close`.

    Args:
        directory: where it is mounted.

    Raises:
        OSError: there is no FUSE here.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        options = f"fd={self._device},rootmode=40000,user_id=0,group_id=0,allow_other"
        if self._libc.mount(
            b"cowd-test", bytes(directory), b"fuse", MS_NOSUID_NODEV, options.encode()
        ):
            os.close(self._device)
            raise OSError(ctypes.get_errno(), "mount")
        self.flushed = threading.Event()
        """Set once somebody waits for the answer that does not come."""
        self._stop = os.eventfd(0, os.EFD_CLOEXEC)
        self._thread = threading.Thread(target=self._serve, name="silent-file-system")
        self._thread.start()

    @property
    def file(self) -> Path:
        """The file, for other processes to open."""
        return self._directory / FILE

    def close(self) -> None:
        """Unmount, and end every wait: the kernel fails what was never answered."""
        if self._device < 0:
            return
        self._libc.umount2(bytes(self._directory), MNT_DETACH)
        os.eventfd_write(self._stop, 1)
        self._thread.join()
        os.close(self._device)
        os.close(self._stop)
        self._device = -1

    def __enter__(self) -> "SilentFileSystem":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _serve(self) -> None:
        while True:
            readable, _, _ = select.select([self._device, self._stop], [], [])
            if self._stop in readable:
                return
            try:
                request = os.read(self._device, READ_BYTES)
            except OSError as error:
                if error.errno == errno.ENODEV:  # unmounted
                    return
                continue  # interrupted, or the request was withdrawn
            _, opcode, unique, node, *_ = IN_HEADER.unpack_from(request)
            if opcode == FLUSH:
                self.flushed.set()
            elif opcode not in NO_REPLY:
                self._reply(unique, _answer(opcode, node, request[IN_HEADER.size :]))

    def _reply(self, unique: int, answer: bytes | int) -> None:
        error, body = (0, answer) if isinstance(answer, bytes) else (-answer, b"")
        os.write(self._device, OUT_HEADER.pack(OUT_HEADER.size + len(body), error, unique) + body)


def _answer(opcode: int, node: int, body: bytes) -> bytes | int:
    """Return the answer's body, or the number of an error."""
    if opcode == INIT:
        return INIT_OUT.pack(*VERSION, 0, 0, 0, 0, 4096, 1, *[0] * 10)
    if opcode == LOOKUP:
        if body.rstrip(b"\0") != FILE.encode():
            return errno.ENOENT
        return ENTRY_OUT.pack(FILE_NODE, 0, 60, 60, 0, 0) + _attributes(FILE_NODE)
    if opcode == GETATTR:
        return ATTR_OUT.pack(60, 0, 0) + _attributes(node)
    if opcode == OPEN:
        return OPEN_OUT.pack(1, 0, 0)
    return b"" if opcode == RELEASE else errno.ENOSYS


def _attributes(node: int) -> bytes:
    mode = 0o100644 if node == FILE_NODE else 0o40755
    return ATTRIBUTES.pack(node, 0, 0, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)
