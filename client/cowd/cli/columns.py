# SPDX-License-Identifier: Apache-2.0
"""Columns that several commands have: of rows with `kpageflags` as a `cowd.Run` has it."""

from typing import Any, Final

from cowd import KernelPageFlags
from cowd._kpageflags import format_letters
from cowd.cli.output import Column, format_word

__all__ = ["FLAGS", "KPAGEFLAGS", "LETTERS"]

LETTERS: Final[Column[Any]] = Column(
    "letters",
    "LETTERS",
    "kernel flags by the letters of page-types",
    lambda row: None if row.kpageflags is None else format_letters(row.kpageflags),
    in_json=False,
)
KPAGEFLAGS: Final[Column[Any]] = Column(
    "kpageflags",
    "KPAGEFLAGS",
    "kernel flags as a word",
    lambda row: format_word(row.kpageflags),
    in_table=False,
)
FLAGS: Final[Column[Any]] = Column(
    "flags",
    "FLAGS",
    "kernel flags by name",
    lambda row: None if row.kpageflags is None else KernelPageFlags(row.kpageflags).names,
    in_table=False,
)
