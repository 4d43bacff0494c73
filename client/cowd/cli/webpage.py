# SPDX-License-Identifier: Apache-2.0
"""A page for browsers around a picture: one file that loads nothing from anywhere. Pure."""

import html
from collections.abc import Iterator, Sequence
from mmap import PAGESIZE
from typing import Final

from cowd.cli.drawing import COLORS, Picture, name_mapping
from cowd.cli.pictures import SORTS, Row
from cowd.cli.text import format_size

__all__ = ["make_webpage"]

_STYLE: Final = """
body { font-family: "DejaVu Sans", Verdana, sans-serif; color: #1a1a1a; background: #fff;
  margin: 0 auto; max-width: %dpx; }
svg { width: 100%%; height: auto; }
svg [id^="row-"] { pointer-events: all; }
svg [id^="row-"]:hover path { stroke: #1a1a1a !important; stroke-width: 1.5 !important; }
table { border-collapse: collapse; margin: 0 28px 28px; font-size: 13px; }
th, td { padding: 3px 10px; text-align: right; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child { text-align: left; overflow-wrap: anywhere; }
.sort { display: inline-block; width: 11px; height: 11px; margin-right: 5px; }
"""


def make_webpage(picture: Picture, svg: bytes) -> bytes:
    """Return the page.

    Args:
        picture: what the picture shows.
        svg: the picture, as `cowd.cli.drawing.draw` makes it.
    """
    title = html.escape(f"The pages of {picture.title}")
    text = svg.decode()
    drawn = f'<svg role="img" aria-label="{title}"' + text[text.index("<svg") + len("<svg") :]
    for number, row in enumerate(picture.rows):
        # What a browser shows of what the pointer is on.
        told = html.escape("\n".join(_iter_lines(row)))
        group = f'<g id="row-{number}">'
        drawn = drawn.replace(group, f"{group}<title>{told}</title>")
    return (
        "<!DOCTYPE html>\n"
        f'<html lang="en"><head><meta charset="utf-8"><title>{title}</title>\n'
        f"<style>{_STYLE % picture.width}</style></head>\n<body>\n{drawn}\n"
        f"{''.join(_iter_table(picture))}</body></html>\n"
    ).encode()


def _iter_lines(row: Row) -> Iterator[str]:
    """Yield what there is to know about a mapping."""
    mapping = row.mapping
    yield name_mapping(row)
    yield f"{mapping.start_address:x}-{mapping.end_address:x} {mapping.permissions}"
    for symbol, count in zip(SORTS, row.totals, strict=True):
        if count:
            noun = "page" if count == 1 else "pages"
            yield f"{symbol.meaning}: {count} {noun}, {format_size(count * PAGESIZE)}"


def _iter_table(picture: Picture) -> Iterator[str]:
    """Yield the lines of a table of the mappings that are drawn, with a line for all of them."""
    sorts = [number for number, count in enumerate(picture.totals) if count]
    yield "<table><thead><tr><th>mapping</th><th>address</th><th>size</th>"
    for number in sorts:
        color = COLORS[SORTS[number]]
        mark = f'<span class="sort" style="background: {color}"></span>'
        yield f"<th>{mark}{SORTS[number].meaning}</th>"
    yield "</tr></thead><tbody>\n"
    for row in picture.rows:
        yield _make_line(
            name_mapping(row),
            f"{row.mapping.start_address:x}",
            row.mapping.size_bytes,
            [row.totals[number] for number in sorts],
        )
    every = [picture.totals[number] for number in sorts]
    yield "</tbody><tfoot>"
    yield _make_line("all, with what is not drawn", "", sum(picture.totals) * PAGESIZE, every)
    yield "</tfoot></table>\n"


def _make_line(name: str, address: str, size_bytes: int, counts: Sequence[int]) -> str:
    cells = [address, format_size(size_bytes)]
    cells += [format_size(count * PAGESIZE) if count else "" for count in counts]
    text = "".join(f"<td>{cell}</td>" for cell in cells)
    return f"<tr><td>{html.escape(name)}</td>{text}</tr>\n"
