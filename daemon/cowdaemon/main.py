# SPDX-License-Identifier: Apache-2.0
"""The command `cowd`: arguments, log, and from there the broker.

Root. Exit status 0 after a stop signal, 1 if it cannot run (one sentence on standard error says
why), 2 for wrong arguments.
"""

import argparse
import logging
import os
import pwd
import signal
import sys
from pathlib import Path
from typing import Final

from cowdaemon import __version__
from cowdaemon.confinement import PrivilegeError, name_process

__all__ = ["main"]

_DESCRIPTION: Final = """\
Answers, over gRPC on a Unix socket, which pages of a process have been copied, to everybody whom
the kernel would let inspect that process. Usually started by systemd, which hands it its socket.
"""
_EPILOG: Final = """\
examples:
  cowd                                        listen on /run/cowd/cowd.sock
  cowd --socket /run/try/cowd.sock --user daemon
"""


def main(argv: list[str] | None = None) -> int:
    """Run the daemon until it is told to stop; return the exit status."""
    arguments = _parse(argv)
    _set_up_log()
    try:
        _run(arguments.socket, arguments.user)
    except _UnableError as error:
        print(f"cowd: {error}", file=sys.stderr)
        return 1
    return 0


class _UnableError(Exception):
    """cowd cannot run here."""


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "cowd",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"cowd {__version__}")
    parser.add_argument(
        "--socket",
        type=Path,
        metavar="PATH",
        help="socket to make and listen on (default: the one that systemd hands over, "
        "or else /run/cowd/cowd.sock)",
    )
    parser.add_argument(
        "--user",
        default="cowd",
        metavar="NAME",
        help="user that the unprivileged processes run as (default: cowd)",
    )
    return parser.parse_args(argv)


def _set_up_log() -> None:
    handler: logging.Handler = logging.StreamHandler()
    log_file = os.fstat(2)
    # systemd.exec(5): other programs inherit the variable, too.
    if os.environ.get("JOURNAL_STREAM") == f"{log_file.st_dev}:{log_file.st_ino}":
        from systemd.journal import JournalHandler

        handler = JournalHandler(SYSLOG_IDENTIFIER="cowd")
    logging.basicConfig(level=logging.INFO, format="cowd: %(message)s", handlers=[handler])


def _run(socket_path: Path | None, user: str) -> None:
    if os.geteuid() != 0:
        raise _UnableError(
            f"must be run as root, which alone may read page flags: sudo {sys.argv[0]}"
        )
    try:
        if pwd.getpwnam(user).pw_uid == 0:
            raise _UnableError(f"--user {user} is root: name a user without privilege")
    except KeyError:
        raise _UnableError(
            f"there is no user {user}: create it (useradd --system {user}) or name another "
            "with --user"
        ) from None
    try:
        from cowdaemon.broker.kernel_files import KernelError, open_kpageflags
        from cowdaemon.broker.listener import Listener, ListenerError
        from cowdaemon.broker.privileges import read_permitted_capabilities, restrict_capabilities
        from cowdaemon.broker.rooms import Rooms, RoomsError
        from cowdaemon.broker.server import Server, ServerError
    except ModuleNotFoundError as error:
        raise _UnableError(
            f"the Python module {error.name} is missing: apt install python3-systemd, or, for a "
            "virtual environment, pip install '.[daemon]' in a checkout"
        ) from error
    except PrivilegeError as error:  # a filter of system calls did not compile
        raise _UnableError(str(error)) from error
    # Who started us may have left these otherwise, and we rest on them.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    try:
        name_process("cowd-broker")
        permitted = read_permitted_capabilities()
        restrict_capabilities(permitted, permitted)
        kpageflags = open_kpageflags()
        listener = Listener.obtain(socket_path)
    except (PrivilegeError, KernelError, ListenerError) as error:
        raise _UnableError(str(error)) from error
    try:
        rooms = Rooms(listener.path)
        try:
            Server(listener, rooms, kpageflags, user).run()
        finally:
            rooms.close()
    except (RoomsError, ServerError) as error:
        raise _UnableError(str(error)) from error
    finally:
        listener.remove_file()


if __name__ == "__main__":
    sys.exit(main())
