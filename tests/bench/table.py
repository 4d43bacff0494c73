# SPDX-License-Identifier: Apache-2.0
"""The table of a run, in Markdown, 80 columns wide. Pure."""

from collections.abc import Sequence

from bench.cases import Case, Outcome, Unit

HEADINGS = ("case, against", "cowd", "against", "ratio", "bound", "")
WIDTHS = (30, 8, 8, 5, 6, 4)
DIGITS = 3


def format_head() -> list[str]:
    """Return the first two lines."""
    rule = "|".join(
        ["-" * (WIDTHS[0] + 2), *("-" * (width + 1) + ":" for width in WIDTHS[1:-1]), "-" * 6]
    )
    return [format_row(HEADINGS), f"|{rule}|"]


def format_case(case: Case, outcome: Outcome) -> str:
    """Return the row of a case that was measured."""
    against, ratio, meets = outcome.median_against, outcome.ratio, outcome.meets(case)
    missed = "low" if case.is_floor else "over"
    return format_row(
        [
            case.title,
            format_figure(outcome.median, case.unit),
            "" if against is None else format_figure(against, case.unit),
            "" if ratio is None else format_number(ratio),
            format_bound(case),
            "" if meets is None else "ok" if meets else missed,
        ]
    )


def format_skipped(case: Case) -> str:
    """Return the row of a case that could not be measured."""
    return format_row([case.title, "", "", "", format_bound(case), "none"])


def format_bound(case: Case) -> str:
    """Return what the ratio, or the figure itself, may be."""
    if case.bound is None:
        return ""
    bound = format_figure(case.bound, case.unit) if case.is_absolute else f"{case.bound:g}"
    return f">= {bound}" if case.is_floor else bound


def format_row(cells: Sequence[str]) -> str:
    """Return a row: the first cell and the last to the left, the others to the right."""
    first, *between, last = zip(cells, WIDTHS, strict=True)
    padded = [f"{first[0]:<{first[1]}}", *(f"{cell:>{width}}" for cell, width in between)]
    return f"| {' | '.join([*padded, f'{last[0]:<{last[1]}}'])} |"


def format_figure(figure: float, unit: Unit) -> str:
    """Return a figure in the largest step of its unit that it reaches."""
    size, name = next((step for step in unit.steps if abs(figure) >= step[0]), unit.steps[-1])
    return f"{format_number(figure / size)} {name}"


def format_number(number: float) -> str:
    """Return a number with three digits, or all of those before the point."""
    before = len(f"{abs(int(number))}")
    text = f"{number:.{max(0, DIGITS - before)}f}"
    return text.rstrip("0").rstrip(".") if "." in text and number == int(number) else text
