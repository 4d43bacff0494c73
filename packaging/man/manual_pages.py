# SPDX-License-Identifier: Apache-2.0
"""Writes cowd's manual pages; run by packaging/man/build.

Each NAME.SECTION.rst beside this file is a page in reStructuredText. What the programs know of
themselves is not written there a second time: @placeholders@ stand for it, a word in a line for a
word, and one that has a line to itself for paragraphs. Whatever is wrong ends the build.
"""

import argparse
import dataclasses
import inspect
import json
import os
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import click
import cowdaemon
from cowd import DEFAULT_ADDRESS
from cowd._kpageflags import FLAG_DESCRIPTIONS
from cowd.cli.main import EXIT_STATUSES, cowctl
from cowd.cli.options import Command
from cowdaemon import limits
from cowdaemon.config import LIMIT_RANGES, Limits
from cowdaemon.errors import Reason
from cowdaemon.main import make_parser
from docutils.core import publish_string
from docutils.writers import manpage

HERE: Final = Path(__file__).resolve().parent
PROTO: Final = HERE.parents[1] / "proto/cowd/v1/pageflags.proto"
SCHEMAS: Final = HERE.parents[1] / "client/cowd/schemas"
INSTALLED_SCHEMAS: Final = "/usr/lib/python3/dist-packages/cowd/schemas"
BLOCK: Final = re.compile(r"^@([a-z-]+)(?: (.+))?@$", re.MULTILINE)
WORD: Final = re.compile(r"@([a-z-]+)(?: ([A-Z_]+))?@")
CODE: Final = r"`(?P<code>[^`]+)`"
FIELD: Final = r"\{(?P<variable>\w+)[^}]*\}"
OPTION: Final = r"(?<![\w-])(?P<option>--?[a-z][a-z-]*|-[A-Z])(?![\w-])"
VARIABLE: Final = r"(?<!\w)(?!JSON)(?P<variable>[A-Z]{3,})(?!\w)"
MARKS: Final = {"code": "``", "option": "**", "variable": "*"}


def main() -> int:
    """Write the pages; return the exit status."""
    parser = argparse.ArgumentParser(description="Writes the manual pages of cowd.")
    parser.add_argument("directory", type=Path, help="where to; made if it is not there")
    directory: Path = parser.parse_args().directory
    directory.mkdir(parents=True, exist_ok=True)
    for source in sorted(HERE.glob("*.rst")):
        text = fill_in(source.stem, source.read_text())
        (directory / source.stem).write_text(make_manual_page(text, source))
    return 0


def fill_in(page: str, text: str) -> str:
    """Return the text of `page`, such as "cowd.8", with what its placeholders stand for."""
    name, _, section = page.rpartition(".")
    blocks: dict[str, Callable[[str], Iterable[str]]] = {
        "include": lambda file: [fill_in(page, (HERE / f"{file}.inc").read_text())],
        "title": lambda summary: iter_title(name, section, summary),
        "calls": lambda _: iter_calls(),
        "enum": iter_values,
        "flags": lambda _: iter_flags(),
        "reasons": lambda _: iter_reasons(),
        "limits": lambda _: iter_limits(),
        "daemon-synopsis": lambda _: iter_daemon_synopsis(),
        "daemon-options": lambda _: iter_daemon_options(),
    }
    if name.startswith("cowctl"):
        blocks |= list_command_blocks(find_command(name))
    words: dict[str, Callable[[str], str]] = {
        "socket": lambda _: DEFAULT_ADDRESS.removeprefix("unix:"),
        "limit": lambda name: f"{getattr(limits, name):,g}",  # all below a million
    }
    text = BLOCK.sub(lambda match: "\n".join(blocks[match[1]](match[2] or "")), text)
    return WORD.sub(lambda match: words[match[1]](match[2]), text)


def make_manual_page(text: str, source: Path) -> str:
    """Return reStructuredText as a manual page."""
    settings = {
        "_disable_config": True,
        "halt_level": 2,  # warnings
        "input_encoding": "unicode",
        "output_encoding": "unicode",
        "traceback": False,
    }
    page: str = publish_string(
        text, source_path=str(source), writer=manpage.Writer(), settings_overrides=settings
    )
    # What the writer of docutils leaves for others to complain of: a paragraph that begins right
    # below its heading, a font that terminals lack, and terms that are bold as a whole.
    page = re.sub(r"^(\.S[HS] .*\n)\.sp\n", r"\1", page, flags=re.MULTILINE)
    page = re.sub(r"^\.ft [CP]\n", "", page, flags=re.MULTILINE)
    return re.sub(r"^\.B (?=\\f)", "", page, flags=re.MULTILINE)


def escape(text: str, *patterns: str) -> str:
    """Return plain text as reStructuredText, with what is code, and the `patterns`, marked."""
    escaped, position = "", 0
    for match in [*re.finditer("|".join([CODE, *patterns]), text), None]:
        plain = text[position : match.start() if match else len(text)]
        escaped += re.sub(r"([\\*`|_<>])", r"\\\1", plain)
        if match:
            around = MARKS[str(match.lastgroup)]
            word = match[str(match.lastgroup)]
            word = word.upper() if match.lastgroup == "variable" else word
            escaped += f"\\ {around}{word}{around}\\ "
            position = match.end()
    return escaped


def mark(text: str) -> str:
    """Return text of a help or usage: options in bold, and what stands for something in italics."""
    return escape(text, OPTION, VARIABLE)


def iter_term(term: str, *paragraphs: str) -> Iterator[str]:
    """Yield the lines of a term, which is reStructuredText, and of what it means."""
    yield term
    for number, paragraph in enumerate(paragraphs):
        if number:
            yield ""
        yield wrap(paragraph, "    ")
    yield ""


def wrap(text: str, indent: str = "") -> str:
    """Return a paragraph in lines that stay under 80 bytes as a manual page's source, too."""
    return textwrap.fill(
        text,
        64,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def iter_title(name: str, section: str, summary: str) -> Iterator[str]:
    """Yield the head of a page; without the date where none is given, so that builds are alike."""
    for text, line in (name, "#"), (summary, "-"):
        yield from (line * len(text), text, line * len(text), "")
    yield from (f":Manual section: {section}", ":Manual group: cowd manual")
    yield f":Version: cowd {cowdaemon.__version__}"
    if epoch := os.environ.get("SOURCE_DATE_EPOCH"):
        yield f":Date: {datetime.fromtimestamp(int(epoch), UTC):%Y-%m-%d}"
    yield ""


# cowctl


def find_command(page: str) -> click.Context:
    """Return the context of the command that "cowctl-query" is about."""
    root = click.Context(cowctl, info_name="cowctl", **cowctl.context_settings)
    if page == "cowctl":
        return root
    name = page.removeprefix("cowctl-")
    command = cowctl.get_command(root, name)
    if command is None:
        sys.exit(f"cowctl has no command {name}: remove {page}.1.rst")
    return click.Context(command, parent=root, info_name=name)


def find_form(context: click.Context, name: str) -> click.Context:
    """Return the context of a command's own command of that name; of itself for ""."""
    if not name:
        return context
    assert isinstance(context.command, click.Group)  # noqa: S101
    return click.Context(context.command.commands[name], parent=context, info_name=name)


def list_command_blocks(context: click.Context) -> dict[str, Callable[[str], Iterable[str]]]:
    """Return what the placeholders of a command's page stand for.

    With a name, synopsis, description and options are those of the command's own command.
    """
    command = context.command
    name = context.command_path.replace(" ", "-")
    summary = split_help(command)[0]
    summary = summary[0].lower() + summary[1:].rstrip(".")
    return {
        "title": lambda _: iter_title(name, "1", summary),
        "synopsis": lambda form: iter_synopsis(find_form(context, form)),
        "description": lambda form: [
            "\n\n".join(wrap(mark(each)) for each in split_help(find_form(context, form).command))
        ],
        "options": lambda form: iter_options(find_form(context, form)),
        "columns": lambda option: iter_columns(command, option),
        "json": lambda _: iter_json(command),
        "examples": lambda _: iter_examples(command),
        "commands": lambda _: iter_commands(context),
        "exit-statuses": lambda _: iter_exit_statuses(),
    }


def split_help(command: click.Command) -> list[str]:
    """Return the paragraphs of a command's help."""
    return inspect.cleandoc(command.help or "").split("\n\n")


def iter_synopsis(context: click.Context) -> Iterator[str]:
    """Yield the usage of a command."""
    usage = " ".join(context.command.collect_usage_pieces(context))
    yield f"**{context.command_path}** {mark(usage)}"


def iter_options(context: click.Context) -> Iterator[str]:
    """Yield every option of a command with its help."""
    for each in context.command.get_params(context):
        if not isinstance(each, click.Option):
            continue
        options = ", ".join(f"**{option}**" for option in sorted(each.opts, key=len))
        if isinstance(each.type, click.Choice):
            options += " " + r"\ \|\ ".join(f"**{choice}**" for choice in each.type.choices)
        elif not (each.is_flag or each.count):
            options += f" *{escape(each.metavar or each.type.name.upper())}*"
        yield from iter_term(options, mark(each.help or ""))


def iter_columns(command: click.Command, option: str = "") -> Iterator[str]:
    """Yield every column with its key in JSON, and whether it is there when nobody asks for it.

    `option` is the name of one that asks for another table, without --.
    """
    assert isinstance(command, Command)  # noqa: S101
    columns = command.tables[option.replace("-", "_")] if option else command.columns
    for each in columns:
        places = {"a table": each.in_table, "JSON": each.in_json}
        absent = [place for place, is_there in places.items() if not is_there]
        note = f" (not in {' or '.join(absent)} unless asked for)" if absent else ""
        term = f"**{each.heading}**, *{escape(each.key)}*"
        yield from iter_term(term, f"{escape(each.help)}{note}")


def iter_json(command: click.Command) -> Iterator[str]:
    """Yield what a command writes as JSON: where its schema is, and what is no column."""
    assert isinstance(command, Command)  # noqa: S101
    name: str = import_module(f"cowd.cli.{command.name}").SCHEMA
    file = f"{name.replace('/', '-')}.json"
    schema: dict[str, Any] = json.loads((SCHEMAS / file).read_bytes())
    yield wrap(
        f"{escape(schema['description'])} Keys may be added. *{INSTALLED_SCHEMAS}/{file}* "
        "describes it and every key, as a JSON Schema."
    )
    yield ""
    columns = set() if "row" in schema.get("$defs", {}) else {each.key for each in command.columns}
    for key, value in schema["properties"].items():
        if key not in columns:
            has_rows = value.get("items") == {"$ref": "#/$defs/row"}
            more = " The keys of each are those of the columns." if has_rows else ""
            yield from iter_term(f"*{escape(key)}*", f"{escape(value['description'])}{more}")
    if columns:
        yield wrap("The other keys are those of the columns.")


def iter_examples(command: click.Command) -> Iterator[str]:
    """Yield every example with what it does."""
    examples: Mapping[str, str] = getattr(command, "examples")  # noqa: B009 (of two classes)
    for line, text in examples.items():
        yield from (wrap(f"{escape(text.rstrip('.'))}::"), "", f"    $ {line}", "")


def iter_commands(context: click.Context) -> Iterator[str]:
    """Yield every command of a group with the first line of its help."""
    assert isinstance(context.command, click.Group)  # noqa: S101
    for name in context.command.list_commands(context):
        command = context.command.get_command(context, name)
        assert command is not None  # noqa: S101
        summary = command.get_short_help_str(limit=sys.maxsize)
        yield from iter_term(f"**cowctl-{name}**\\(1)", mark(summary))


def iter_flags() -> Iterator[str]:
    """Yield every kernel page flag."""
    for each in FLAG_DESCRIPTIONS:
        letter = f", **{each.letter}**" if each.letter else ""
        yield from iter_term(f"**{each.name}**, {each.bit}{letter}", escape(each.meaning))


def iter_exit_statuses() -> Iterator[str]:
    """Yield what cowctl's exit statuses mean."""
    for status, text in EXIT_STATUSES.items():
        yield from iter_term(f"**{status}**", escape(text))


# cowd


def iter_daemon_synopsis() -> Iterator[str]:
    """Yield the usage of the daemon."""
    usage = " ".join(make_parser().format_usage().split()[2:])
    yield f"**cowd** {mark(usage)}"


def iter_daemon_options() -> Iterator[str]:
    """Yield every option of the daemon with its help."""
    for action in make_parser()._actions:
        value = f" *{action.metavar}*" if action.metavar else ""
        options = ", ".join(f"**{option}**{value}" for option in action.option_strings)
        text = (action.help or "").replace("%%", "%")
        yield from iter_term(options, f"{escape(text[0].upper() + text[1:])}.")


def iter_limits() -> Iterator[str]:
    """Yield every key of [limits] with its meaning, range and default."""
    defaults = dataclasses.asdict(Limits())
    for key, (least, most, meaning) in LIMIT_RANGES.items():
        yield from iter_term(
            f"**{key}** = *number*",
            f"{escape(meaning)} From {least} to {most}; default {defaults[key]}.",
        )


# The gRPC contract


def read_comment(lines: list[str], number: int) -> list[str]:
    """Return the paragraphs of the comment above a line of the .proto."""
    start = number
    while start and lines[start - 1].strip().startswith("//"):
        start -= 1
    texts = (line.strip().removeprefix("//").strip() for line in lines[start:number])
    return re.split(r"\n\n|\n(?=Who may call it)", "\n".join(texts))


def iter_calls() -> Iterator[str]:
    """Yield every call with its comment."""
    lines = PROTO.read_text().splitlines()
    for number, line in enumerate(lines):
        if match := re.fullmatch(r"\s*rpc (\w+)\((\w+)\) returns \((stream )?(\w+)\);", line):
            returned = f"{'stream of ' if match[3] else ''}*{match[4]}*"
            term = f"**{match[1]}**\\ (*{match[2]}*) returns {returned}"
            yield from iter_term(term, *map(escape, read_comment(lines, number)))


def iter_values(enum: str) -> Iterator[str]:
    """Yield every value of an enumeration, but that for "unspecified", with its comment."""
    lines = PROTO.read_text().splitlines()
    start = lines.index(f"enum {enum} {{")
    for number in range(start + 1, lines.index("}", start)):
        match = re.fullmatch(r"\s*(\w+) = (\d+);", lines[number])
        if match and match[2] != "0":
            term = f"**{match[1]}** = {match[2]}"
            yield from iter_term(term, *map(escape, read_comment(lines, number)))


def iter_reasons() -> Iterator[str]:
    """Yield every reason for a refusal with its gRPC code and what the caller is told."""
    for reason in Reason:
        yield from iter_term(
            f"**{reason.name}** ({reason.code.name})", f"{escape(reason.sentence, FIELD)}."
        )


if __name__ == "__main__":
    sys.exit(main())
