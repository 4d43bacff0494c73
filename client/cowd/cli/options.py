# SPDX-License-Identifier: Apache-2.0
"""What the commands share on the command line: options, their parsing and the form of the help."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar

import click

import cowd
from cowd.cli.candidates import offer_files, offer_list
from cowd.cli.output import Column, Output
from cowd.cli.text import print_message

__all__ = [
    "COMPLETION_VARIABLE",
    "Command",
    "backend_option",
    "make_command",
    "make_parser",
    "note_fallback",
    "socket_option",
]

Parsed = TypeVar("Parsed")

COMPLETION_VARIABLE: Final = "_COWCTL_COMPLETE"
"""What a shell's script for cowctl wants to know is in this variable; named as click names it."""


class Command(click.Command):
    """A command of cowctl.

    Attributes:
        columns: what it can write.
        tables: columns of other tables, by the name of the option that asks for one. JSON has the
            same keys with and without it.
        examples: command lines, and what each does.
    """

    columns: Sequence[Column[Any]]
    tables: Mapping[str, Sequence[Column[Any]]]
    examples: Mapping[str, str]

    def format_epilog(
        self,
        ctx: click.Context,  # noqa: ARG002
        formatter: click.HelpFormatter,
    ) -> None:
        """Write the columns and the examples."""
        lists = {
            "Columns:": _list_columns(self.columns),
            **{
                f"Columns with --{name.replace('_', '-')}:": _list_columns(columns)
                for name, columns in self.tables.items()
            },
            "Examples:": [*self.examples],
        }
        for heading, lines in lists.items():
            if lines:
                formatter.write_paragraph()
                formatter.write(
                    "".join(f"  {line}\n" for line in [heading, *map("  ".__add__, lines)])
                )

    def choose_columns(self, arguments: Mapping[str, Any]) -> Sequence[Column[Any]]:
        """Return the columns of what the command line asks for."""
        if not arguments.get("as_json"):
            for name, columns in self.tables.items():
                if arguments.get(name):
                    return columns
        return self.columns


def _list_columns(columns: Sequence[Column[Any]]) -> list[str]:
    return [f"{each.heading:<11} {each.help}" for each in columns]


def _iter_columns(ctx: click.Context) -> Iterator[tuple[str, str]]:
    """Yield what may be listed in --output."""
    if isinstance(ctx.command, Command):
        columns = ctx.command.choose_columns(ctx.params)
        yield from ((column.heading, column.help) for column in columns)


_OUTPUT_OPTIONS: Final = (
    click.Option(["-J", "--json", "as_json"], is_flag=True, help="Write JSON."),
    click.Option(
        ["-o", "--output", "columns"],
        metavar="[+]LIST",
        help="Columns to show, between commas; with + after the usual ones.",
        shell_complete=offer_list(_iter_columns, "+"),
    ),
    click.Option(["-b", "--bytes", "as_bytes"], is_flag=True, help="Sizes in bytes."),
    click.Option(["-n", "--noheadings"], is_flag=True, help="No line of headings."),
    click.Option(["-r", "--raw"], is_flag=True, help="One blank between columns."),
    click.Option(
        ["--color"],
        type=click.Choice(["auto", "always", "never"]),
        default="auto",
        help="Colours: auto is on a terminal, unless NO_COLOR is set.",
    ),
)

socket_option = click.option(
    "--socket",
    metavar="PATH",
    callback=lambda ctx, _, path: path or ctx.obj,
    shell_complete=offer_files,
    help=f"The daemon's socket. Default: COWD_SOCKET, or {cowd.DEFAULT_ADDRESS}.",
)

backend_option = click.option(
    "--backend",
    type=click.Choice(cowd.BACKENDS),
    default="auto",
    help="Who is asked: the daemon; the kernel alone (local), which tells no kernel flags; or, by "
    "default, the daemon, and the kernel if the daemon cannot be reached or refuses.",
)


def note_fallback(error: cowd.Error, lacking: str = ", which tells no kernel flags") -> None:
    """Tell the user that the daemon did not answer, and that the kernel alone is asked."""
    print_message(f"note: {error}")
    print_message(f"note: asking the kernel alone{lacking}")


def make_command(
    name: str,
    columns: Sequence[Column[Any]],
    examples: Mapping[str, str],
    tables: Mapping[str, Sequence[Column[Any]]] | None = None,
) -> Callable[[Callable[..., int]], Command]:
    """Return a decorator for a command that writes `columns`, if any, to its argument `output`.

    Args:
        name: of the command.
        columns: as in `Command`.
        examples: as in `Command`.
        tables: as in `Command`.
    """

    def decorate(function: Callable[..., int]) -> Command:
        @functools.wraps(function)
        def call(**arguments: Any) -> int:  # noqa: ANN401 (whatever click hands over)
            available = command.choose_columns(arguments)
            chosen = {str(each.name): arguments.pop(str(each.name)) for each in _OUTPUT_OPTIONS}
            return function(output=Output(available, **chosen), **arguments)

        command = click.command(name, cls=Command)(call if columns else function)
        command.columns, command.tables, command.examples = columns, tables or {}, examples
        if columns:
            command.params += _OUTPUT_OPTIONS
        return command

    return decorate


def make_parser(
    parse: Callable[[str], Parsed],
) -> Callable[[click.Context, click.Parameter, str | None], Parsed | None]:
    """Return a callback for an argument that `parse` reads, or refuses with ValueError."""

    def convert(ctx: click.Context, param: click.Parameter, text: str | None) -> Parsed | None:
        try:
            return None if text is None else parse(text)
        except ValueError as error:
            raise click.BadParameter(str(error), ctx, param) from error

    return convert
