# SPDX-License-Identifier: Apache-2.0
"""Text from elsewhere made fit for a terminal, and messages to the user on standard error."""

import re
import sys
from functools import lru_cache
from typing import Final, Literal
from unicodedata import combining, east_asian_width

__all__ = [
    "MESSAGE_PREFIX",
    "cut_text",
    "decode_path",
    "escape_text",
    "format_size",
    "measure_terminal",
    "measure_text",
    "print_message",
    "wrap_text",
]

MESSAGE_PREFIX: Final = "cowctl: "
"""Of every message on standard error."""
_UNITS: Final = "BKMGTPE"
_WORD: Final = re.compile(r"(?:`[^`]*`|[^ ])+")


def decode_path(path: bytes) -> str:
    r"""Return a file name as text; bytes that are no UTF-8 become `\xNN`."""
    return path.decode("utf-8", "backslashreplace")


@lru_cache(maxsize=4096)  # A path stands in many rows.
def escape_text(text: str) -> str:
    r"""Return `text` with everything that could steer a terminal as `\xNN` or `\uNNNN`.

    File names are chosen by the process that is looked at: control characters, escape sequences,
    marks that reverse the direction of writing, line separators and lone surrogates all go.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escape_char(ord(char)) for char in text)


def _escape_char(code: int) -> str:
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


@lru_cache(maxsize=4096)
def measure_text(text: str) -> int:
    """Return how many columns of a terminal printable `text` takes."""
    if text.isascii():
        return len(text)
    return sum(
        0 if combining(char) else 2 if east_asian_width(char) in "WF" else 1 for char in text
    )


def cut_text(text: str, width: int, *, keep: Literal["start", "end"] = "end") -> str:
    """Return `text` in at most `width` columns. By default the end stays: it tells paths apart."""
    if measure_text(text) <= width:
        return text
    left = width - 1
    kept = 0
    for char in text if keep == "start" else reversed(text):
        left -= measure_text(char)
        if left < 0:
            break
        kept += 1
    return f"…{text[len(text) - kept :]}" if keep == "end" else f"{text[:kept]}…"


def wrap_text(text: str, width: int) -> list[str]:
    """Return printable `text` as lines of at most `width` columns.

    They are broken at blanks if possible, and inside a command, between backquotes, only if not.
    """
    lines = [""]
    for word in _WORD.findall(text):
        joined = f"{lines[-1]} {word}" if lines[-1] else word
        if measure_text(joined) <= width:
            lines[-1] = joined
            continue
        if lines[-1]:
            lines.append("")
        for char in word:
            if lines[-1] and measure_text(lines[-1] + char) > width:
                lines.append("")
            lines[-1] += char
    return lines


def format_size(size_bytes: int) -> str:
    """Return a size for people: the largest unit of 1024 that keeps it above 1, as in `4K`."""
    power = min(max(size_bytes.bit_length() - 1, 0) // 10, len(_UNITS) - 1)
    number = f"{size_bytes / 1024**power:.1f}".removesuffix(".0")
    return f"{number}{_UNITS[power]}"


def measure_terminal() -> int:
    """Return the width of the terminal, or what COLUMNS says."""
    import shutil  # With all that unpacks archives.

    return shutil.get_terminal_size().columns


def print_message(message: str) -> None:
    """Write lines to standard error, each with the name of the program.

    On a terminal, what is too long for a line goes on in the next, broken at a blank.
    """
    width = measure_terminal() if sys.stderr.isatty() else sys.maxsize
    width -= len(MESSAGE_PREFIX)
    for line in map(escape_text, message.splitlines()):
        first, *rest = [line] if measure_text(line) <= width else wrap_text(line, max(1, width))
        print(MESSAGE_PREFIX + first, file=sys.stderr)
        for part in rest:
            print(" " * len(MESSAGE_PREFIX) + part, file=sys.stderr)
