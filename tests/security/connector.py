# SPDX-License-Identifier: Apache-2.0
"""Connects to cowd, hands the connection to a child, and executes another program, or ends.

Standard library only; runs as an unprivileged user. The child becomes caller.py once this process
has executed PROGRAM (or has ended, without one), and makes its calls on the connection.

Usage: connector.py SOCKET_PATH CALLER RELAY_PATH [PROGRAM]
"""

import os
import socket
import sys


def main() -> None:
    """Connect, fork, and go on as PROGRAM."""
    socket_path, caller, relay_path, *program = sys.argv[1:]
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(socket_path)  # the backlog takes it, whether or not anybody accepts
    executed, execution = os.pipe()  # close-on-exec: the read end sees its end at exec
    silence, voice = os.pipe()
    if os.fork() == 0:
        os.close(execution)
        if os.read(executed, 1):
            raise AssertionError("the parent did not execute")
        os.set_inheritable(connection.fileno(), True)
        os.set_inheritable(voice, True)  # its end would be the end of the program's input
        arguments = [sys.executable, caller, relay_path, str(connection.fileno())]
        os.execv(sys.executable, arguments)
    if not program:
        os._exit(0)
    os.dup2(silence, 0)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(1, 2)
    os.execv(program[0], program)


if __name__ == "__main__":
    main()
