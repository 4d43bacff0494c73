# SPDX-License-Identifier: Apache-2.0
"""`cowctl explain`: what the kernel's page flags mean. Needs no daemon."""

from collections.abc import Sequence
from typing import Final

import click

from cowd import KernelPageFlags
from cowd._kpageflags import FlagDescription, describe_flags, parse_flags
from cowd.cli.candidates import iter_flags, offer_list
from cowd.cli.options import make_command, make_parser
from cowd.cli.output import Column, Output, format_word

__all__ = ["command"]

SCHEMA: Final = "cowd.explain/1"

_COLUMNS: Final[Sequence[Column[FlagDescription]]] = (
    Column("bit", "BIT", "number of the bit", right=True),
    Column("letter", "LETTER", "letter of page-types", lambda flag: flag.letter or None),
    Column("name", "NAME", "name of page-types"),
    Column("meaning", "MEANING", "what it says of a page"),
)


@make_command(
    "explain",
    _COLUMNS,
    {
        "cowctl explain 0x5828": "A word, as in the column KPAGEFLAGS.",
        "cowctl explain uptodate,swapbacked": "Flags by name.",
        "cowctl explain UlMab": "Flags by letter, as in the column LETTERS.",
    },
)
@click.argument("flags", callback=make_parser(parse_flags), shell_complete=offer_list(iter_flags))
def command(flags: KernelPageFlags, output: Output[FlagDescription]) -> int:
    """Explain kernel page FLAGS, the words of /proc/kpageflags.

    FLAGS is a word (hexadecimal with 0x, or decimal), names, or letters as page-types prints them.
    Bits 0 to 26 are as in linux/kernel-page-flags.h; those above are the kernel's own.
    """
    head = {"schema": SCHEMA, "kpageflags": format_word(flags)}
    output.write_rows(head, "flags", describe_flags(flags))
    return 0
