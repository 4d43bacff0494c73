# SPDX-License-Identifier: Apache-2.0
"""Whatever is in a TOML text is found on its line, however it is written and surrounded."""

import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from cowdaemon.config_document import ConfigError, Document, Place
from hypothesis import given
from hypothesis import strategies as st

SOURCE = Path("/etc/cowd/cowd.toml")


def find_line(text: str, place: Place) -> int:
    """Return the line that an error about `place` names."""
    source, line, sentence = str(Document(text, SOURCE).error(place, "no")).split(":")
    assert (source, sentence) == (str(SOURCE), " no")
    return int(line)


@pytest.mark.parametrize(
    ("text", "place", "line"),
    [
        ("[a]\nb = 1\n", ("a",), 1),
        ("[a]\nb = 1\n", ("a", "b"), 2),
        ("[a]\nb = 1", ("a", "b"), 2),
        ("\n# b = 0\n  [ a ] # b = 0\n\n\tb=1\n", ("a", "b"), 5),
        ("[a]\r\nb = 1\r\nc = 2\r\n", ("a", "c"), 3),
        ("a.b = 1\na.c = 2\n", ("a",), 1),
        ("a.b = 1\na.c = 2\n", ("a", "c"), 2),
        ("[a]\nb = 1\n[a.c]\nd = 2\n", ("a", "c", "d"), 4),
        ("[a.c]\nd = 2\n[a]\nb = 1\n", ("a",), 1),
        ('\'a\'."b" = 1\n[c]\n"d\\u0065" = 2\n', ("c", "de"), 3),
        ("a = {b = 1, c = 2}\n", ("a", "c"), 1),
        ("[[a]]\nb = 1\n[[a]]\nb = 2\n", ("a", 0, "b"), 2),
        ("[[a]]\nb = 1\n[[a]]\nb = 2\n", ("a", 1), 3),
        ("[[a]]\nb = 1\n[[a]]\nb = 2\n", ("a", 1, "b"), 4),
        ("c = 1\na = [\n {b = 1},\n {b = 2},\n]\nd = 1\n", ("a", 1, "b"), 2),
        ("c = 1\na = [\n {b = 1},\n {b = 2},\n]\nd = 1\n", ("d",), 6),
        ("a = [ # ]\n 1,\n\n]\nb = 1\n", ("b",), 5),
        ("a = '''\nb = 0\n[c]\n'''\nb = 1\n", ("b",), 5),
        ('a = """\\\n\n """\nb = 1\n', ("b",), 4),
        ("a = 'no \x85 end \u2028 of line'\nb = 1\n", ("b",), 2),
        ("a = 1\n", (), 1),
    ],
)
def test_line_is_where_the_statement_begins(text: str, place: Place, line: int) -> None:
    assert find_line(text, place) == line


NEWLINES = st.sampled_from(["\n", "\r\n"])
TEXTS = st.lists(st.sampled_from(["x = 0", "[t]", "[[t]]", "#", "]", "\\\\", "'", ""])).map(
    "\n".join
)
VALUES = st.one_of(
    st.sampled_from(["1", "true", "[]", "'#'", "{}", "{x = 0, y = [\n\n]}"]),
    TEXTS.map(lambda text: f'"""\n{text}"""'),
    TEXTS.filter(lambda text: "'" not in text).map(lambda text: f"'''{text}'''"),
    st.lists(st.sampled_from(["'x = 0'", "'[t]'", '"""\n\n"""'])).map(
        lambda items: "[ # [\n" + "".join(f"{item},\n# x = 0\n" for item in items) + "]"
    ),
)
KEYS = st.sampled_from(["{}", "'{}'", '"{}"', "'in'.{}", "in . {}", "  {}\t"])
HEADERS = st.sampled_from(["[{}]", "[[{}]]", " [ '{}' ] # x = 0", "[out.{}]", "[[ out.'{}' ]]"])
STATEMENTS = st.one_of(
    st.sampled_from(["", "# x = 0", "\t"]), HEADERS, st.tuples(KEYS, VALUES).map(" = ".join)
)


@given(st.lists(STATEMENTS), NEWLINES)
def test_every_key_and_table_is_on_its_line(statements: list[str], newline: str) -> None:
    """Each has a name of its own, n0, n1 and so on; tomllib says in which tables they ended up."""
    lines, text = {}, ""
    for number, statement in enumerate(statements):
        if "{}" in statement:
            lines[f"n{number}"] = text.count("\n") + 1
        text += statement.replace("{}", f"n{number}", 1) + "\n"
    text = text.replace("\n", newline)
    found = {}
    for place in iter_places((), tomllib.loads(text)):
        if place[-1] in lines:
            found[place[-1]] = find_line(text, place)
    assert found == lines


def iter_places(above: Place, found: object) -> Iterator[Place]:
    """Yield the place of everything in a document."""
    steps = found.items() if isinstance(found, dict) else ()
    for step, below in enumerate(found) if isinstance(found, list) else steps:
        yield (*above, step)
        yield from iter_places((*above, step), below)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a = 1\nb\nc = 1\n", 2),
        ("a = 1\nb = [\n 1,\n", 2),
        ("a = 1\nb = [\n 1,\n c,\n]\n", 2),
        ("a = 1\n\nb = '''\n\nc = 1\n", 3),
        ("a = 1\na = 2", 2),
        ("[a]\n[b]\n[a]\n", 3),
        ("\ufeffa = 1\n", 1),
        ("a = 1\nb = \x00\n", 2),
        ("a = 1\rb = 2\n", 1),
        ("a = 1\nb = " + "9" * 5_000, 2),
        ("a = 1\nb = " + "[" * 5_000, 2),
    ],
)
def test_what_is_not_toml_is_named_by_its_line(text: str, line: int) -> None:
    with pytest.raises(ConfigError) as refusal:
        Document(text, SOURCE)
    assert str(refusal.value).startswith(f"{SOURCE}:{line}: this is not TOML: ")
    assert len(str(refusal.value).splitlines()) == 1


@pytest.mark.parametrize("kind", [bool, int, str, list, dict])
def test_value_is_of_exactly_one_kind(kind: type) -> None:
    values = {bool: "true", int: "1", str: "'x'", list: "[]", dict: "{}", float: "1.0"}
    text = "".join(f"\n[{name.__name__}]\nx = {value}" for name, value in values.items())
    document = Document(text, SOURCE)
    for line, other in enumerate(values, 1):
        place = (other.__name__, "x")
        if other is kind:
            assert type(document.take(place, kind)) is kind
        else:
            with pytest.raises(ConfigError, match=rf":{2 * line + 1}: {'.'.join(place)} must be "):
                document.take(place, kind)


def test_value_that_is_missing_has_its_default_or_is_missed() -> None:
    document = Document("\n[a]\n", SOURCE)
    assert document.take(("a", "b"), bool, False) is False
    assert document.take(("b", "c"), int, 0) == 0
    with pytest.raises(ConfigError, match=r":2: a\.b is missing"):
        document.take(("a", "b"), str)


def test_tables_are_counted() -> None:
    document = Document("[[a]]\n[[a]]\n[b]\n", SOURCE)
    assert document.count_tables(("a",)) == 2
    assert document.count_tables(("c",)) == 0
    with pytest.raises(ConfigError, match=r":3: .*\[\[b\]\]"):
        document.count_tables(("b",))
