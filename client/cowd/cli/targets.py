# SPDX-License-Identifier: Apache-2.0
"""What a command line is about: a process, by its number or its name, and pages of it."""

import re
from collections.abc import Callable, Sequence
from mmap import PAGESIZE
from typing import Any, Final, TypeVar

import click

import cowd
from cowd import MappingKind
from cowd._runs import Segment, iter_segments
from cowd.cli.candidates import (
    iter_mapping_names,
    iter_names,
    iter_only_pids,
    iter_words,
    offer,
)
from cowd.cli.ranges import AddressRange, align_range, parse_range
from cowd.cli.text import decode_path, print_message

__all__ = [
    "OUT_OF_PAGEMAP",
    "align",
    "choose_segments",
    "mapping_option",
    "name_option",
    "parse_pid",
    "parse_words",
    "words_argument",
]

_Function = TypeVar("_Function", bound=Callable[..., Any])

_PID: Final = click.IntRange(1, 2**31 - 1)
_LARGEST_PID: Final = 1 << 22
"""PID_MAX_LIMIT, include/linux/threads.h."""
_PRIVATE_KINDS: Final = (MappingKind.PRIVATE_FILE, MappingKind.ANONYMOUS)
OUT_OF_PAGEMAP: Final = b"[vsyscall]"
"""The one mapping of Linux that pagemap does not cover: it lies in the kernel's addresses."""

name_option = click.option(
    "-C",
    "--command",
    "name",
    metavar="NAME",
    shell_complete=offer(iter_names),
    help="The process by the name of its command, as `ps -C` has it, instead of PID.",
)

mapping_option = click.option(
    "--mapping",
    "text",
    metavar="TEXT",
    shell_complete=offer(iter_mapping_names),
    help="Only mappings with TEXT in their path or name.",
)


def words_argument(metavar: str) -> Callable[[_Function], _Function]:
    """Return the decorator for what `parse_words` reads, or `parse_pid` without a range."""
    find = iter_words if "[RANGE]" in metavar else iter_only_pids
    return click.argument("words", metavar=metavar, nargs=-1, shell_complete=offer(find))


def parse_pid(words: Sequence[str], name: str | None) -> int:
    """Return the PID, 0 if there is a name instead.

    Raises:
        click.UsageError: it is none, or there is more.
    """
    pid, pages = parse_words(words, name)
    if pages is not None:
        context = click.get_current_context()
        raise click.UsageError(f"{words[-1]!r} is one argument too many", context)
    return pid


def parse_words(words: Sequence[str], name: str | None) -> tuple[int, AddressRange | None]:
    """Return the PID, 0 if there is a name instead, and the range if there is one.

    Raises:
        click.UsageError: they are not that.
    """
    context = click.get_current_context()
    pid = 0
    if name is None:
        if not words:
            raise click.UsageError("missing PID: give one, or -C NAME", context)
        try:
            pid = int(_PID(words[0], ctx=context))
        except click.BadParameter as error:
            raise click.UsageError(
                f"{words[0]!r} is no process id: give a number, or a name with -C", context
            ) from error
        words = words[1:]
    elif words and re.fullmatch(r"0*[0-9]{1,10}", words[0]) and int(words[0]) <= _LARGEST_PID:
        raise click.UsageError(
            "PID and -C exclude each other: leave one of them out; if "
            f"{words[0]} is an address, write 0x{words[0]}",
            context,
        )
    if len(words) > 1:
        raise click.UsageError(f"{words[1]!r} is one argument too many", context)
    try:
        pages = parse_range(words[0]) if words else None
    except ValueError as error:
        raise click.BadParameter(str(error), context, param_hint="'RANGE'") from error
    return pid, pages


def align(pages: AddressRange) -> tuple[int, int]:
    """Return the first address of whole pages and the first one after; say what was rounded.

    Raises:
        click.BadParameter: they end past 2^64.
    """
    try:
        start, end, notes = align_range(pages, PAGESIZE)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="'RANGE'") from error
    for note in notes:
        print_message(note)
    return start, end


def choose_segments(
    listed: cowd.MappingList, wanted: tuple[int, int] | None, text: str | None
) -> list[Segment]:
    """Return what to read, cut at the borders of mappings.

    Args:
        listed: all mappings of the process.
        wanted: addresses to stay between; without them, and without `text`, all that is private.
        text: what the names of mappings must have in them.

    Raises:
        click.ClickException: there is none.
    """
    if wanted is None:
        whole = [Segment(each.start_address, each.end_address, each) for each in listed.mappings]
    else:
        whole = list(iter_segments(listed.mappings, *wanted))
    inside = [(piece, piece.mapping) for piece in whole if piece.mapping]
    if text is not None:
        matching = [(piece, of) for piece, of in inside if text in decode_path(of.path)]
        chosen = [piece for piece, of in matching if of.path != OUT_OF_PAGEMAP]
        where = "in this range " if wanted else ""
        but = " but [vsyscall], whose pages the kernel does not tell of" if matching else ""
        what = f"{where}whose name has {text!r} in it{but}"
    elif wanted is None:
        chosen = [piece for piece, of in inside if of.kind in _PRIVATE_KINDS]
        what = "that is private"
    else:
        return whole
    if not chosen:
        pid = listed.pid
        raise click.ClickException(f"process {pid} has no mapping {what}: see /proc/{pid}/maps")
    return chosen
