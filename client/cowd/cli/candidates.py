# SPDX-License-Identifier: Apache-2.0
"""What a shell is offered for the word that somebody is typing: processes, mappings, names, files.

Runs with the caller's own rights, each time that Tab is pressed: what cannot be looked at is not
offered, and nothing is an error. What is completed stands on a command line, unquoted, so names
that somebody else chose are offered only if a shell takes them as they are.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final, TypeAlias

import click

import cowd
from cowd._kpageflags import FLAG_DESCRIPTIONS
from cowd.cli.processes import find_process, iter_inspectable
from cowd.cli.text import decode_path, escape_text

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

__all__ = [
    "iter_flags",
    "iter_mapping_names",
    "iter_names",
    "iter_only_pids",
    "iter_pids",
    "iter_ranges",
    "iter_users",
    "iter_words",
    "offer",
    "offer_files",
    "offer_list",
]

Candidates: TypeAlias = Iterable[tuple[str, str]]
"""Words to choose from, each with a help text, or with ""."""
Complete: TypeAlias = "Callable[[click.Context, click.Parameter, str], list[CompletionItem]]"
"""What click calls with what has been typed of a word."""

_PLAIN: Final = re.compile(r"[\w/][\w@%+./-]*", re.ASCII)
"""Neither what shells take for something else, nor what their scripts for cowctl split words at."""
_MOST_MAPPINGS: Final = 1_000
"""Offered: nobody chooses among more."""


def offer(find: Callable[[click.Context], Candidates]) -> Complete:
    """Return what completes a word to one of those that `find` finds."""

    def complete(ctx: click.Context, _: click.Parameter, typed: str) -> "list[CompletionItem]":
        return _make_items(each for each in find(ctx) if each[0].startswith(typed))

    return complete


def offer_list(find: Callable[[click.Context], Candidates], marker: str = "") -> Complete:
    """Return what completes the last of several words between commas, in upper or lower case.

    Args:
        find: finds the words.
        marker: may stand before the first one.
    """

    def complete(ctx: click.Context, _: click.Parameter, typed: str) -> "list[CompletionItem]":
        start = typed.rfind(",") + 1
        if not start and marker and typed.startswith(marker):
            start = len(marker)
        before, part = typed[:start], typed[start:]
        listed = before.removeprefix(marker).lower().split(",")
        return _make_items(
            (before + (word.lower() if part.islower() else word), meaning)
            for word, meaning in find(ctx)
            if word.lower().startswith(part.lower()) and word.lower() not in listed
        )

    return complete


def offer_files(
    ctx: click.Context,  # noqa: ARG001
    param: click.Parameter,  # noqa: ARG001
    typed: str,
) -> "list[CompletionItem]":
    """Have the shell complete a path."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(typed, type="file")]


def iter_words(ctx: click.Context) -> Iterator[tuple[str, str]]:
    """Yield what the arguments of `query` may go on with: pids, or ranges of the process."""
    words = _get_words(ctx)
    is_named = ctx.params.get("name") is not None
    if not words and not is_named:
        yield from iter_pids(ctx)
    elif len(words) + is_named == 1:
        yield from iter_ranges(ctx)


def iter_only_pids(ctx: click.Context) -> Iterator[tuple[str, str]]:
    """Yield what the only argument of a command may be: a process, if none is named."""
    if not _get_words(ctx) and ctx.params.get("name") is None:
        yield from iter_pids(ctx)


def iter_pids(ctx: click.Context) -> Iterator[tuple[str, str]]:  # noqa: ARG001
    """Yield the processes that the caller may inspect."""
    yield from ((str(pid), name) for pid, name in iter_inspectable())


def iter_ranges(ctx: click.Context) -> Iterator[tuple[str, str]]:
    """Yield the mappings of the process as ranges."""
    for each in _list_mappings(ctx)[:_MOST_MAPPINGS]:
        yield f"{each.start_address:x}-{each.end_address:x}", decode_path(each.path)


def iter_users(ctx: click.Context) -> Iterator[tuple[str, str]]:  # noqa: ARG001
    """Yield the names of users."""
    import pwd

    names = {entry.pw_name: entry.pw_gecos for entry in pwd.getpwall()}
    yield from ((name, text) for name, text in names.items() if _PLAIN.fullmatch(name))


def iter_names(ctx: click.Context) -> Iterator[tuple[str, str]]:  # noqa: ARG001
    """Yield the names of commands that run."""
    names = {name for _, name in iter_inspectable() if _PLAIN.fullmatch(name)}
    yield from ((name, "") for name in sorted(names))


def iter_mapping_names(ctx: click.Context) -> Iterator[tuple[str, str]]:
    """Yield the last parts of the names of the process's mappings."""
    paths = (decode_path(each.path) for each in _list_mappings(ctx))
    names = {path.rpartition("/")[2].strip("[]") for path in paths}
    yield from ((name, "") for name in sorted(names) if _PLAIN.fullmatch(name))


def iter_flags(ctx: click.Context) -> Iterator[tuple[str, str]]:  # noqa: ARG001
    """Yield the names of the kernel's page flags."""
    yield from ((flag.name, flag.meaning) for flag in FLAG_DESCRIPTIONS)


def _get_words(ctx: click.Context) -> Sequence[str]:
    """Return the arguments before: in `args` if click could not parse them to the end."""
    if pid := ctx.params.get("pid"):
        return [str(pid)]
    return ctx.params.get("words") or ctx.args


def _list_mappings(ctx: click.Context) -> Sequence[cowd.Mapping]:
    """Return the mappings of the process that the words before name; none if that fails."""
    name, words = ctx.params.get("name"), _get_words(ctx)
    try:
        if name is not None:
            with find_process(name) as process:
                return cowd.Local().list_mappings(process.pid).mappings
        return cowd.Local().list_mappings(int(words[0])).mappings if words else ()
    except (cowd.Error, click.ClickException, ValueError):
        return ()


def _make_items(found: Candidates) -> "list[CompletionItem]":
    from click.shell_completion import CompletionItem

    return [CompletionItem(word, help=escape_text(meaning) or None) for word, meaning in found]
