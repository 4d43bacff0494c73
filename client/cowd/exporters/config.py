# SPDX-License-Identifier: Apache-2.0
"""The settings of exporters: which processes make a group, and what a scrape may cost.

A TOML file, `/etc/cowd/exporter.toml` unless told otherwise. What is wrong in it is an error that
names the key: nothing is guessed.
"""

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from string import Formatter
from typing import Any, Final

__all__ = [
    "DEFAULT_PATH",
    "ConfigError",
    "ExportConfig",
    "GroupRule",
    "load_config",
    "parse_config",
]

DEFAULT_PATH: Final = Path("/etc/cowd/exporter.toml")
_PATTERNS: Final = ("command", "unit", "cgroup")
"""What processes may be told apart by; a group's name may have each between braces."""


class ConfigError(ValueError):
    """The settings cannot be used; the text says where, why, and what would do."""


@dataclass(frozen=True, slots=True)
class GroupRule:
    """Which processes belong to one group, or, by a name with braces, to one of several.

    A process fits if each of the lists that are not empty has a pattern, as of Python's fnmatch,
    that fits. Of several rules, the first that fits decides.

    Attributes:
        name: of the group; `{command}`, `{unit}` and `{cgroup}` stand for what the process has.
        command: name of the command, cut after 15 bytes as in /proc/PID/comm.
        unit: of systemd, the outermost service or scope.
        cgroup: path of the control group, from / on.
    """

    name: str
    command: tuple[str, ...] = ()
    unit: tuple[str, ...] = ()
    cgroup: tuple[str, ...] = ()

    @property
    def placeholders(self) -> frozenset[str]:
        """What stands between braces in the name."""
        return frozenset(field for _, field, _, _ in Formatter().parse(self.name) if field)


@dataclass(frozen=True, slots=True)
class ExportConfig:
    """All settings, with the values that they have when they are left out.

    Attributes:
        pages_per_second: what may be looked at on average, in pages; and as many again compared,
            where a page of two processes counts as four. 0: no bound.
        scrape_seconds: how long one scrape may take. What it did not get to comes first in the
            next; a process that takes half of it alone is given up for a while.
        cache_seconds: how old figures of a process may be before it is looked at again.
        fork: compare parents with their children, too.
        maximum_group_count: further groups are added up as one.
        groups: in the order in which they are tried.
    """

    pages_per_second: int = 200_000
    scrape_seconds: float = 6.0
    cache_seconds: float = 10.0
    fork: bool = False
    maximum_group_count: int = 100
    groups: tuple[GroupRule, ...] = (GroupRule("{command}"),)


def load_config(path: Path | None = None) -> ExportConfig:
    """Return the settings in a file.

    Args:
        path: of the file; None for `DEFAULT_PATH`, and for the defaults if that is not there.

    Raises:
        ConfigError: it cannot be read, or something in it is wrong.
    """
    try:
        text = (path or DEFAULT_PATH).read_text("utf-8")
    except FileNotFoundError as error:
        if path is None:
            return ExportConfig()
        raise ConfigError(
            f"{path}: there is no such file; without --config, the defaults would hold, or "
            f"{DEFAULT_PATH} if that is there"
        ) from error
    except OSError as error:
        raise ConfigError(
            f"{path or DEFAULT_PATH}: cannot be read: {error.strerror}; it must be a file that the "
            "user who exports may read"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path or DEFAULT_PATH}: it is not UTF-8: save it as that") from error
    try:
        return parse_config(text)
    except ConfigError as error:
        raise ConfigError(f"{path or DEFAULT_PATH}: {error}") from error


def parse_config(text: str) -> ExportConfig:
    """Return the settings in the text of a file.

    Raises:
        ConfigError: something in it is wrong.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(str(error)) from error
    values: dict[str, Any] = {}
    for key, value in document.items():
        if key not in _PARSERS:
            raise ConfigError(f"there is no key {key!r}: keys are {', '.join(_PARSERS)}")
        name, parse = _PARSERS[key]
        values[name] = parse(key, value)
    return ExportConfig(**values)


def _parse_number(
    least: float, most: float, *, whole: bool = False
) -> Callable[[str, object], float]:
    def parse(key: str, value: object) -> float:
        kinds = (int,) if whole else (int, float)
        if isinstance(value, kinds) and not isinstance(value, bool) and least <= value <= most:
            return value
        noun = "a whole number" if whole else "a number"
        raise ConfigError(f"{key} is {value!r}: it must be {noun} from {least:g} to {most:g}")

    return parse


def _parse_truth(key: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(f"{key} is {value!r}: it must be true or false")
    return value


def _parse_groups(key: str, value: object) -> tuple[GroupRule, ...]:
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise ConfigError(f"{key} must be a table: write [[group]], then its keys")
    return tuple(_parse_group(f"[[group]] {number}", each) for number, each in enumerate(value, 1))


def _parse_group(place: str, table: Mapping[str, object]) -> GroupRule:
    known = [field.name for field in fields(GroupRule)]
    for key in table:
        if key in _PARSERS:
            raise ConfigError(f"{place} has no key {key!r}: it belongs above the first [[group]]")
        if key not in known:
            raise ConfigError(f"{place} has no key {key!r}: keys are {', '.join(known)}")
    name = table.get("name")
    if not isinstance(name, str) or not name:
        raise ConfigError(f"{place} needs a name, such as 'postgres' or '{{unit}}'")
    patterns = {key: _parse_patterns(f"{place}: {key}", table.get(key, [])) for key in _PATTERNS}
    if not _is_template(name):
        raise ConfigError(
            f"{place}: the name {name!r} cannot be read: only {{command}}, {{unit}} and {{cgroup}} "
            "may stand between braces; write {{ for a brace"
        )
    return GroupRule(name, **patterns)


def _is_template(name: str) -> bool:
    """Whether nothing stands between braces but what a process may be told apart by."""
    try:
        return all(
            field is None or (field in _PATTERNS and not form and not conversion)
            for _, field, form, conversion in Formatter().parse(name)
        )
    except ValueError:
        return False


def _parse_patterns(place: str, value: object) -> tuple[str, ...]:
    patterns = [value] if isinstance(value, str) else value
    if not isinstance(patterns, list) or not all(
        isinstance(each, str) and each for each in patterns
    ):
        raise ConfigError(
            f"{place} is {value!r}: it must be a pattern, such as 'redis-*', or a list"
        )
    return tuple(patterns)


_PARSERS: Final[Mapping[str, tuple[str, Callable[[str, object], object]]]] = {
    "pages_per_second": ("pages_per_second", _parse_number(0, 10**9, whole=True)),
    "scrape_seconds": ("scrape_seconds", _parse_number(0.1, 300)),
    "cache_seconds": ("cache_seconds", _parse_number(0, 86_400)),
    "fork": ("fork", _parse_truth),
    "maximum_group_count": ("maximum_group_count", _parse_number(1, 10_000, whole=True)),
    "group": ("groups", _parse_groups),
}
"""By key of the file: the attribute of ExportConfig, and what reads it."""
