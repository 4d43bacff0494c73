# SPDX-License-Identifier: Apache-2.0
"""The command `cowd`: arguments, log, and from there the broker.

Root. Exit status 0 after a stop signal or an idle exit, 1 if it cannot run (one sentence on
standard error says why), 2 for wrong arguments, 70 for a defect of its own (EX_SOFTWARE).
"""

import argparse
import logging
import os
import pwd
import signal
import socket
import sys
from pathlib import Path
from typing import Final

from cowdaemon import __version__
from cowdaemon.broker.rooms import Rooms, RoomsError
from cowdaemon.config import (
    DEFAULT_PATH,
    ConfigError,
    format_settings,
    read_settings,
)
from cowdaemon.system.confinement import PrivilegeError, name_process
from cowdaemon.system.journal import Journal, JournalHandler
from cowdaemon.system.privileges import read_permitted_capabilities, restrict_capabilities
from cowdaemon.system.processes import FAILED
from cowdaemon.system.readiness import ReadinessError

__all__ = ["main", "make_parser"]

_log: Final = logging.getLogger(__name__)

_DESCRIPTION: Final = """\
Answers, over gRPC on a Unix socket, which pages of a process have been copied,
to everybody whom the kernel would let inspect that process. Usually started by
systemd, which hands it its socket.
"""
_STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_EPILOG: Final = """\
examples:
  cowd                         listen on /run/cowd/cowd.sock
  cowd --socket /run/try/cowd.sock --user daemon
  cowd --check-config          would it start with the settings as they are?
"""


def main(argv: list[str] | None = None) -> int:
    """Run the daemon until it is told to stop; return the exit status."""
    arguments = make_parser().parse_args(argv)
    try:
        if arguments.check_config:
            print(format_settings(read_settings(arguments.config)), end="")
        else:
            _run(arguments.socket, arguments.user, arguments.config)
    except (_UnableError, ConfigError) as error:
        print(f"cowd: {error}", file=sys.stderr)
        return 1
    except Exception:  # noqa: BLE001 - not 1, after which it is no use to start cowd again
        _log.exception("cowd failed")
        return FAILED
    return 0


class _UnableError(Exception):
    """cowd cannot run here."""


_REASONS_TO_END: Final = (_UnableError, ConfigError, PrivilegeError, ReadinessError, RoomsError)


def make_parser() -> argparse.ArgumentParser:
    """Return what reads the arguments, and tells of them."""
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
    parser.add_argument(
        "--config",
        type=Path,
        metavar="PATH",
        help=f"settings to read (default: {DEFAULT_PATH}, if it is there)",
    )
    parser.add_argument(
        "--check-config",
        action="store_true",
        help="read the settings, print all that hold, defaults as well, and exit",
    )
    return parser


def _set_up_log() -> Journal:
    journal = Journal()
    logging.basicConfig(
        level=logging.INFO, format="%(message)s", handlers=[JournalHandler(journal)]
    )
    return journal


def _catch_stop_signals() -> socket.socket:
    """Return what turns readable when a signal says to stop."""
    reader, writer = socket.socketpair()
    reader.setblocking(False)
    writer.setblocking(False)
    signal.set_wakeup_fd(writer.detach(), warn_on_full_buffer=False)  # to the end of the process
    for number in _STOP_SIGNALS:
        signal.signal(number, lambda *_: None)
    return reader


def _run(socket_path: Path | None, user: str, config_path: Path | None) -> None:
    if os.geteuid() != 0:
        raise _UnableError(
            f"must be run as root, which alone may read page flags: sudo {sys.argv[0]}"
        )
    try:
        from cowdaemon.broker.server import Server, ServerError
        from cowdaemon.listener import Listener, ListenerError
    except ModuleNotFoundError as error:
        raise _UnableError(
            f"the Python module {error.name} is missing: apt install python3-systemd, or, for a "
            "virtual environment, pip install '.[daemon]' in a checkout"
        ) from error
    journal = _set_up_log()
    # Who started us may have left these otherwise, and we rest on them.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    try:
        name_process("cowd-broker")
        permitted = read_permitted_capabilities()
        restrict_capabilities(permitted, permitted)
        listener = Listener.obtain(socket_path)
    except (PrivilegeError, ListenerError) as error:
        raise _UnableError(str(error)) from error
    try:
        settings = read_settings(config_path)
        _verify_user(user)
        for opening in settings.iter_openings():
            _log.info("%s", opening)
        rooms = Rooms(listener.path)
        try:
            Server(listener, rooms, settings, journal, user, _catch_stop_signals()).run()
        finally:
            rooms.close()
    except (*_REASONS_TO_END, ServerError) as error:
        listener.turn_away()
        raise _UnableError(str(error)) from error
    finally:
        listener.remove_file()


def _verify_user(user: str) -> None:
    try:
        if pwd.getpwnam(user).pw_uid == 0:
            raise _UnableError(f"--user {user} is root: name a user without privilege")
    except KeyError:
        raise _UnableError(
            f"there is no user {user}: create it (useradd --system {user}) or name another "
            "with --user"
        ) from None


if __name__ == "__main__":
    sys.exit(main())
