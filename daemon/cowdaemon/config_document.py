# SPDX-License-Identifier: Apache-2.0
"""TOML that knows on which line each thing is: tomllib does not tell.

Pure, used in main, as root. What is wrong raises ConfigError, which names the line on which the
statement begins.
"""

import tomllib
from pathlib import Path
from typing import Any, Final, TypeVar

__all__ = ["ConfigError", "Document", "Place", "name_key"]

_FORMS: Final = {
    bool: "true or false",
    int: "a whole number",
    str: "a text in quotes",
    list: 'a list, such as ["adm", "staff"]',
    dict: "a table",
}
_Value = TypeVar("_Value", bool, int, str, list[Any], dict[str, Any])
Place = tuple[str | int, ...]
"""The way from the document to a value: keys, and positions in lists."""


class ConfigError(Exception):
    """The settings cannot be used: `FILE:LINE: what is wrong and what to do`.

    Without LINE where it is not about a line: the file is not there, too long, or not safe.
    """


class Document:
    """What is in a text of TOML.

    Args:
        text: the TOML.
        source: the file that it is from, for errors.

    Raises:
        ConfigError: it is not TOML.
    """

    def __init__(self, text: str, source: Path) -> None:
        self._text: Final = text
        self._source: Final = source
        try:
            self._root: Final = tomllib.loads(text)
        except (ValueError, RecursionError) as error:  # of TOML; of huge numbers, and deep nesting
            line = _find_line(text, None)
            raise ConfigError(f"{source}:{line}: this is not TOML: {error}") from error

    def has(self, place: Place) -> bool:
        """Tell whether there is something at `place`."""
        return _has(self._root, place)

    def take(self, place: Place, kind: type[_Value], default: _Value | None = None) -> _Value:
        """Return what is at `place`, or the default if there is nothing.

        Raises:
            ConfigError: it is of another kind, or it is not there and has no default.
        """
        if default is not None and not self.has(place):
            return default
        if not self.has(place):
            raise self.error(place[:-1], f"{name_key(place)} is missing, and has no default")
        value = _look_up(self._root, place)
        if type(value) is not kind:  # to isinstance() True is an int
            raise self.error(place, f"{name_key(place)} must be {_FORMS[kind]}")
        return value

    def count_tables(self, place: Place) -> int:
        """Return how many tables of this name there are, each with a [[header]].

        Raises:
            ConfigError: something else is called so.
        """
        if not self.has(place):
            return 0
        tables = _look_up(self._root, place)
        if not isinstance(tables, list):
            raise self.error(place, f"there may be several of these: write [[{name_key(place)}]]")
        return len(tables)

    def error(self, place: Place, sentence: str) -> ConfigError:
        """Return the error to raise about what is at `place`."""
        return ConfigError(f"{self._source}:{_find_line(self._text, place)}: {sentence}")


def name_key(place: Place) -> str:
    """Return the key's full name: limits.workers."""
    return ".".join(step for step in place if isinstance(step, str))


def _has(document: dict[str, Any], place: Place) -> bool:
    try:
        _look_up(document, place)
    except LookupError:
        return False
    return True


def _look_up(document: dict[str, Any], place: Place) -> Any:  # noqa: ANN401
    found: Any = document
    for step in place:
        found = found[step]
    return found


def _find_line(text: str, place: Place | None) -> int:
    """Return the line on which the statement begins that puts something at `place`.

    Without a place, that of the first statement that is wrong. tomllib itself is asked where a
    statement ends: TOML that is cut at the end of a statement is TOML, and what is cut within one,
    in a list or a text of several lines, is not. Comments and empty lines count as statements.
    """
    lines = text.split("\n")
    begin = 1
    for end in range(1, len(lines) + 1):
        try:
            document = tomllib.loads("\n".join(lines[:end]) + "\n")
        except (ValueError, RecursionError):
            continue
        if place is not None and _has(document, place):
            break
        begin = end + 1
    return begin
