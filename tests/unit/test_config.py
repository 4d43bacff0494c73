# SPDX-License-Identifier: Apache-2.0
"""Settings from text and back, what is refused on which line, and what settings decide."""

import re
import tomllib
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from cowdaemon import config, limits
from cowdaemon.config import (
    LIMIT_RANGES,
    ConfigError,
    Grant,
    Group,
    Limits,
    Settings,
    format_settings,
    parse_settings,
    read_settings,
)
from cowdaemon.wire import Detail
from harness.daemon import ROOT
from hypothesis import given
from hypothesis import strategies as st

SOURCE = Path("/etc/cowd/cowd.toml")
SHIPPED = (ROOT / "packaging" / "cowd.toml").read_text()
GROUPS = {
    name: gid
    for gid, name in enumerate(
        ["adm", "staff", "cowd-monitor", '"', "\\", "é", "\U0001f404", "a b", "#", "\x7f\n", "]"]
    )
} | {"synonym-of-adm": 0}

ADM, STAFF = Group("adm", 0), Group("staff", 1)


def parse(text: str) -> Settings:
    return parse_settings(text, SOURCE, GROUPS.get)


def refuse(text: str) -> str:
    """Return the line number and the sentence of a refusal."""
    with pytest.raises(ConfigError) as refusal:
        parse(text)
    told = str(refusal.value)
    assert len(told.splitlines()) == 1
    assert told.startswith(f"{SOURCE}:")
    return told.removeprefix(f"{SOURCE}:")


# What is accepted.


def test_what_is_not_said_has_its_default() -> None:
    assert parse("") == Settings(SOURCE) == replace(Settings(), source=SOURCE)
    assert parse("[access]\n[disclosure]\n[limits]\n") == Settings(SOURCE)
    assert parse("[limits]\nworkers = 9\n").limits == replace(Limits(), workers=9)


def test_defaults_are_those_of_the_limits() -> None:
    assert asdict(Limits()) == {
        "connections": limits.CONNECTIONS,
        "connections_per_uid": limits.CONNECTIONS_PER_UID,
        "workers": limits.WORKERS,
        "workers_per_uid": limits.WORKERS_PER_UID,
        "worker_idle_seconds": limits.WORKER_IDLE_SECONDS,
        "idle_exit_seconds": limits.IDLE_EXIT_SECONDS,
        "worker_memory_mib": limits.WORKER_DATA_BYTES / 2**20,
        "calls_per_worker": limits.CALLS_PER_WORKER,
    }
    assert Limits().worker_memory_bytes == limits.WORKER_DATA_BYTES


def test_descriptors_of_a_worker_suffice_for_the_most_connections() -> None:
    own = 12  # counted in /proc/PID/fd of an idle worker
    groups = 1 + 4 + 1  # being listed, being scanned or done (READING_THREADS), being counted
    sweep = 2 * (groups * limits.TARGETS_TOGETHER + limits.TARGETS_AHEAD + 1)
    calls = sweep * LIMIT_RANGES["calls_per_worker"].maximum
    kept = 2 * limits.TARGETS_KEPT
    connections = 3 * LIMIT_RANGES["connections_per_uid"].maximum
    assert own + calls + kept + connections <= limits.WORKER_DESCRIPTORS


EVERYTHING = """\
[access]
groups = ["adm", 'staff']
[[grant]]
detail = "pages"
group = "staff"
[[grant]]
group = "adm"
detail = "summary"
nice = 7
[disclosure]
full_for_root = true
full_groups = ["staff"]
[limits]
connections = 7
connections_per_uid = 6
workers = 5
workers_per_uid = 4
worker_idle_seconds = 3
idle_exit_seconds = 2
worker_memory_mib = 0x200
calls_per_worker = 1
"""


def test_everything_can_be_said() -> None:
    assert parse(EVERYTHING) == Settings(
        SOURCE,
        (ADM, STAFF),
        (Grant(*STAFF, Detail.PAGES), Grant(*ADM, Detail.SUMMARY, 7)),
        True,
        (STAFF,),
        Limits(7, 6, 5, 4, 3, 2, 512, 1),
    )


def test_form_of_the_toml_makes_no_difference() -> None:
    table = '[[grant]]\n"group" = "adm"\ndetail = "pages"\n[limits]\nworkers = 9\n'
    inline = "grant = [{group = 'adm', detail = 'pages'}]\nlimits.workers = 9\n"
    assert parse(table) == parse(inline) == parse(inline.replace("\n", "\r\n"))


@pytest.mark.parametrize("key", LIMIT_RANGES)
def test_limits_have_a_least_and_a_most(key: str) -> None:
    least, most, _ = LIMIT_RANGES[key]
    other = ""  # so that one user's share is no more than all
    if f"{key}_per_uid" in LIMIT_RANGES:
        other = f"{key}_per_uid = 1\n"
    elif key.endswith("_per_uid"):
        other = f"{key.removesuffix('_per_uid')} = {most}\n"
    text = f"[limits]\n{other}{key} ="
    for value in least, most:
        assert asdict(parse(f"{text} {value}").limits)[key] == value
    line = text.count("\n") + 1
    for wrong in least - 1, most + 1, -1, 10**4_000:
        assert refuse(f"{text} {wrong}") == f"{line}: limits.{key} must be {least} to {most}"


# What is refused.


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("\n[limit]\n", "2: 'limit' is not known here: did you mean limits?"),
        ("[limits]\nworker = 1", "2: 'worker' is not known here: did you mean workers?"),
        ("workers = 1", "1: 'workers' is not known here: it belongs in limits"),
        ("[access]\nfull_for_root = true", "2: 'full_for_root' is not known here: it belongs in d"),
        ("[network]", "1: 'network' is not known here: known are access, grant, disclosure, limi"),
        ("[grants]\n[[grant]]", "1: 'grants' is not known here: did you mean grant?"),
        ('[[grant]]\ngroup = "adm"\ndetails = "pages"', "3: 'details' is not known here: did yo"),
        ('[[grant]]\ngroup = "adm"\n[grant.detail]', "3: grant.detail must be a text in quotes"),
        ('"a\\nb" = 1', "1: 'a\\nb' is not known here: known are "),
        ("[limits.workers]", "1: limits.workers must be a whole number"),
        ("[[limits]]", "1: limits must be a table"),
        ("limits = 3", "1: limits must be a table"),
        ("[limits]\nworkers = true", "2: limits.workers must be a whole number"),
        ("[limits]\nworkers = 8.0", "2: limits.workers must be a whole number"),
        ('[limits]\nworkers = "8"', "2: limits.workers must be a whole number"),
        ("[disclosure]\nfull_for_root = 1", "2: disclosure.full_for_root must be true or false"),
        ('[access]\ngroups = "adm"', "2: access.groups must be a list, such as ["),
        ('[access]\ngroups = [\n"adm",\n0]', "2: access.groups must be a text in quotes"),
        ('[access]\ngroups = ["adm", "wheel"]', "2: there is no group 'wheel': create it "),
        ('[disclosure]\nfull_groups = ["wheel"]', "2: there is no group 'wheel': create it "),
        ('[[grant]]\n\ngroup = "wheel"\ndetail = "pages"', "3: there is no group 'wheel': create"),
        ('[grant]\ngroup = "adm"\ndetail = "pages"', "1: there may be several of these: write [["),
        ("grant = [1]", "1: grant must be a table"),
        ('\n[[grant]]\ngroup = "adm"', "2: grant.detail is missing"),
        ('[[grant]]\ndetail = "pages"', "1: grant.group is missing"),
        ('[[grant]]\ngroup = "adm"\ndetail = "all"', '3: grant.detail must be "summary" or "pages'),
        ('[[grant]]\ngroup = "adm"\ndetail = "none"', '3: grant.detail must be "summary" or "page'),
        ('[[grant]]\ngroup = "adm"\ndetail = "pages"\nnice = 20', "4: grant.nice must be 0 to 19"),
        ('[[grant]]\ngroup = "adm"\ndetail = "pages"\nnice = -1', "4: grant.nice must be 0 to 19"),
        ('[[grant]]\ngroup = "adm"\ndetail = 2', "3: grant.detail must be a text in quotes"),
        ("[limits]\nworkers = 4\n", "2: limits.workers_per_uid is 8, more than limits.workers, 4"),
        ("[limits]\nworkers_per_uid = 65", "2: limits.workers_per_uid is 65, more than limits.wo"),
        ("limits = {connections = 1}", "1: limits.connections_per_uid is 64, more than limits.co"),
        ("[limits]\nworkers = 1\nworkers = 1", "3: this is not TOML: "),
        ("[limits\nworkers = 1", "1: this is not TOML: "),
    ],
)
def test_what_is_wrong_is_refused_with_its_line(text: str, told: str) -> None:
    assert refuse(text).startswith(told)


@pytest.mark.parametrize("again", ["adm", "synonym-of-adm"])
def test_second_grant_for_a_group_is_refused(again: str) -> None:
    first = '[[grant]]\ngroup = "adm"\ndetail = "pages"\n'
    told = refuse(f'{first}[[grant]]\ndetail = "summary"\ngroup = "{again}"\n')
    assert told.startswith(f"6: group {again} (gid 0) has a grant above")


WORDS = [*re.findall(r"\w+|[^\w\s]|\n", EVERYTHING), "'''", '"""', "x", "1" * 5_000, "[" * 1_000]


@given(st.integers(0, len(EVERYTHING)), st.text() | st.lists(st.sampled_from(WORDS)).map(" ".join))
def test_whatever_is_refused_has_a_line(kept: int, added: str) -> None:
    text = EVERYTHING[:kept] + added
    try:
        parse(text)
    except ConfigError as error:
        told = re.fullmatch(rf"{SOURCE}:(\d+): .+", str(error))
        assert told
        assert 1 <= int(told[1]) <= text.count("\n") + 1


# What is printed.

ANY_GROUP = st.sampled_from([Group(name, gid) for name, gid in GROUPS.items()])
ANY_GROUPS = st.lists(ANY_GROUP).map(tuple)
ANY_GRANT = st.builds(
    lambda group, detail, nice: Grant(*group, detail, nice),
    ANY_GROUP,
    st.sampled_from([Detail.SUMMARY, Detail.PAGES]),
    st.integers(0, 19),
)
ANY_GRANTS = st.lists(ANY_GRANT, unique_by=lambda grant: grant.gid).map(tuple)


@st.composite
def draw_limits(draw: st.DrawFn) -> Limits:
    values: dict[str, int] = {}
    for key, (least, most, _) in LIMIT_RANGES.items():
        total = values.get(key.removesuffix("_per_uid"), most)
        values[key] = draw(st.integers(least, min(most, total)))
    return Limits(**values)


@given(
    st.builds(
        Settings, st.just(SOURCE), ANY_GROUPS, ANY_GRANTS, st.booleans(), ANY_GROUPS, draw_limits()
    )
)
def test_what_is_printed_makes_the_same_settings(settings: Settings) -> None:
    printed = format_settings(settings)
    assert parse(printed) == settings
    assert printed.isascii()


def test_source_is_printed_as_a_comment() -> None:
    odd = Path("/etc/\udcff\n[limits]\nworkers = 1\né")
    printed = format_settings(Settings(odd))
    assert parse(printed) == Settings(SOURCE)
    assert printed.isascii()


def test_shipped_file_says_every_key_with_its_default() -> None:
    grant = Grant("cowd-monitor", GROUPS["cowd-monitor"], Detail.SUMMARY, 10)
    assert parse(SHIPPED) == Settings(SOURCE, grants=(grant,))
    assert tomllib.loads(SHIPPED) == tomllib.loads(format_settings(parse(SHIPPED)))


def test_shipped_file_says_every_range() -> None:
    comments = re.sub(r"\s*#\s*", " ", SHIPPED.partition("[limits]\n")[2])
    said = re.findall(r"\((\d+) to (\d+)", comments)
    assert [tuple(map(int, each)) for each in said] == [
        (least, most) for least, most, _ in LIMIT_RANGES.values()
    ]


# What settings decide.


def test_everybody_may_connect_unless_groups_are_named() -> None:
    assert Settings().may_connect(1000, {1000})
    named = Settings(access_groups=(ADM, Group("x", 7)))
    assert named.may_connect(1000, {1000, 7})
    assert named.may_connect(1000, {0})
    assert not named.may_connect(1000, {1000, 1})
    assert not named.may_connect(7, {1000})
    assert not named.may_connect(1000, set())
    assert named.may_connect(0, {1000})


def test_most_of_the_grants_counts() -> None:
    assert Settings().granted({0, 1}) is Detail.NONE
    settings = parse(EVERYTHING)
    assert settings.granted({0}) is Detail.SUMMARY
    assert settings.granted({0, 1}) is settings.granted({1, 9}) is Detail.PAGES
    assert settings.granted({9}) is settings.granted(()) is Detail.NONE


def test_worker_gives_way_as_little_as_any_grant_says() -> None:
    settings = Settings(
        grants=(Grant("x", 7, Detail.PAGES, 3), Grant(*ADM, Detail.SUMMARY, 10)),
    )
    assert [settings.nice(gids) for gids in ({9}, {ADM.gid}, {7}, {ADM.gid, 7, 9})] == [0, 10, 3, 3]


def test_statistics_are_for_root_and_whoever_has_a_grant() -> None:
    settings = parse(EVERYTHING)
    assert settings.sees_statistics(0, {9})
    assert settings.sees_statistics(1000, {9, ADM.gid})
    assert not settings.sees_statistics(1000, {9})


def test_all_flags_are_for_whom_they_are_configured() -> None:
    assert not Settings().sees_all_flags(0, {0, 1})
    root = Settings(full_for_root=True)
    assert root.sees_all_flags(0, ())
    assert not root.sees_all_flags(1000, {0})
    group = Settings(full_groups=(STAFF,))
    assert group.sees_all_flags(1000, {1000, 1})
    assert not group.sees_all_flags(1, {0})
    assert not group.sees_all_flags(0, {0})


def test_what_is_opened_is_told() -> None:
    assert list(parse("").iter_openings()) == []
    assert list(parse(EVERYTHING).iter_openings()) == [
        f"every process's pages are open to group staff (gid 1), by {SOURCE}",
        f"every process's summaries are open to group adm (gid 0), by {SOURCE}",
        f"all kernel flags of a page are shown to root, by {SOURCE}",
        f"all kernel flags of a page are shown to group staff (gid 1), by {SOURCE}",
    ]


# The file.


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cowd.toml"


def write(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    path.chmod(0o644)


def test_groups_are_those_of_this_machine(path: Path) -> None:
    write(path, b'[[grant]]\ngroup = "root"\ndetail = "pages"\n')
    assert read_settings(path) == Settings(path, grants=(Grant("root", 0, Detail.PAGES),))


@pytest.mark.parametrize("name", ["no such group", "", "\\u0000", "\U0001f404"])
def test_group_that_this_machine_does_not_have_is_refused(path: Path, name: str) -> None:
    write(path, f'[access]\ngroups = ["{name}"]\n'.encode())
    with pytest.raises(ConfigError, match=":2: there is no group "):
        read_settings(path)


def test_file_that_is_not_there_means_the_defaults_only_where_none_is_named(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "DEFAULT_PATH", path)
    assert read_settings(None) == Settings()
    with pytest.raises(ConfigError, match=f"^{path}: No such file"):
        read_settings(path)
    write(path, b"[limits]\nworkers = 9\n")
    assert read_settings(None) == read_settings(path) != Settings(path)


def test_default_file_that_cannot_be_read_is_not_passed_over(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it would have closed must not stand open."""
    monkeypatch.setattr(config, "DEFAULT_PATH", path / "cowd.toml")
    path.touch()
    with pytest.raises(ConfigError, match="Not a directory"):
        read_settings(None)
    path.unlink()
    path.symlink_to("nothing")
    with pytest.raises(ConfigError, match="which is not there"):
        read_settings(None)
    path.unlink()
    path.mkdir()
    path.chmod(0o777)
    with pytest.raises(ConfigError, match="others may change"):
        read_settings(None)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"[limits]\n# \xe9\n", ":2: this is not UTF-8"),
        ("[limits]\n".encode("utf-16"), ":1: this is not UTF-8"),
        (b"[limits]\nworkers = 0\n", ":2: limits.workers must be 1 to 256"),
        (b"#" * 16_385, ": it is longer than 16384 bytes"),
    ],
)
def test_file_that_is_wrong_is_named(path: Path, content: bytes, told: str) -> None:
    write(path, content)
    with pytest.raises(ConfigError, match=f"^{re.escape(f'{path}{told}')}"):
        read_settings(path)


def test_longest_file_is_read(path: Path) -> None:
    write(path, b"#" * 16_384)
    assert read_settings(path) == Settings(path)
