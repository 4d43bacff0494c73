# SPDX-License-Identifier: Apache-2.0
"""The schemas of cowctl's JSON, and whether an output is what they say and nothing else.

Readers are told that keys may be added, so the schemas allow it. Here they do not: a key that no
schema has is a mistake of ours.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import jsonschema

from harness.daemon import ROOT

__all__ = ["DIRECTORY", "iter_documents", "locate_schema", "read_row", "read_schema", "verify_json"]

DIRECTORY: Final = ROOT / "client/cowd/schemas"
_JSON_OPTIONS: Final = {"-J", "--json"}
_CHOICES: Final = ("-o", "--output")
"""Options by which an output may lack columns."""

Schema = dict[str, Any]


def locate_schema(name: str) -> Path:
    """Return the file of a schema that outputs call "cowd.query/1"."""
    return DIRECTORY / f"{name.replace('/', '-')}.json"


def read_schema(name: str) -> Schema:
    """Return the schema of that name."""
    schema: Schema = json.loads(locate_schema(name).read_bytes())
    return schema


def read_row(schema: Schema) -> Schema:
    """Return the part that describes a row: the whole, where an output is one row by itself."""
    row: Schema = schema.get("$defs", {}).get("row", schema)
    return row


def iter_documents(text: str) -> Iterator[Any]:
    """Yield what a command has written: one object mostly, of others one after the other."""
    decoder, rest = json.JSONDecoder(), text.lstrip()
    while rest:
        document, end = decoder.raw_decode(rest)
        yield document
        rest = rest[end:].lstrip()


def verify_json(arguments: Sequence[str], text: str) -> None:
    """Check standard output of cowctl, if `arguments` ask for JSON and there is any.

    Raises:
        jsonschema.ValidationError: it is not what its schema says, or has a key that is not there.
    """
    if _JSON_OPTIONS.isdisjoint(arguments):
        return
    for document in iter_documents(text):
        schema = read_schema(document["schema"])
        if any(each.startswith(_CHOICES) for each in arguments):
            read_row(schema)["required"] = []
        jsonschema.validate(document, _close(schema), jsonschema.Draft202012Validator)


def _close(schema: Any) -> Any:
    """Return a schema in which no object may have a key that is not described."""
    if isinstance(schema, Mapping):
        closed = {key: _close(part) for key, part in schema.items()}
        return {"additionalProperties": False, **closed} if "properties" in schema else closed
    return [_close(part) for part in schema] if isinstance(schema, list) else schema
