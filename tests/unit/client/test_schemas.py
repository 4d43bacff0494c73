# SPDX-License-Identifier: Apache-2.0
"""The schemas of cowctl's JSON: each command has one, and it says all that the command writes.

Outputs are checked against them wherever tests run cowctl: by `verify_json`, which the expected
outputs, the fixtures `run` and `run_cowctl`, and the tests of the demo call.
"""

import json
from importlib import import_module

import jsonschema
import pytest
from cowd import BACKENDS, PageAttributes, PageState
from harness.commands import COMMANDS
from harness.schemas import (
    DIRECTORY,
    iter_documents,
    locate_schema,
    read_row,
    read_schema,
    verify_json,
)

NAMES = {
    name: import_module(f"cowd.cli.{name}").SCHEMA
    for name, context in COMMANDS.items()
    if getattr(context.command, "columns", ())
}
"""Of the schemas, by command. Commands without columns write no JSON."""
EXPLAINED = {
    "schema": "cowd.explain/1",
    "kpageflags": "0x20",
    "flags": [{"bit": 5, "letter": "l", "name": "lru", "meaning": "in a list"}],
}
STATES = [state.name.lower() for state in PageState]
ENUMS = {
    ("cowd.query/1", "state"): STATES,
    ("cowd.demo/1", "state"): STATES,
    ("cowd.query/1", "backend"): [name for name in BACKENDS if name != "auto"],
}


def iter_described(schema):
    """Yield every part of a schema that has properties."""
    if isinstance(schema, dict):
        if "properties" in schema:
            yield schema
        for part in schema.values():
            yield from iter_described(part)


def test_there_is_a_schema_for_every_command_and_no_other():
    """Seen to fail without the file of one, and with that of one more."""
    assert {name: f"cowd.{name}" for name in NAMES} == {
        name: schema.rpartition("/")[0] for name, schema in NAMES.items()
    }
    assert set(DIRECTORY.iterdir()) == set(map(locate_schema, NAMES.values()))


@pytest.mark.parametrize("name", NAMES.values())
def test_a_schema_is_one_and_describes_every_key(name):
    """Seen to fail with a description taken away, and with a type that JSON does not have."""
    schema = read_schema(name)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == jsonschema.Draft202012Validator.META_SCHEMA["$id"]
    assert schema["title"] == schema["properties"]["schema"]["const"] == name
    for part in iter_described(schema):
        assert part["description"].endswith(".")
        assert "additionalProperties" not in part, "readers are told that keys may be added"
        assert set(part["required"]) <= set(part["properties"])
        for key, value in part["properties"].items():
            assert value.get("description", "").endswith("."), key
            assert {"type", "enum", "const", "$ref"} & set(value), key


@pytest.mark.parametrize("command", NAMES)
def test_the_keys_of_a_row_are_the_columns(command):
    """Seen to fail with a column more, with a key more, and with one in the wrong place.

    And with a column that is no longer in the usual JSON.
    """
    schema = read_schema(NAMES[command])
    row, columns = read_row(schema), COMMANDS[command].command.columns
    head = [] if row is not schema else ["schema"]
    assert [*row["properties"]] == [*head, *(each.key for each in columns)]
    assert row["required"] == [*head, *(each.key for each in columns if each.in_json)]
    assert "--output" in row["description"]
    if row is not schema:
        assert schema["required"] == [*schema["properties"]]
        parts = schema["properties"].values()
        assert {"$ref": "#/$defs/row"} in [part.get("items") for part in parts]


@pytest.mark.parametrize(("name", "key"), ENUMS)
def test_values_are_those_of_the_library(name, key):
    """Seen to fail without the state "guard"."""
    schema = read_schema(name)
    described = read_row(schema)["properties"] | schema["properties"]
    assert sorted(described[key]["enum"]) == sorted(ENUMS[name, key])


def test_every_attribute_is_named():
    """Seen to fail without "lazyfree"."""
    described = read_row(read_schema("cowd.query/1"))["properties"]["attributes"]["description"]
    names = PageAttributes(sum(PageAttributes)).names
    assert ", ".join(names) in described


def test_what_is_documented_passes():
    verify_json(["explain", "-J"], json.dumps(EXPLAINED))
    verify_json(["explain", "-J"], json.dumps(EXPLAINED) * 2)
    verify_json(["explain", "-J"], "")
    verify_json(["explain"], "no JSON")


@pytest.mark.parametrize(
    "change",
    [
        {"more": 1},
        {"kpageflags": 32},
        {"kpageflags": "32"},
        {"flags": [{"bit": 5}]},
        {"flags": [EXPLAINED["flags"][0] | {"more": 1}]},
        {"flags": [EXPLAINED["flags"][0] | {"bit": None}]},
        {"flags": None},
    ],
    ids=str,
)
def test_what_is_not_documented_is_found(change):
    """Seen to fail without `_close`."""
    with pytest.raises(jsonschema.ValidationError):
        verify_json(["explain", "--json"], json.dumps(EXPLAINED | change))


def test_with_output_rows_may_lack_keys_and_have_no_others():
    chosen = EXPLAINED | {"flags": [{"bit": 5}]}
    for option in ["-o", "bit"], ["-obit"], ["--output=bit"]:
        verify_json(["explain", "-J", *option], json.dumps(chosen))
        with pytest.raises(jsonschema.ValidationError):
            verify_json(["explain", "-J", *option], json.dumps(EXPLAINED | {"flags": [{"x": 5}]}))


def test_several_objects_in_a_row_are_told_apart():
    assert list(iter_documents(' {"a": 1}\n{"b": "}{"}\n\n[3]\n')) == [{"a": 1}, {"b": "}{"}, [3]]
    assert list(iter_documents(" \n")) == []
