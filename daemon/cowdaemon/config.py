# SPDX-License-Identifier: Apache-2.0
"""What an administrator decides: who may connect, what is granted and disclosed, and the limits.

Used in main and the broker, as root. Reading is thin, and refuses a file that anybody but root may
have written; the rest takes values and returns values. Whatever is wrong raises ConfigError, and
the daemon does not start: no setting is guessed, and none is passed over.
"""

import difflib
import grp
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, NamedTuple

from cowdaemon.config_document import ConfigError, Document, Place
from cowdaemon.limits import (
    CALLS_PER_WORKER,
    CONNECTIONS,
    CONNECTIONS_PER_UID,
    IDLE_EXIT_SECONDS,
    MOST_NICE,
    WORKER_DATA_BYTES,
    WORKER_IDLE_SECONDS,
    WORKERS,
    WORKERS_PER_UID,
)
from cowdaemon.system.trusted_files import read_trusted_file
from cowdaemon.wire import Detail

__all__ = [
    "DEFAULT_PATH",
    "LIMIT_RANGES",
    "ConfigError",
    "Grant",
    "Group",
    "Limits",
    "Settings",
    "format_settings",
    "parse_settings",
    "read_settings",
]

DEFAULT_PATH: Final = Path("/etc/cowd/cowd.toml")
_MOST_BYTES: Final = 16_384
"""The commented default is a fifth of it. Finding the line of an error takes the square of it."""
_DETAILS: Final = {"summary": Detail.SUMMARY, "pages": Detail.PAGES}


class Group(NamedTuple):
    """A group by its name in the file, and its number when the file was read."""

    name: str
    gid: int


@dataclass(frozen=True, slots=True)
class Grant:
    """Members of the group are told `detail` of every process, whatever the kernel would say.

    `nice` is the nice value of their workers.
    """

    group: str
    gid: int
    detail: Detail
    nice: int = 0


class LimitRange(NamedTuple):
    """What an administrator may set a limit to, and what it is."""

    minimum: int
    maximum: int
    meaning: str


_MOST_CONNECTIONS_OF_A_WORKER: Final = 128
"""Three descriptors each, beside those of its calls: WORKER_DESCRIPTORS."""
_MOST_WORKERS: Final = 256
"""Each costs the broker three descriptors, and RLIMIT_NOFILE is 1,024 where nobody raised it."""

# What a worker's memory is made of, measured as VmData: 115 MB when idle, 1.6 MB for a connection,
# 3 MB more if that reads no answers, and up to 10 MB for a call; 30 for one that sweeps processes
# with tens of thousands of mappings.
LIMIT_RANGES: Final = {
    # Beyond, it would be no limit: as many as the most workers have with 64 each.
    "connections": LimitRange(1, 16_384, "Connections at once, of all users together."),
    # Those of one uid are all with one worker if it has one set of groups.
    "connections_per_uid": LimitRange(
        1, _MOST_CONNECTIONS_OF_A_WORKER, "Connections at once, of one user. A program needs one."
    ),
    "workers": LimitRange(
        1, _MOST_WORKERS, "Workers at once: one for each user and set of groups, 8 MB each."
    ),
    "workers_per_uid": LimitRange(
        1, _MOST_WORKERS, "Workers at once, of one user, who may connect with different groups."
    ),
    # Less would fork for every call of a script; more would keep memory for who does not return.
    "worker_idle_seconds": LimitRange(
        1, 3_600, "A worker without connections ends after this many seconds."
    ),
    "idle_exit_seconds": LimitRange(
        0, 86_400, "cowd leaves after so long without workers, under systemd. 0: never."
    ),
    # The least serves 16 connections that read no answers. The most is five times what a worker
    # with the most connections and calls takes.
    "worker_memory_mib": LimitRange(
        256, 4_096, "MiB of memory that a worker may use. One that needs more fails its callers."
    ),
    # With the most connections, none of which reads, 16 take 800 MB: still within the default.
    "calls_per_worker": LimitRange(
        1, 16, "Calls that a worker answers at once. More than processors gain nothing."
    ),
}
"""Of each key of [limits]."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Those of cowdaemon.limits that an administrator may change, within LIMIT_RANGES."""

    connections: int = CONNECTIONS
    connections_per_uid: int = CONNECTIONS_PER_UID
    workers: int = WORKERS
    workers_per_uid: int = WORKERS_PER_UID
    worker_idle_seconds: int = WORKER_IDLE_SECONDS
    idle_exit_seconds: int = IDLE_EXIT_SECONDS
    worker_memory_mib: int = WORKER_DATA_BYTES >> 20
    calls_per_worker: int = CALLS_PER_WORKER

    @property
    def worker_memory_bytes(self) -> int:
        """RLIMIT_DATA of a worker."""
        return self.worker_memory_mib << 20


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that is configured; by default, what holds where there is no file.

    `source` is that file. `access_groups` may connect; if there are none, everybody may.
    """

    source: Path | None = None
    access_groups: tuple[Group, ...] = ()
    grants: tuple[Grant, ...] = ()
    full_for_root: bool = False
    full_groups: tuple[Group, ...] = ()
    limits: Limits = Limits()

    def may_connect(self, uid: int, gids: Container[int]) -> bool:
        """Tell whether a caller is answered at all; `gids` has its gid and all its groups."""
        return not self.access_groups or uid == 0 or _has_one_of(gids, self.access_groups)

    def granted(self, gids: Container[int]) -> Detail:
        """Return the most that the caller's groups are granted of every process."""
        details = (grant.detail for grant in self.grants if grant.gid in gids)
        return max(details, default=Detail.NONE)

    def nice(self, gids: Container[int]) -> int:
        """Return the nice value of the caller's worker: the lowest of its groups' grants."""
        return min((grant.nice for grant in self.grants if grant.gid in gids), default=0)

    def sees_statistics(self, uid: int, gids: Container[int]) -> bool:
        """Tell whether the caller may see what cowd has done for all callers."""
        return uid == 0 or self.granted(gids) is not Detail.NONE

    def sees_all_flags(self, uid: int, gids: Container[int]) -> bool:
        """Tell whether the caller sees kpageflags without the disclosure mask."""
        return (uid == 0 and self.full_for_root) or _has_one_of(gids, self.full_groups)

    def iter_openings(self) -> Iterator[str]:
        """Yield a sentence for the log for everything that is opened beyond the default."""
        for grant in self.grants:
            what = "summaries" if grant.detail is Detail.SUMMARY else "pages"
            group = Group(grant.group, grant.gid)
            yield f"every process's {what} are open to {_say(group)}, by {self.source}"
        whom = ["root"] if self.full_for_root else []
        for name in [*whom, *map(_say, self.full_groups)]:
            yield f"all kernel flags of a page are shown to {name}, by {self.source}"


def _has_one_of(gids: Container[int], groups: Iterable[Group]) -> bool:
    return any(group.gid in gids for group in groups)


def _say(group: Group) -> str:
    return f"group {group.name} (gid {group.gid})"


FindGroup = Callable[[str], int | None]
"""Returns the gid of the group of that name, or None if there is none."""

_KEYS: Final = {
    "access": ("groups",),
    "grant": ("group", "detail", "nice"),
    "disclosure": ("full_for_root", "full_groups"),
    "limits": tuple(LIMIT_RANGES),
}
"""Every table and its keys."""


def read_settings(path: Path | None) -> Settings:
    """Return the settings in the file; without a path, in DEFAULT_PATH, which need not be there.

    Raises:
        ConfigError: there is no such file, others than root may change it, or it is wrong.
    """
    source = path or DEFAULT_PATH
    try:
        content = read_trusted_file(source, _MOST_BYTES)
    except OSError as error:
        if path is None and isinstance(error, FileNotFoundError):
            return Settings()
        raise ConfigError(f"{source}: {error.strerror or error}") from error
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{source}:{line}: this is not UTF-8: save the file as such") from error
    return parse_settings(text, source, _find_group)


def _find_group(name: str) -> int | None:
    try:
        return grp.getgrnam(name).gr_gid
    except (KeyError, ValueError):  # ValueError: no group can be called that
        return None


def parse_settings(text: str, source: Path, find_group: FindGroup) -> Settings:
    """Return the settings in `text`, which is TOML; what is not in it has its default.

    Raises:
        ConfigError: it is not TOML, or something in it is unknown, impossible or missing.
    """
    document = Document(text, source)
    _verify_keys(document)
    return Settings(
        source,
        _take_groups(document, ("access", "groups"), find_group),
        _take_grants(document, find_group),
        document.take(("disclosure", "full_for_root"), bool, False),
        _take_groups(document, ("disclosure", "full_groups"), find_group),
        _take_limits(document),
    )


def _verify_keys(document: Document) -> None:
    """Raise for whatever no setting is called, and for tables that are something else."""
    for name in document.take((), dict):
        if name not in _KEYS:
            raise _unknown_key(document, (name,), tuple(_KEYS))
        tables: list[Place] = [(name,)]
        if name == "grant":
            tables = [("grant", number) for number in range(document.count_tables(("grant",)))]
        for table in tables:
            for key in document.take(table, dict):
                if key not in _KEYS[name]:
                    raise _unknown_key(document, (*table, key), _KEYS[name])


def _unknown_key(document: Document, place: Place, known: tuple[str, ...]) -> ConfigError:
    key = str(place[-1])
    near = difflib.get_close_matches(key, known, 1)
    home = [table for table, keys in _KEYS.items() if key in keys]
    if near:
        advice = f"did you mean {near[0]}?"
    elif home:
        advice = f"it belongs in {home[0]}"
    else:
        advice = f"known are {', '.join(known)}"
    return document.error(place, f"{key!r} is not known here: {advice}")


def _take_groups(document: Document, place: Place, find_group: FindGroup) -> tuple[Group, ...]:
    count = len(document.take(place, list, []))
    return tuple(_take_group(document, (*place, number), find_group) for number in range(count))


def _take_group(document: Document, place: Place, find_group: FindGroup) -> Group:
    name = document.take(place, str)
    gid = find_group(name)
    if gid is None:
        raise document.error(
            place, f"there is no group {name!r}: create it (groupadd --system) or name another"
        )
    return Group(name, gid)


def _take_grants(document: Document, find_group: FindGroup) -> tuple[Grant, ...]:
    grants: dict[int, Grant] = {}
    for number in range(document.count_tables(("grant",))):
        group = _take_group(document, ("grant", number, "group"), find_group)
        detail = document.take(("grant", number, "detail"), str)
        if detail not in _DETAILS:
            raise document.error(
                ("grant", number, "detail"), 'grant.detail must be "summary" or "pages"'
            )
        if group.gid in grants:
            raise document.error(
                ("grant", number, "group"), f"{_say(group)} has a grant above: leave one out"
            )
        nice = document.take(("grant", number, "nice"), int, 0)
        if not 0 <= nice <= MOST_NICE:
            raise document.error(("grant", number, "nice"), f"grant.nice must be 0 to {MOST_NICE}")
        grants[group.gid] = Grant(group.name, group.gid, _DETAILS[detail], nice)
    return tuple(grants.values())


def _take_limits(document: Document) -> Limits:
    limits = {}
    for key, default in asdict(Limits()).items():
        least, most, _ = LIMIT_RANGES[key]
        limits[key] = document.take(("limits", key), int, default)
        if not least <= limits[key] <= most:
            raise document.error(("limits", key), f"limits.{key} must be {least} to {most}")
    # Or the lower of the two would mean nothing, and one user could shut out the others.
    for total, share in ("connections", "connections_per_uid"), ("workers", "workers_per_uid"):
        if limits[share] > limits[total]:
            stated = share if document.has(("limits", share)) else total
            raise document.error(
                ("limits", stated),
                f"limits.{share} is {limits[share]}, more than limits.{total}, {limits[total]}, "
                f"for all users together: lower {share}",
            )
    return Limits(**limits)


def format_settings(settings: Settings) -> str:
    """Return TOML that says all settings, and that parse_settings makes the same settings of."""
    by = f"what {str(settings.source)!a} says" if settings.source else "the defaults"
    lines = [
        f"# The settings of cowd: {by}.",
        "",
        "[access]",
        "# Groups whose members may connect, besides root. With none, everybody may.",
        f"groups = {_quote_groups(settings.access_groups)}",
    ]
    for grant in settings.grants:
        lines += [
            "",
            "[[grant]]",
            f"group = {_quote(grant.group)}",
            '# Of every process: "summary", its totals, or "pages", each page as well.',
            f'detail = "{grant.detail.name.lower()}"',
            f"# How far their workers give way to what else runs, 0 to {MOST_NICE}, by default 0.",
            f"nice = {grant.nice}",
        ]
    lines += [
        "",
        "[disclosure]",
        "# Who sees all kernel flags of a page, also those that tell of other users.",
        f"full_for_root = {str(settings.full_for_root).lower()}",
        f"full_groups = {_quote_groups(settings.full_groups)}",
        "",
        "[limits]",
    ]
    defaults = asdict(Limits())
    for key, value in asdict(settings.limits).items():
        least, most, meaning = LIMIT_RANGES[key]
        lines += [
            f"# {meaning} {least} to {most}, by default {defaults[key]}.",
            f"{key} = {value}",
        ]
    return "\n".join([*lines, ""])


def _quote_groups(groups: Iterable[Group]) -> str:
    return f"[{', '.join(_quote(group.name) for group in groups)}]"


def _quote(text: str) -> str:
    def escape(letter: str) -> str:
        is_plain = letter.isascii() and letter.isprintable() and letter not in '"\\'
        return letter if is_plain else f"\\U{ord(letter):08x}"

    return f'"{"".join(map(escape, text))}"'
