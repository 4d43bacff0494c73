# SPDX-License-Identifier: Apache-2.0
"""Reading a file that nobody but root, or who runs this, can have written or put in its place.

Used in main, as root, which then does what the file says. What is not safe raises PermissionError
with a sentence that says what to do.
"""

import os
import stat
from pathlib import Path
from typing import Final

__all__ = ["read_trusted_file"]

_MOST_LINKS: Final = 40  # what the kernel follows: MAXSYMLINKS, linux/namei.h


def read_trusted_file(path: Path, most_bytes: int) -> bytes:
    """Return what is in the file.

    Args:
        path: leads there, through links as well.
        most_bytes: longer files are refused.

    Raises:
        FileNotFoundError: the name is not there. A link to nothing is something else.
        PermissionError: others than root decide what is in the file, or which file it is.
        OSError: it is no regular file, too long, or cannot be read.
    """
    real_path = _resolve(path)
    # A FIFO would make an open without O_NONBLOCK wait for somebody to write.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    descriptor = os.open(real_path, flags)
    try:
        _verify_file(os.fstat(descriptor), real_path)
        with open(descriptor, "rb", closefd=False) as file:
            content = file.read(most_bytes + 1)
    finally:
        os.close(descriptor)
    if len(content) > most_bytes:
        raise OSError(0, f"it is longer than {most_bytes} bytes: shorten it")
    return content


def _resolve(path: Path) -> Path:
    """Return where `path` leads, without links, once root alone decides that.

    From the root downwards: a name in a directory that only root may change stays what it is while
    we look at it, so nothing can be exchanged between this and an open.
    """
    reached = Path()
    ahead = list(reversed(path.absolute().parts))
    links = 0
    while ahead:
        name = ahead.pop()
        if name == "..":
            reached = reached.parent
            continue
        reached /= name  # what a link's absolute target starts with, "/", replaces all before it
        try:
            found = reached.lstat()
        except FileNotFoundError as error:
            if not links:
                raise
            raise OSError(0, f"it leads to {reached}, which is not there") from error
        if stat.S_ISLNK(found.st_mode):
            _verify_owner(found, reached)
            links += 1
            if links > _MOST_LINKS:
                raise OSError(0, f"too many links lead from one to the next at {reached}")
            ahead += reversed(Path(os.readlink(reached)).parts)
            reached = reached.parent
        elif stat.S_ISDIR(found.st_mode):
            _verify_owner(found, reached)
            # With the sticky bit, others may add names, but not change what is root's.
            if _others_may_write(found) and not found.st_mode & stat.S_ISVTX:
                raise PermissionError(
                    0, f"others may change what is in its directory: chmod go-w {reached}"
                )
    return reached


def _verify_file(found: os.stat_result, path: Path) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise OSError(0, "this is no regular file: put one in its place")
    _verify_owner(found, path)
    if _others_may_write(found):
        raise PermissionError(0, f"others than its owner may write to it: chmod go-w {path}")


def _verify_owner(found: os.stat_result, path: Path) -> None:
    if found.st_uid not in (0, os.geteuid()):
        raise PermissionError(
            0, f"{path} belongs to uid {found.st_uid}, who may change it: chown root {path}"
        )


def _others_may_write(found: os.stat_result) -> bool:
    return bool(found.st_mode & (stat.S_IWGRP | stat.S_IWOTH))
