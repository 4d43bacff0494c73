# SPDX-License-Identifier: Apache-2.0
"""Connects to cowd, hands the connection to a child, and executes another program, or ends.

Standard library only; runs as whom the test chooses. The child becomes caller.py once this process
has executed its program (or has ended, without one), and makes its calls on the connection.
"""

import argparse
import os
import socket
import sys


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("socket_path")
    parser.add_argument("caller")
    parser.add_argument("relay_path", help="for the child's use")
    parser.add_argument("--ids", help="uid, gid and groups to have while connecting")
    parser.add_argument("--bind", help="name to bind to first; @ stands for an abstract one")
    parser.add_argument("--hold", help="file to hold close-on-exec when executing the program")
    parser.add_argument("--program", help="what to execute; it needs no arguments")
    return parser.parse_args()


def connect(path: str, name: str | None) -> socket.socket:
    """Return a connection, which nobody need have accepted yet: the backlog takes it."""
    connection = socket.socket(socket.AF_UNIX)
    if name:
        connection.bind("\0" + name[1:] if name.startswith("@") else name)
    connection.connect(path)
    return connection


def connect_as(ids: str, path: str, name: str | None) -> socket.socket:
    """Return a connection made with other effective ids and groups than our own."""
    uid, gid, *groups = map(int, ids.split(","))
    own = os.geteuid(), os.getegid(), os.getgroups()
    os.setgroups(groups)
    os.setegid(gid)
    os.seteuid(uid)
    try:
        return connect(path, name)
    finally:
        os.seteuid(own[0])
        os.setegid(own[1])
        os.setgroups(own[2])


def main() -> None:
    """Connect, fork, and go on as the program."""
    options = parse_arguments()
    if options.ids:
        connection = connect_as(options.ids, options.socket_path, options.bind)
    else:
        connection = connect(options.socket_path, options.bind)
    executed, execution = os.pipe()  # close-on-exec: the read end sees its end at exec
    silence, voice = os.pipe()
    if os.fork() == 0:
        os.close(execution)
        if os.read(executed, 1):
            raise AssertionError("the parent did not execute")
        os.set_inheritable(connection.fileno(), True)
        os.set_inheritable(voice, True)  # its end would be the end of the program's input
        arguments = [options.caller, options.relay_path, f"--descriptor={connection.fileno()}"]
        os.execv(sys.executable, [sys.executable, *arguments])
    if not options.program:
        os._exit(0)
    os.dup2(silence, 0)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(1, 2)
    if options.hold:
        os.open(options.hold, os.O_RDONLY)
        os.close(execution)  # the other end would not see what exec closes before exec is over
    os.execv(options.program, [options.program])


if __name__ == "__main__":
    main()
