# SPDX-License-Identifier: Apache-2.0
"""The command `cowctl`: finds the subcommand, runs it, and turns errors into exit statuses.

Exit status: 0 done; 1 failed; 2 wrong usage; 3 the daemon cannot be reached; 4 permission denied;
130 interrupted. A closed pipe ends the output quietly; output that fails otherwise is said.
"""

import gc
import io
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Final

import click

import cowd
from cowd.cli.candidates import offer_files
from cowd.cli.options import COMPLETION_VARIABLE
from cowd.cli.text import print_message

__all__ = ["EXIT_STATUSES", "cowctl", "main"]

EXIT_STATUSES: Final = {
    0: "done",
    1: "failed",
    2: "wrong usage",
    3: "the daemon cannot be reached",
    4: "permission denied",
    130: "interrupted",
}

_COMMANDS: Final = (
    "query",
    "maps",
    "diff",
    "family",
    "watch",
    "top",
    "plot",
    "status",
    "doctor",
    "explain",
    "demo",
    "export",
    "completion",
)

_EXIT_FAILED: Final = 1
_EXIT_UNREACHABLE: Final = 3
_EXIT_DENIED: Final = 4
_EXIT_INTERRUPTED: Final = 130

_START_HINT: Final = (
    "root starts it with `systemctl start cowd.socket`, or by hand with `cowd`; "
    "COWD_SOCKET or --socket name another place; `cowctl doctor` tells more"
)
_DENIED_HINT: Final = "ask as the user that it runs as (sudo -u USER cowctl ...), or as root"


class _Commands(click.Group):
    """Subcommands by module, imported when asked for: most calls need one."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = import_module(f"cowd.cli.{cmd_name}").command
        return command


@click.group(
    name="cowctl",
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=f"""\b
Examples:
  cowctl family -C gunicorn
  cowctl query 4711 --mapping libfoo.so
  cowctl maps -C redis-server
  cowctl explain 0x5828
  cowctl doctor
  cowctl demo

Exit status: {", ".join(f"{number} {text}" for number, text in EXIT_STATUSES.items())}.""",
)
@click.version_option(cowd.__version__, prog_name="cowctl")
@click.option(
    "--socket",
    metavar="PATH",
    shell_complete=offer_files,
    help="The daemon's socket, for every command.",
)
@click.pass_context
def cowctl(ctx: click.Context, socket: str | None) -> None:
    """Tell which pages of a process have been copied.

    Asks the daemon cowd, or the kernel alone, as the calling user: the kernel decides what you may
    see. The daemon's socket is unix:/run/cowd/cowd.sock, or what COWD_SOCKET or --socket says.
    """
    ctx.obj = socket  # for the command's own --socket to fall back to


def main(argv: Sequence[str] | None = None) -> int:
    """Run cowctl.

    Args:
        argv: arguments without the program's name; None for those of this process.

    Returns:
        The exit status.
    """
    if argv is not None:
        return _run(argv)
    # Nothing to be gained in a program that ends soon, and at the end it looks at all of grpc.
    gc.disable()
    try:
        return _run(sys.argv[1:])
    finally:
        gc.freeze()


def _run(argv: Sequence[str]) -> int:
    if sys.stderr is None:  # Closed by the caller, as stdout may be.
        sys.stderr = io.StringIO()
    if sys.stdout is None:
        print_message("cannot write: standard output is closed")
        return _EXIT_FAILED
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    arguments = list(argv) or ["--help"]
    try:
        if instruction := os.environ.get(COMPLETION_VARIABLE):
            from cowd.cli.completion import answer_shell

            return answer_shell(cowctl, instruction)
        with cowctl.make_context("cowctl", arguments) as ctx:
            status: int = cowctl.invoke(ctx)
            sys.stdout.flush()
            return status
    except click.exceptions.Exit as finish:
        return finish.exit_code
    except click.ClickException as error:
        print_message(error.format_message())
        if isinstance(error, click.UsageError):
            command = error.ctx.command_path if error.ctx else "cowctl"
            print_message(f"try `{command} --help`")
        return error.exit_code
    except cowd.Error as error:
        print_message(str(error))
        if isinstance(error.__cause__, cowd.Unavailable) and not isinstance(
            error, cowd.Unavailable
        ):
            # The kernel alone was asked after that.
            print_message(f"note: {error.__cause__}")
        return _choose_exit_status(error)
    except (KeyboardInterrupt, click.Abort):
        return _EXIT_INTERRUPTED
    except OSError as error:  # Of standard output: others do not get here.
        # Python flushes at exit: let that go nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # Whoever read has seen enough.
            return 0
        print_message(f"cannot write: {error.strerror}")
        return _EXIT_FAILED


def _choose_exit_status(error: cowd.Error) -> int:
    if isinstance(error, cowd.Unavailable):
        if error.reason is None:
            print_message(_START_HINT)
        return _EXIT_UNREACHABLE
    if not isinstance(error, cowd.AccessDenied):
        return _EXIT_FAILED
    if error.reason == "ACCESS_DENIED" and os.geteuid():
        print_message(_DENIED_HINT)
    return _EXIT_DENIED


if __name__ == "__main__":
    sys.exit(main())
