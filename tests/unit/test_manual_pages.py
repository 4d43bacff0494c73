# SPDX-License-Identifier: Apache-2.0
"""The manual pages: they can be built, lack nothing, and tell of nothing that is not there."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import asdict
from fnmatch import fnmatch
from importlib import import_module
from pathlib import Path

import click
import pytest
from cowd._kpageflags import FLAG_DESCRIPTIONS
from cowd.cli.main import EXIT_STATUSES
from cowdaemon import config, main
from cowdaemon.config import LIMIT_RANGES, Limits, Settings, parse_settings
from cowdaemon.errors import Reason
from cowdaemon.system.processes import FAILED
from cowdaemon.wire import Detail
from cowproto.v1 import pageflags_pb2
from harness.commands import COMMANDS, list_options
from harness.schemas import locate_schema, read_row, read_schema

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "packaging" / "man"
EPOCH = "1700000000"  # 14 November 2023
COLUMNS = 80
COWCTL_PAGES = {
    name: "cowctl.1" if name == "cowctl" else f"cowctl-{name.split()[0]}.1" for name in COMMANDS
}
OWN_PAGE = [name for name in COMMANDS if " " not in name]
"""Commands that are not told of in the page of another one."""
PAGES = {*COWCTL_PAGES.values(), "cowd.7", "cowd.8", "cowd.toml.5"}
OPTION = re.compile(r"(?<![\w-])--?[a-zA-Z][a-z-]*")
ESCAPES = {r"\-": "-", r"\(aq": "'", r"\(dq": '"', r"\(ga": "`", r"\e": "\\", r"\&": "", r"\%": ""}


def build(directory, epoch=EPOCH):
    """Build the pages with this interpreter."""
    pytest.importorskip("docutils", reason="no docutils: it writes the manual pages")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    environment |= {"PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("SOURCE_DATE_EPOCH", None)
    if epoch:
        environment["SOURCE_DATE_EPOCH"] = epoch
    subprocess.run(
        [sys.executable, SOURCE / "manual_pages.py", directory], env=environment, check=True
    )


@pytest.fixture(scope="session")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("man") / "made" / "here"
    build(directory)
    return directory


@pytest.fixture(scope="session")
def pages(directory):
    """Return the pages' source by name."""
    return {path.name: path.read_text() for path in directory.iterdir()}


def unescape(text):
    """Return what a reader sees of a line of a page's source."""
    text = re.sub(r"\\f[BIRP]", "", text)
    for escape, character in ESCAPES.items():
        text = text.replace(escape, character)
    return text


def cut_section(page, heading, level="SH"):
    """Return the lines of a section: of the text, and of macros."""
    parts = re.split(rf"^\.(?:{level}|SH) (.*)\n", page, flags=re.MULTILINE)[1:]
    by_heading = dict(zip(map(unescape, parts[::2]), parts[1::2], strict=True))
    return by_heading[heading].splitlines()


def list_entries(lines):
    """Return what there is to say by the terms that it is said of."""
    entries, term = {}, None
    for before, line in zip(["", *lines], lines, strict=False):
        if before == ".TP":
            term = unescape(line)
            entries[term] = ""
        elif line == ".UNINDENT":
            term = None
        elif term is not None and not line.startswith("."):
            entries[term] += f"{unescape(line)} "
    return entries


def list_literals(page):
    """Return the blocks that are as they stand."""
    found = re.findall(r"^\.(?:nf|EX)\n(.*?)^\.(?:fi|EE)\n", page, re.DOTALL | re.MULTILINE)
    return [unescape(block) for block in found]


def read_text(page):
    """Return all that a reader sees, with a blank for the end of a line."""
    return " ".join(unescape(line) for line in page.splitlines() if not line.startswith("."))


def test_there_is_a_page_for_every_program_and_command(pages):
    assert set(pages) == PAGES == {path.stem for path in SOURCE.glob("*.rst")}


@pytest.mark.parametrize("name", sorted(PAGES))
def test_every_page_has_what_readers_look_for(pages, name):
    headings = re.findall(r"^\.SH (.*)", pages[name], re.MULTILINE)
    assert [each.upper() for each in headings[:2]] == (
        ["NAME", "DESCRIPTION"] if name == "cowd.7" else ["NAME", "SYNOPSIS"]
    )
    assert headings[-1] == "SEE ALSO"
    assert {"DESCRIPTION", "FILES"} <= set(headings) | {"FILES" * name.startswith("cowctl")}
    if name.endswith((".1", ".8")):
        assert {"OPTIONS", "EXAMPLES", "EXIT STATUS", "ENVIRONMENT"} <= set(headings)
    assert "@" not in re.sub(r"\S+@\S+\.\S+", "", pages[name])


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_of_a_command_is_in_its_page_and_no_other(pages, name):
    heading = "OPTIONS" if name in OWN_PAGE else COMMANDS[name].command_path.upper()
    entries = list_entries(cut_section(pages[COWCTL_PAGES[name]], heading))
    told = {frozenset(OPTION.findall(term.split(" ")[0] + " " + term)): term for term in entries}
    options = {frozenset(each.opts): each for each in list_options(name)}
    assert set(told) == set(options)
    for names, option in options.items():
        term = told[names]
        assert entries[term].split() == option.help.replace("`", "").split()
        if isinstance(option.type, click.Choice):
            assert term.endswith(f" {'|'.join(option.type.choices)}")
        elif not option.is_flag:
            assert term.endswith(f" {option.metavar}")


def test_no_page_has_an_option_that_cowctl_lacks(pages):
    every = {text for name in COMMANDS for each in list_options(name) for text in each.opts}
    for page in COWCTL_PAGES.values():
        used = set(re.findall(r"(?<![\w-])--[a-z-]+", read_text(pages[page])))
        assert used <= every


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_is_in_the_page(pages, name):
    page = pages[COWCTL_PAGES[name]]
    command = COMMANDS[name].command
    shown = " ".join(read_text(page).split())
    assert " ".join(command.help.replace("`", "").split()) in shown
    usage = command.collect_usage_pieces(COMMANDS[name])
    assert " ".join([COMMANDS[name].command_path, *usage]) in shown
    statuses = list_entries(cut_section(page, "EXIT STATUS"))
    assert {int(term): text.strip() for term, text in statuses.items()} == EXIT_STATUSES


def test_every_command_is_in_the_page_of_cowctl(pages):
    entries = list_entries(cut_section(pages["cowctl.1"], "COMMANDS"))
    assert set(entries) == {f"cowctl-{name}(1)" for name in OWN_PAGE if name != "cowctl"}


@pytest.mark.parametrize("name", [name for name in OWN_PAGE if name != "cowctl"])
def test_columns_and_examples_are_in_the_page(pages, name):
    page, command = pages[COWCTL_PAGES[name]], COMMANDS[name].command
    if command.columns:
        entries = list_entries(cut_section(page, "COLUMNS"))
        assert list(entries) == [f"{each.heading}, {each.key}" for each in command.columns]
    lines = [line.strip() for block in list_literals(page) for line in block.splitlines()]
    assert lines == [f"$ {example}" for example in command.examples]


@pytest.mark.parametrize(
    "name", [name for name, each in COMMANDS.items() if getattr(each.command, "columns", ())]
)
def test_the_schema_and_the_keys_of_json_that_are_no_columns_are_in_the_page(pages, name):
    """Seen to fail with a key of the page left out, and with the path of another schema."""
    lines = cut_section(pages[COWCTL_PAGES[name]], "JSON")
    schema = read_schema(import_module(f"cowd.cli.{name}").SCHEMA)
    keys = schema["properties"]
    if read_row(schema) is schema:
        columns = [each.key for each in COMMANDS[name].command.columns]
        keys = {key: value for key, value in keys.items() if key not in columns}
    entries = list_entries(lines)
    assert list(entries) == list(keys)
    assert all(text.startswith(keys[key]["description"]) for key, text in entries.items())
    [path] = re.findall(r"/usr\S+", read_text("\n".join(lines)))
    pattern = "/usr/lib/python3*/dist-packages/cowd/schemas"
    assert pattern[1:] in (ROOT / "packaging/debian/python3-cowd.install").read_text().splitlines()
    assert fnmatch(path, f"{pattern}/{locate_schema(schema['title']).name}")


def test_every_flag_is_in_the_page_of_explain(pages):
    entries = list_entries(cut_section(pages["cowctl-explain.1"], "FLAGS"))
    names = [re.match(r"(\w+), (\d+)", term).groups() for term in entries]
    assert names == [(each.name, str(each.bit)) for each in FLAG_DESCRIPTIONS]


# cowd


def test_every_option_of_the_daemon_is_in_its_page_and_no_other(pages):
    entries = list_entries(cut_section(pages["cowd.8"], "OPTIONS"))
    usage = " ".join(map(unescape, cut_section(pages["cowd.8"], "SYNOPSIS")))
    told = {text for term in entries for text in OPTION.findall(term)}
    parser = main.make_parser()
    assert told == set(parser._option_string_actions)
    assert set(OPTION.findall(usage)) == {each.option_strings[0] for each in parser._actions}


def test_every_field_of_a_record_is_in_the_page_and_no_other(pages):
    audit = (ROOT / "daemon/cowdaemon/broker/audit.py").read_text()
    fields = set(re.findall(r"COWD_[A-Z_]+", audit))
    assert len(fields) > 5
    assert set(re.findall(r"COWD_[A-Z_]+", read_text(pages["cowd.8"]))) == fields


def test_signals_and_exit_statuses_of_the_daemon_are_in_its_page(pages):
    [signals] = list_entries(cut_section(pages["cowd.8"], "SIGNALS"))
    assert signals.split(", ") == [each.name for each in main._STOP_SIGNALS]
    statuses = list_entries(cut_section(pages["cowd.8"], "EXIT STATUS"))
    assert list(statuses) == ["0", "1", "2", str(FAILED)]


def test_every_setting_is_in_its_page_with_range_and_default(pages):
    told = {}
    for table in config._KEYS:
        heading = "[[grant]]" if table == "grant" else f"[{table}]"
        entries = list_entries(cut_section(pages["cowd.toml.5"], heading, level="SS"))
        told[table] = {term.partition(" = ")[0]: text for term, text in entries.items()}
    assert {table: tuple(keys) for table, keys in told.items()} == config._KEYS
    for key, default in asdict(Limits()).items():
        least, most, meaning = LIMIT_RANGES[key]
        wanted = f"{meaning} From {least} to {most}; default {default}."
        assert told["limits"][key].strip() == wanted
    settings = Settings()
    assert (settings.access_groups, settings.full_groups, settings.full_for_root) == ((), (), False)
    assert "Default: false." in told["disclosure"]["full_for_root"]
    for table, key in ("access", "groups"), ("disclosure", "full_groups"):
        assert "Default: none, []." in told[table][key]
    for detail in set(Detail) - {Detail.NONE}:
        assert f"{detail.name.lower()}: " in told["grant"]["detail"]


def test_settings_in_examples_are_valid_and_as_they_are_explained(pages):
    [example] = [each for each in list_literals(pages["cowd.toml.5"]) if "[access]" in each]
    settings = parse_settings(example, Path("x"), {"staff": 50, "cowd-monitor": 900}.get)
    assert [group.name for group in settings.access_groups] == ["staff", "cowd-monitor"]
    assert settings.granted([900]) is Detail.SUMMARY
    assert settings.limits.idle_exit_seconds == 0
    [example] = [each for each in list_literals(pages["cowd.8"]) if "[limits]" in each]
    assert parse_settings(example, Path("x"), {}.get).limits.idle_exit_seconds == 0


# The contract


STREAMS = {"ComparePages", "StreamPageFlags", "SummarizeProcesses"}
"""Descriptors do not tell in protobuf 3.21."""


def test_every_call_is_in_the_page_with_who_may_call_it(pages):
    entries = list_entries(cut_section(pages["cowd.7"], "CALLS"))
    [service] = pageflags_pb2.DESCRIPTOR.services_by_name.values()
    assert list(entries) == [
        f"{each.name}({each.input_type.name}) returns "
        f"{'stream of ' * (each.name in STREAMS)}{each.output_type.name}"
        for each in service.methods
    ]
    assert all("Who may call it: " in text for text in entries.values())


@pytest.mark.parametrize(
    ("enum", "heading"),
    [
        ("PageState", "STATES OF PAGES"),
        ("PageAttribute", "ATTRIBUTES OF PAGES"),
        ("MappingKind", "KINDS OF MAPPINGS"),
        ("GrantDetail", "GRANTS"),
    ],
)
def test_every_value_is_in_the_page(pages, enum, heading):
    entries = list_entries(cut_section(pages["cowd.7"], heading))
    values = pageflags_pb2.DESCRIPTOR.enum_types_by_name[enum].values
    assert list(entries) == [f"{each.name} = {each.number}" for each in values if each.number]
    assert all(entries.values())


def test_every_reason_is_in_the_page_with_its_code(pages):
    entries = list_entries(cut_section(pages["cowd.7"], "ERRORS"))
    assert list(entries) == [f"{each.name} ({each.code.name})" for each in Reason]
    for reason, text in zip(Reason, entries.values(), strict=True):
        parts = re.split(r"\{[^}]*\}", reason.sentence)
        assert all(" ".join(part.split()) in " ".join(text.split()) for part in parts)


def test_the_examples_in_python_run(pages, tmp_path):
    buffers, processes = (each for each in list_literals(pages["cowd.7"]) if "import cowd" in each)
    (tmp_path / "words.dat").write_bytes(bytes(16384))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    environment["COWD_SOCKET"] = str(tmp_path / "nobody-listens-here")
    # There is no daemon here; a client of the kernel alone has the same methods.
    processes = processes.replace("with cowd.Client() as client:", "if client := cowd.Local():")
    for code in buffers, processes:
        tried = subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            check=False,
        )
        assert (tried.returncode, tried.stderr) == (0, b"")
        assert tried.stdout


# The form


@pytest.mark.parametrize("name", sorted(PAGES))
def test_pages_that_are_referred_to_exist(pages, name):
    references = re.findall(r"\b(cow[\w.-]*)\((\d)\)", read_text(pages[name]))
    assert references
    assert {".".join(reference) for reference in references} <= PAGES - {name}


def run_tool(*command):
    """Run a program on a page; return what it writes, on whatever."""
    if not shutil.which(command[0]):
        pytest.skip(f"no {command[0]}: it checks the manual pages")
    return subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    ).stdout


@pytest.mark.parametrize("name", sorted(PAGES))
def test_nobody_complains_of_a_page(directory, name):
    assert run_tool("mandoc", "-T", "lint", "-W", "warning", str(directory / name)) == ""
    groff = ("groff", "-man", "-Tutf8", f"-rLL={COLUMNS}n", "-ww", "-z")
    assert run_tool(*groff, str(directory / name)) == ""


@pytest.mark.parametrize("name", sorted(PAGES))
def test_a_page_fits_a_terminal(directory, name):
    shown = run_tool("mandoc", "-T", "utf8", "-O", f"width={COLUMNS}", str(directory / name))
    lines = [re.sub(".\b", "", line) for line in shown.splitlines()]
    assert len(lines) > 30
    assert [line for line in lines if len(line) > COLUMNS] == []


def test_builds_are_alike_and_have_the_date_that_is_given(pages, tmp_path):
    build(tmp_path / "again")
    assert {path.name: path.read_text() for path in (tmp_path / "again").iterdir()} == pages
    assert all("2023-11-14" in page for page in pages.values())
    build(tmp_path / "undated", epoch=None)
    for name in PAGES:
        assert not re.search(r"\b20\d\d-\d\d-\d\d\b", (tmp_path / "undated" / name).read_text())


def test_packages_build_the_same_pages(tmp_path):
    tried = subprocess.run(
        ["/usr/bin/python3", "-c", "import click, docutils"], capture_output=True, check=False
    )
    if tried.returncode:
        pytest.skip("no python3-docutils: packages are built with it")
    environment = {"PATH": os.defpath, "LC_ALL": "C"}
    subprocess.run([SOURCE / "build", tmp_path], env=environment, cwd="/", check=True)
    assert {path.name for path in tmp_path.iterdir()} == PAGES
