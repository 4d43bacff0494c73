# SPDX-License-Identifier: Apache-2.0
"""`cowctl explain`: what the kernel's page flags mean. Needs no daemon."""

from collections.abc import Sequence
from typing import Final

import click

from cowd import KernelPageFlags
from cowd._kpageflags import FlagDescription, describe_flags, parse_flags
from cowd.cli.output import (
    Column,
    Output,
    describe_columns,
    format_word,
    make_parser,
    output_options,
)

__all__ = ["command"]

SCHEMA: Final = "cowd.explain/1"

_COLUMNS: Final[Sequence[Column[FlagDescription]]] = (
    Column("bit", "BIT", "number of the bit", lambda flag: flag.bit, right=True),
    Column("letter", "LETTER", "letter of page-types", lambda flag: flag.letter or None),
    Column("name", "NAME", "name of page-types", lambda flag: flag.name),
    Column("meaning", "MEANING", "what it says of a page", lambda flag: flag.meaning),
)


@click.command(
    "explain",
    epilog=f"""{describe_columns(_COLUMNS)}

\b
Examples:
  cowctl explain 0x5828
  cowctl explain uptodate,swapbacked
  cowctl explain UlMab""",
)
@click.argument("flags", callback=make_parser(parse_flags))
@output_options
def command(flags: KernelPageFlags, output: Output) -> int:
    """Explain kernel page FLAGS, the words of /proc/kpageflags.

    FLAGS is a word (hexadecimal with 0x, or decimal), names, or letters as page-types prints them.
    Bits 0 to 26 are as in linux/kernel-page-flags.h; those above are the kernel's own.
    """
    columns = output.select(_COLUMNS)
    described = list(describe_flags(flags))
    if output.as_json:
        head = {"schema": SCHEMA, "kpageflags": format_word(flags)}
        output.write_json(head, "flags", described, columns)
    else:
        output.write_table(described, columns)
    return 0
