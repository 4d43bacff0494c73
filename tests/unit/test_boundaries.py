# SPDX-License-Identifier: Apache-2.0
"""The walls between the folders, read from the imports; the size of root's part; form of files."""

import ast
import io
import json
import sys
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("client", "daemon", "packaging", "proto", "tests", ".ci")

MOST_LINES = 400
PRIVILEGED_LINES_END = 900
"""Of code in the broker and the opener there are fewer: few enough to be read at one sitting."""
MEANINGLESS_NAMES = {"common", "helper", "helpers", "misc", "util", "utils"}
SPDX_LINE = "SPDX-License-Identifier: Apache-2.0"
WITHOUT_COMMENTS = {".json", ".typed"}
FORMS_OF_OTHERS = {"LICENSE", "packaging/debian/changelog", "packaging/debian/source/format"}
"""Which leave no place for the line."""
BUILT = {".git", "__pycache__", "build", "node_modules"}
"""Where programs write. In a worktree .git is a file."""

STANDARD = set(sys.stdlib_module_names) - {"importlib", "runpy"}  # which import by computed names
SHARED = {
    "cowdaemon",
    "cowdaemon.counters",
    "cowdaemon.errors",
    "cowdaemon.limits",
    "cowdaemon.system",
    "cowdaemon.wire",
}
MESSAGES = {"cowproto", "google.protobuf"}

# What a folder or a module may import. The first that holds a module counts for it.
WALLS = {
    "daemon/cowdaemon/system": STANDARD | {"cowdaemon.limits", "cowdaemon.system", "systemd"},
    "daemon/cowdaemon/broker": STANDARD
    | SHARED
    | {"cowdaemon.broker", "cowdaemon.config", "cowdaemon.listener", "systemd"},
    "daemon/cowdaemon/main.py": STANDARD
    | SHARED
    | {"cowdaemon.broker", "cowdaemon.config", "cowdaemon.listener", "systemd"},
    "daemon/cowdaemon/listener.py": STANDARD | SHARED | {"systemd"},
    "daemon/cowdaemon/worker": STANDARD | SHARED | MESSAGES | {"cowdaemon.worker", "grpc", "numpy"},
    "daemon": STANDARD | SHARED | {"cowdaemon.config_document"},
    # typing_extensions is for type checkers alone; matplotlib for one command, where it is there.
    "client/cowd/cli/drawing.py": STANDARD | {"cowd", "matplotlib"},
    # What exports in a form of somebody else's, by their library.
    "client/cowd/exporters/prometheus.py": STANDARD | {"cowd", "prometheus_client"},
    "client/cowd/exporters/otlp.py": STANDARD | {"cowd", "opentelemetry"},
    "client": STANDARD
    | MESSAGES
    | {"cowd", "click", "grpc", "importlib", "numpy", "rich", "typing_extensions"},
    "proto": STANDARD | MESSAGES | {"grpc"},
}


def is_generated(path: Path) -> bool:
    """Whether a program wrote the file: protoc, Python, git, or what builds the examples."""
    parts = path.relative_to(ROOT).parts
    return path.match("cowproto/v1/*_pb2*") or not BUILT.isdisjoint(parts)


def iter_files() -> Iterator[Path]:
    """Every file that a person wrote."""
    for paths in ROOT.iterdir(), *((ROOT / folder).rglob("*") for folder in FOLDERS):
        yield from (path for path in paths if path.is_file() and not is_generated(path))


FILES = {str(path.relative_to(ROOT)): path for path in sorted(iter_files())}
MODULES = [name for name in FILES if name.endswith(".py")]
WALLED_MODULES = [name for name in MODULES if name.split("/")[0] in WALLS]


def is_module(dotted: str) -> bool:
    """Whether this is a module or package of ours, rather than a name in one."""
    places = [ROOT / folder / Path(*dotted.split(".")) for folder in ("client", "daemon", "proto")]
    return any(place.is_dir() or place.with_suffix(".py").is_file() for place in places)


def iter_imports(path: Path) -> Iterator[str]:
    """Every module that the code in `path` imports, inside functions as well."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            for alias in node.names:
                dotted = f"{node.module}.{alias.name}"
                yield dotted if is_module(dotted) else node.module
        elif isinstance(node, ast.Name) and node.id == "__import__":
            yield "__import__"


def is_allowed(imported: str, allowed: set[str]) -> bool:
    """Whether `allowed` has the module or a package it is in; cowdaemon alone opens no folder."""
    parts = imported.split(".")
    above = {".".join(parts[:length]) for length in range(1, len(parts))} - {"cowdaemon"}
    return imported in allowed or not above.isdisjoint(allowed)


@pytest.mark.parametrize("name", WALLED_MODULES)
def test_module_imports_only_what_its_side_of_the_wall_may(name: str) -> None:
    allowed = next(modules for place, modules in WALLS.items() if name.startswith(place))
    forbidden = {module for module in iter_imports(FILES[name]) if not is_allowed(module, allowed)}
    assert not forbidden


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("daemon/cowdaemon/broker", "grpc"),
        ("daemon/cowdaemon/broker", "numpy"),
        ("daemon/cowdaemon/broker", "cowproto.v1"),
        ("daemon/cowdaemon/broker", "cowdaemon.worker.relay"),
        ("daemon/cowdaemon/broker", "cowd"),
        ("daemon/cowdaemon/broker", "cowdaemon.main"),
        ("daemon/cowdaemon/system", "cowdaemon.broker.peers"),
        ("daemon/cowdaemon/system", "cowdaemon.config"),
        ("daemon/cowdaemon/system", "cowdaemon.wire"),
        ("daemon/cowdaemon/system", "grpc"),
        ("daemon/cowdaemon/listener.py", "cowdaemon.broker"),
        ("daemon/cowdaemon/main.py", "cowdaemon.worker"),
        ("daemon/cowdaemon/worker", "cowdaemon.broker"),
        ("daemon/cowdaemon/worker", "cowdaemon.config"),
        ("daemon/cowdaemon/worker", "cowdaemon.listener"),
        ("daemon/cowdaemon/worker", "cowd.client"),
        ("daemon", "cowdaemon.worker"),
        ("daemon", "cowdaemon.broker"),
        ("daemon", "systemd.daemon"),
        ("client", "cowdaemon"),
        ("client", "cowdaemon.errors"),
        ("client", "matplotlib"),
        ("proto", "cowdaemon.wire"),
    ],
)
def test_walls_keep_out_what_they_are_for(importer: str, imported: str) -> None:
    assert not is_allowed(imported, WALLS[importer])


# What runs as root and stays: the broker and the opener.


def iter_bare_strings(tree: ast.AST) -> Iterator[ast.Expr]:
    """Every docstring, of attributes as well."""
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            yield node


def count_code_lines(source: bytes) -> int:
    """How many lines hold code: no comment, no docstring, and something."""
    without_code = {
        *(tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT),
        *(tokenize.ENCODING, tokenize.ENDMARKER),
    }
    lines: set[int] = set()
    for token in tokenize.tokenize(io.BytesIO(source).readline):
        if token.type not in without_code:
            lines.update(range(token.start[0], token.end[0] + 1))
    for docstring in iter_bare_strings(ast.parse(source)):
        lines.difference_update(range(docstring.lineno, docstring.end_lineno + 1))
    return len(lines)


def iter_files_of(imported: str) -> Iterator[str]:
    """The files of ours that are run to import this: those of its packages as well."""
    parts = imported.split(".")
    for length in range(1, len(parts) + 1):
        place = "/".join(["daemon", *parts[:length]])
        yield from (name for name in (f"{place}.py", f"{place}/__init__.py") if name in FILES)


def find_reached(names: Iterable[str]) -> set[str]:
    """Return the files, and all that are imported from there, and from there."""
    reached: set[str] = set()
    left = set(names)
    while left:
        name = left.pop()
        reached.add(name)
        for imported in iter_imports(FILES[name]):
            left.update(set(iter_files_of(imported)) - reached)
    return reached


BROKER = [name for name in MODULES if name.startswith("daemon/cowdaemon/broker/")]


def test_broker_and_opener_are_short() -> None:
    counts = {name: count_code_lines(FILES[name].read_bytes()) for name in BROKER}
    assert sum(counts.values()) < PRIVILEGED_LINES_END, counts


def test_broker_and_opener_rest_on_the_standard_library_and_systemd_alone() -> None:
    """Whatever of ours they import, and whatever that imports."""
    reached = find_reached(BROKER)
    ours = ("broker/opener.py", "system/procfs.py", "config.py", "wire.py", "__init__.py")
    assert reached >= {f"daemon/cowdaemon/{name}" for name in ours}
    imported = {(name, module) for name in reached for module in iter_imports(FILES[name])}
    known = STANDARD | {"cowdaemon", "systemd"}
    of_others = [(name, module) for name, module in imported if module.split(".")[0] not in known]
    assert not of_others


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("", 0),
        ("# x\n\nx = 1  # y\n", 1),
        ('"""x\n\ny"""\n\nimport x\n', 1),
        ('class X:\n    """x."""\n\n    def y(self):\n        """y.\n\n        z"""\n', 2),
        ('X = 1\n"""x\ny"""\n', 1),
        ('X = """x\n\ny"""\n', 3),
        ("x(\n    1,\n\n    # y\n    2,\n)\n", 4),
    ],
    ids=["nothing", "comments", "module", "class", "attribute", "string", "brackets"],
)
def test_lines_of_code_are_those_that_hold_some(source: str, count: int) -> None:
    assert count_code_lines(source.encode()) == count


# The form of every file.


@pytest.mark.parametrize("name", MODULES)
def test_module_fits_in_one_head(name: str) -> None:
    line_count = FILES[name].read_bytes().count(b"\n")
    assert line_count <= MOST_LINES


@pytest.mark.parametrize("name", MODULES)
def test_module_is_named_for_what_it_holds(name: str) -> None:
    assert MEANINGLESS_NAMES.isdisjoint(Path(name).with_suffix("").parts)


@pytest.mark.parametrize("name", sorted(set(FILES) - FORMS_OF_OTHERS))
def test_file_says_its_license(name: str) -> None:
    if FILES[name].suffix not in WITHOUT_COMMENTS:
        assert any(SPDX_LINE in line for line in FILES[name].read_text().splitlines()[:3])


def test_lock_file_names_no_place_to_download_from() -> None:
    lock = json.loads(FILES["client/examples/node/package-lock.json"].read_bytes())
    packages = [package for name, package in lock["packages"].items() if name]
    assert packages
    for package in packages:
        assert "integrity" in package
        assert "resolved" not in package
