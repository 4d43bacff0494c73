# SPDX-License-Identifier: Apache-2.0
"""The table of reasons: what clients build on, and that no call of ours can fail to say why."""

import ast
import re
import string
from collections.abc import Iterator
from pathlib import Path

import cowdaemon
import grpc
import pytest
from cowdaemon.errors import DOMAIN, Code, CowdError, Reason

REASONS = pytest.mark.parametrize("reason", Reason, ids=lambda reason: reason.name)


def fields_of(reason: Reason) -> set[str]:
    """The names that the reason's sentence has to be given."""
    return {name for _, name, _, _ in string.Formatter().parse(reason.sentence) if name}


def test_numbers_are_unique_and_fit_the_wire() -> None:
    numbers = [reason.number for reason in Reason]
    assert len(set(numbers)) == len(numbers)
    assert all(0 < number < 2**32 for number in numbers)


@REASONS
def test_number_leads_back_to_the_reason(reason: Reason) -> None:
    assert Reason.from_number(reason.number) is reason


@pytest.mark.parametrize("number", [0, 999, 2**32 - 1])
def test_unknown_number_is_an_internal_error(number: int) -> None:
    assert Reason.from_number(number) is Reason.INTERNAL_ERROR


@REASONS
def test_name_is_what_error_info_allows(reason: Reason) -> None:
    # google/rpc/error_details.proto, ErrorInfo.reason
    assert re.fullmatch(r"[A-Z][A-Z0-9_]+[A-Z0-9]", reason.name)
    assert len(reason.name) <= 63


@REASONS
def test_sentence_takes_numbers_and_says_something(reason: Reason) -> None:
    error = CowdError(reason, **dict.fromkeys(fields_of(reason), 4096))
    assert error.reason is reason
    assert "{" not in str(error)
    assert str(error).endswith(tuple(string.ascii_letters + string.digits + ")"))


@pytest.mark.parametrize("code", Code, ids=lambda code: code.name)
def test_code_is_the_one_of_grpc(code: Code) -> None:
    number, _ = grpc.StatusCode[code.name].value
    assert number == code


def test_domain_is_stable() -> None:
    assert DOMAIN == "cowd"


def iter_nodes(pattern: str) -> Iterator[tuple[str, ast.AST]]:
    """Every piece of syntax in these modules of the daemon, and the module's name."""
    for path in Path(cowdaemon.__file__).parent.glob(pattern):
        for node in ast.walk(ast.parse(path.read_bytes())):
            yield path.name, node


def test_every_error_is_given_the_fields_of_its_sentence() -> None:
    for module, node in iter_nodes("**/*.py"):
        match node:
            case ast.Call(
                func=ast.Name(id="CowdError"),
                args=[ast.Attribute(value=ast.Name(id="Reason"), attr=name)],
                keywords=keywords,
            ):
                given = {keyword.arg for keyword in keywords}
                assert given == fields_of(Reason[name]), f"{module}:{node.lineno}"


def test_reasons_that_travel_as_numbers_need_no_field_but_the_pid() -> None:
    for module, node in iter_nodes("broker/*.py"):
        match node:
            case ast.Attribute(value=ast.Name(id="Reason"), attr=name) if name.isupper():
                known = {"pid"} if module == "opener.py" else set()
                assert fields_of(Reason[name]) <= known, f"{module}:{node.lineno}"
