# SPDX-License-Identifier: Apache-2.0
"""`cowctl family`: what a process and its children still share, and who has copied what."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from mmap import PAGESIZE
from typing import Final, NamedTuple

import click

import cowd
from cowd import PageCounts
from cowd.cli.bars import draw_bar
from cowd.cli.options import make_command, socket_option
from cowd.cli.output import Column, Json, Output
from cowd.cli.processes import find_process, read_name
from cowd.cli.progress import show_progress
from cowd.cli.symbols import BY_SHARE, draw_legend
from cowd.cli.targets import name_option, parse_pid, words_argument
from cowd.cli.text import format_size, print_message, wrap_text

__all__ = ["command"]

SCHEMA: Final = "cowd.family/1"


class _Row(NamedTuple):
    """A child, or a group of memory of one or of all of them.

    Attributes:
        pid: of the child; None for all of them.
        group: of memory; None for all of it.
        shares: number of pages of each sort.
        child: the child; None for all of them.
    """

    pid: int | None
    command: str | None
    group: str | None
    shares: cowd.Shares
    child: cowd.Child | None


def _draw(row: _Row, width: int) -> list[tuple[str, str]]:
    return draw_bar(
        [(symbol, getattr(row.shares, name)) for name, symbol in BY_SHARE.items()], width
    )


def _make_share(
    name: str, heading: str, text: str, *, in_table: bool = True, notable: bool = False
) -> Column[_Row]:
    """Return the column of one of the sorts of pages."""

    def count(row: _Row) -> int:
        number: int = getattr(row.shares, name)
        return number

    return Column(
        f"{name}_page_count",
        heading,
        text,
        count,
        right=True,
        counts_pages=True,
        in_table=in_table,
        style=lambda row: BY_SHARE[name].style if notable and count(row) else "",
    )


def _list_groups(row: _Row) -> Json:
    """Return the groups of a child's memory as JSON has them."""
    if row.child is None:
        return None
    return [
        {
            "group": group.value,
            **{f"{name}_page_count": count for name, count in asdict(shares).items()},
        }
        for group, shares in row.child.groups.items()
    ]


_PID: Final[Column[_Row]] = Column("pid", "PID", "of the child", right=True)
_COMMAND: Final[Column[_Row]] = Column(
    "command", "COMMAND", "name of the child's command", gives_way=True
)
_GROUP: Final[Column[_Row]] = Column(
    "group", "GROUP", "heap, stack, anonymous, library, file, shared, special"
)
_BAR: Final[Column[_Row]] = Column(
    "bar", "BAR", "share of each of these, drawn; on a terminal", in_json=False, draw=_draw
)
_SHARES: Final[Sequence[Column[_Row]]] = (
    _make_share("shared", "SHARED", "both have the same page, in memory or swapped out"),
    _make_share(
        "copied_by_child",
        "BY-CHILD",
        "by the child, which wrote first; the parent has what was there",
        notable=True,
    ),
    _make_share(
        "copied_by_parent",
        "BY-PARENT",
        "by the parent, which wrote first; the child has what was there",
        notable=True,
    ),
    _make_share(
        "both",
        "BOTH",
        "each has written since, or made its own at the same address",
        notable=True,
    ),
    _make_share(
        "different",
        "DIFFER",
        "each has its own, and it cannot be told who has written",
        notable=True,
    ),
    _make_share("own", "OWN", "anonymous memory that the child alone has there"),
    _make_share(
        "parent_only", "PARENT-ONLY", "anonymous memory that the parent alone has", in_table=False
    ),
    _make_share(
        "file_only", "FILE-ONLY", "pages of files that one of them has mapped in", in_table=False
    ),
    _make_share("neither", "NEITHER", "addresses without a page in either", in_table=False),
    _make_share("unknown", "UNKNOWN", "pages that could not be compared", in_table=False),
)

_COLUMNS: Final[Sequence[Column[_Row]]] = (
    _PID,
    _COMMAND,
    _BAR,
    *_SHARES,
    Column(
        "resident_page_count",
        "RESIDENT",
        "pages of the child in memory, as Rss in smaps",
        lambda row: row.child.page_counts.resident if row.child else None,
        right=True,
        counts_pages=True,
        in_table=False,
    ),
    Column(
        "start_time_ticks",
        "START",
        "when the child started, in clock ticks since boot",
        lambda row: row.child.start_time_ticks if row.child else None,
        right=True,
        in_table=False,
    ),
    Column("groups", "GROUPS", "the same by group of memory", _list_groups, in_table=False),
)
_GROUP_COLUMNS: Final[Sequence[Column[_Row]]] = (_PID, _GROUP, _BAR, *_SHARES)


@make_command(
    "family",
    _COLUMNS,
    {
        "cowctl family 4711": "Process 4711 and each of its children.",
        "cowctl family -C gunicorn --by-group": "The heap, the libraries and so on of each child "
        "apart.",
        "cowctl family 4711 -o PID,SHARED,BY-CHILD,OWN,RESIDENT": "The same with other columns.",
        "cowctl family -J 4711 | jq '.children[].copied_by_child_page_count'": "For programs: how "
        "many pages each child has copied.",
    },
    tables={"by_group": _GROUP_COLUMNS},
)
@words_argument("{PID | -C NAME}")
@name_option
@click.option(
    "--by-group",
    is_flag=True,
    help="A row for each group of memory of each child: heap, libraries, and so on.",
)
@socket_option
def command(
    words: Sequence[str],
    name: str | None,
    by_group: bool,
    socket: str | None,
    output: Output[_Row],
) -> int:
    """Show what a process and its children still share.

    The process is PID, or the only one whose command is called NAME but for its own children.
    Children of children are not looked at.

    After a fork both have the same pages. Who writes to one first makes a copy: BY-CHILD and
    BY-PARENT say who did. BOTH is where both have pages of their own by now: each wrote since the
    fork, or each made memory of its own at the same address. To tell takes the daemon. On a
    terminal, the groups of memory of all children together come last.
    """
    given_pid = parse_pid(words, name)
    with nullcontext() if name is None else find_process(name, with_children=True) as named:
        pid = named.pid if named else given_pid
        with show_progress(f"Comparing process {pid} with its children"):
            family = cowd.family(pid, address=socket)
    for child_pid, error in family.skipped:
        print_message(f"note: child {child_pid} is left out: {error}")
    if not family.children:
        print_message(f"note: process {pid} has no child to compare with")
        if output.is_for_person:
            return 0
    rows = list(_iter_groups(family) if by_group and not output.as_json else _iter_children(family))
    if output.is_for_person:
        if named:
            print_message(f"note: {name} is process {pid}")
        output.write(*wrap_text(describe(family), output.width), "")
        output.write(*_draw_legend(rows, output.width, output.paint), "")
    head: dict[str, Json] = {
        "schema": SCHEMA,
        "pid": pid,
        "start_time_ticks": family.start_time_ticks,
        "page_size_bytes": family.page_size_bytes,
        "parent": {f"{key}_page_count": count for key, count in asdict(family.parent).items()},
        "skipped": [{"pid": child_pid, "message": str(why)} for child_pid, why in family.skipped],
    }
    output.write_rows(head, "children", rows)
    if output.is_for_person and rows and not by_group:
        count = len(family.children)
        title = "By group of memory" + (f", {count} children added up" if count > 1 else "")
        output.write("", *wrap_text(f"{title}:", output.width))
        output.write_table(_add_up(family), [_GROUP, _BAR, *_SHARES[:_SHOWN_COUNT]])
    return 0


_SHOWN_COUNT: Final = sum(column.in_table for column in _SHARES)


def _iter_children(family: cowd.Family) -> Iterator[_Row]:
    for child in family.children:
        yield _Row(child.pid, read_name(child.pid), None, child.total, child)


def _iter_groups(family: cowd.Family) -> Iterator[_Row]:
    for child in family.children:
        name = read_name(child.pid)
        for group, shares in child.groups.items():
            if _is_any(shares):
                yield _Row(child.pid, name, group.value, shares, child)


def _add_up(family: cowd.Family) -> Iterator[_Row]:
    """Yield the groups of all children together."""
    for group in cowd.MemoryGroup:
        parts = [child.groups[group] for child in family.children if group in child.groups]
        shares = sum(parts, cowd.Shares())
        if _is_any(shares):
            yield _Row(None, None, group.value, shares, None)


def _is_any(shares: cowd.Shares) -> bool:
    """Whether there is anything to show of them."""
    return any(getattr(shares, name) for name in BY_SHARE)


def _draw_legend(
    rows: Iterable[_Row], width: int, paint: Callable[[str, str], str]
) -> Iterable[str]:
    """Return what the characters of bars mean, those that are there."""
    seen = [
        symbol
        for name, symbol in BY_SHARE.items()
        if any(getattr(row.shares, name) for row in rows)
    ]
    return draw_legend(seen, width, paint) if seen else ()


def describe(family: cowd.Family) -> str:
    """Say in words what a family shares, as far as sums by child tell; there is a child.

    How much all of them share at once is not known, so that is not said: of each child it is. A
    page that a child has written to is its own. One that the parent has written to differs from
    that of every child that was there before, and those may share theirs: it counts once.
    """
    shares = [child.total for child in family.children]
    is_one = len(shares) == 1
    least = "" if is_one else "at least "
    shared = [_say(extreme(each.shared for each in shares)) for extreme in (min, max)]
    by_children = sum(each.copied_by_child + each.both for each in shares)
    by_parent = max(each.copied_by_parent + each.both for each in shares)
    others = max(each.copied_by_parent + each.different for each in shares)
    untold = sum(each.different for each in shares)
    unknown = sum(each.unknown for each in shares)
    text = f"Of the {_say(_count_pages(family.parent))} that process {family.pid} has, "
    text += f"its child {family.children[0].pid} shares " if is_one else "each of its "
    text += "" if is_one else f"{len(shares)} children shares "
    text += " to ".join(dict.fromkeys(shared)) + ". "
    if by_children + others:
        text += f"Copies cost {least}{_say(by_children + others)}"
        if by_children + by_parent:
            text += ": the child has " if is_one else ": the children together have "
            text += f"written to {_say(by_children)}, or made it anew, the parent to "
            text += f"{least}{_say(by_parent)}"
        text += "."
    else:
        text += "Nothing has been copied." if not unknown else "No copy has been found."
    if untold:
        text += f" Of {_say(untold)} it cannot be told who has written."
    if unknown:
        text += f" {_say(unknown)} could not be compared."
    return text


def _count_pages(counts: PageCounts) -> int:
    """Return how many pages a process has, in memory or swapped out."""
    return counts.resident + counts.anon_swapped


def _say(page_count: int) -> str:
    return format_size(page_count * PAGESIZE)
