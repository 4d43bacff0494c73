# SPDX-License-Identifier: Apache-2.0
"""The settings of exporters: what they are, and how what is wrong with them is said."""

from pathlib import Path

import pytest
from cowd.exporters.config import (
    ConfigError,
    ExportConfig,
    GroupRule,
    load_config,
    parse_config,
)
from harness.daemon import ROOT

PACKAGED = ROOT / "packaging" / "exporter.toml"


def test_packaged_file_has_every_key_with_its_default():
    text = PACKAGED.read_text()
    assert parse_config(text) == parse_config("") == ExportConfig()
    for key in ("pages_per_second", "scrape_seconds", "cache_seconds", "fork"):
        assert f"\n{key} = " in text
    assert "\nmaximum_group_count = " in text


def test_example_in_the_packaged_file_is_right():
    lines = PACKAGED.read_text().splitlines()
    example = [line.removeprefix("#   ") for line in lines if line.startswith("#   ")]
    config = parse_config("\n".join(example[example.index("[[group]]") :]))
    assert config.groups == (
        GroupRule("web", command=("gunicorn", "gunicorn: *")),
        GroupRule("{unit}", unit=("*.service",)),
    )


def test_all_keys():
    config = parse_config(
        """
        pages_per_second = 0
        scrape_seconds = 1.5
        cache_seconds = 0
        fork = true
        maximum_group_count = 3
        [[group]]
        name = "a {{b}} {unit}"
        command = "x*"
        cgroup = ["/system.slice/*", "/user.slice/*"]
        """
    )
    rule = GroupRule("a {{b}} {unit}", ("x*",), (), ("/system.slice/*", "/user.slice/*"))
    assert rule.placeholders == {"unit"}
    assert config == ExportConfig(0, 1.5, 0, True, 3, (rule,))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "there is no key 'x': keys are pages_per_second, scrape_seconds, "),
        ("fork = 1", "fork is 1: it must be true or false"),
        ("cache_seconds = -1", "cache_seconds is -1: it must be a number from 0 to 86400"),
        ("cache_seconds = nan", "cache_seconds is nan: it must be a number from 0 to 86400"),
        ("scrape_seconds = 'a'", "scrape_seconds is 'a': it must be a number from 0.1 to 300"),
        ("pages_per_second = 1.5", "pages_per_second is 1.5: it must be a whole number from 0 to"),
        ("maximum_group_count = true", "maximum_group_count is True: it must be a whole number"),
        ("group = 1", "group must be a table: write [[group]], then its keys"),
        ("[[group]]", "[[group]] 1 needs a name, such as 'postgres' or '{unit}'"),
        ("[[group]]\nname = ''", "[[group]] 1 needs a name"),
        ("[[group]]\nname = 'a'\n[[group]]\nnmae = 'b'", "[[group]] 2 has no key 'nmae': keys are"),
        (
            "[[group]]\nname = 'a'\nfork = true",
            "[[group]] 1 has no key 'fork': it belongs above the first [[group]]",
        ),
        (
            "[[group]]\nname = '{pid}'",
            "[[group]] 1: the name '{pid}' cannot be read: only {command}",
        ),
        ("[[group]]\nname = '{'", "[[group]] 1: the name '{' cannot be read"),
        ("[[group]]\nname = '{}'", "[[group]] 1: the name '{}' cannot be read"),
        ("[[group]]\nname = '{unit.x}'", "the name '{unit.x}' cannot be read"),
        ("[[group]]\nname = '{unit!r:>9}'", "the name '{unit!r:>9}' cannot be read"),
        ("[[group]]\nname = 'a'\nunit = 1", "[[group]] 1: unit is 1: it must be a pattern"),
        ("[[group]]\nname = 'a'\nunit = ['']", "[[group]] 1: unit is ['']: it must be a pattern"),
        ("fork = ", "Invalid value (at end of document)"),
    ],
)
def test_what_is_wrong_is_said(text, message):
    with pytest.raises(ConfigError) as error:
        parse_config(text)
    assert str(error.value).startswith(message) or message in str(error.value)


def test_a_file_that_is_named_must_be_there(tmp_path, monkeypatch):
    missing = tmp_path / "exporter.toml"
    with pytest.raises(ConfigError, match=f"^{missing}: there is no such file; without --config"):
        load_config(missing)
    monkeypatch.setattr("cowd.exporters.config.DEFAULT_PATH", missing)
    assert load_config() == ExportConfig()
    missing.write_text("fork = true")
    assert load_config() == ExportConfig(fork=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"fork = 2", "fork is 2: it must be true or false"),
        (b"\xff", "it is not UTF-8: save it as that"),
    ],
)
def test_errors_name_the_file(tmp_path, content, message):
    path = tmp_path / "x.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as error:
        load_config(path)
    assert str(error.value) == f"{path}: {message}"


def test_a_directory_is_no_file(tmp_path: Path):
    with pytest.raises(ConfigError, match="cannot be read: Is a directory; it must be a file"):
        load_config(tmp_path)
