# SPDX-License-Identifier: Apache-2.0
"""The Debian packages say what pyproject.toml and the imports say."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

import cowd
import cowdaemon
import pytest

ROOT = Path(__file__).resolve().parents[2]
DEBIAN = ROOT / "packaging" / "debian"

# By the names that modules have and that pyproject.toml has: what Debian calls it.
OF_MODULES = {
    "click": "python3-click",
    "cowproto": "python3-cowd",
    "cowd": "python3-cowd",
    "google": "python3-protobuf",
    "grpc": "python3-grpcio",
    "matplotlib": "python3-matplotlib",
    "numpy": "python3-numpy",
    "prometheus_client": "python3-prometheus-client",
    "rich": "python3-rich",
    "systemd": "python3-systemd",
}
OF_DISTRIBUTIONS = {"systemd-python": "python3-systemd"}
FOR_TYPE_CHECKERS = {"typing_extensions"}
NOT_IN_DEBIAN = {"opentelemetry"}
NO_PYTHON = {"libseccomp2", "passwd"}

# By package: folders of ours, and what of them is in another package.
PLACES = {
    "cowd": (["daemon/cowdaemon"], []),
    "python3-cowd": (
        ["client/cowd", "proto/cowproto"],
        ["client/cowd/cli", "client/cowd/exporters"],
    ),
    "cowctl": (["client/cowd/cli", "client/cowd/exporters"], []),
}
OURS = {*PLACES, "cowd-exporter"}
# What cowctl imports when it is first needed: it says so if that is missing.
FIRST_NEEDED = ("plot", "prometheus")
EXTRAS = ("daemon", *FIRST_NEEDED)


def read_project() -> dict[str, dict[str, str]]:
    """Return what pyproject.toml asks for, by extra ("" for none): Debian's name and the floor."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = {"": project["dependencies"]}
    asked |= {extra: project["optional-dependencies"][extra] for extra in EXTRAS}
    return {extra: dict(map(parse_requirement, lines)) for extra, lines in asked.items()}


def parse_requirement(requirement: str) -> tuple[str, str]:
    """Return Debian's name of what is required, and the least version."""
    parts = re.fullmatch(r"([a-z-]+)>=([0-9.]+)", requirement)
    assert parts, f"{requirement}: not a name and a least version"
    return OF_DISTRIBUTIONS.get(parts[1], f"python3-{parts[1]}"), parts[2]


def read_control() -> dict[str, dict[str, str]]:
    """Return the fields of each paragraph of debian/control, by package, "" for the source."""
    text = re.sub(r"^#.*\n", "", (DEBIAN / "control").read_text(), flags=re.MULTILINE)
    paragraphs = {}
    for paragraph in re.split(r"\n{2,}", text.strip()):
        fields = dict(re.findall(r"^(\S+):((?:.*\n?)(?:^[ ].*\n?)*)", paragraph, re.MULTILINE))
        paragraphs[fields.get("Package", "").strip()] = fields
    return paragraphs


def parse_relations(field: str) -> dict[str, str]:
    """Return the least version of each package that a field names, "" for any; no ${...}."""
    relations = {}
    for relation in filter(None, map(str.strip, field.split(","))):
        if not relation.startswith("$"):
            parts = re.fullmatch(r"(\S+)(?: \(>?= (?:\d:)?([^)]+)\))?", relation)
            assert parts, relation
            relations[parts[1]] = parts[2] or ""
    return relations


CONTROL = read_control()
DEPENDS = {name: parse_relations(fields["Depends"]) for name, fields in CONTROL.items() if name}
SUGGESTS = {
    name: parse_relations(fields.get("Suggests", "")) for name, fields in CONTROL.items() if name
}


def iter_imported(folders: Sequence[str], without: Sequence[str]) -> Iterator[str]:
    """Yield the modules outside of the standard library that folders of ours import."""
    for path in (path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        if any(path.is_relative_to(ROOT / folder) for folder in without):
            continue
        for node in ast.walk(ast.parse(path.read_bytes())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            yield from (name.split(".")[0] for name in names)


@pytest.mark.parametrize("package", PLACES)
def test_a_package_depends_on_what_its_modules_import(package: str) -> None:
    folders, without = PLACES[package]
    imported = set(iter_imported(folders, without)) - set(sys.stdlib_module_names)
    imported -= {"cowdaemon", *FOR_TYPE_CHECKERS, *NOT_IN_DEBIAN}
    needed = {OF_MODULES[name] for name in imported} - {package}
    if package == "cowctl":
        project = read_project()
        late = {name for extra in FIRST_NEEDED for name in project[extra]}
        assert needed & set(SUGGESTS[package]) == late
        needed -= late
    assert needed <= set(DEPENDS[package])


def test_the_exporter_depends_on_what_its_command_imports_late() -> None:
    assert read_project()["prometheus"].items() <= DEPENDS["cowd-exporter"].items()


def test_the_library_depends_on_all_that_its_metadata_names() -> None:
    assert DEPENDS["python3-cowd"] == read_project()[""]


def test_least_versions_are_those_of_pyproject() -> None:
    project = {name: floor for asked in read_project().values() for name, floor in asked.items()}
    for package in OURS - {"python3-cowd"}:
        asked = {name: floor for name, floor in DEPENDS[package].items() if name not in NO_PYTHON}
        assert {asked.pop(name) for name in OURS & set(asked)} == {"${binary:Version}"}
        asked |= {name: floor for name, floor in SUGGESTS[package].items() if name in project}
        assert asked == {name: project[name] for name in asked}


def test_the_build_needs_the_same_backend() -> None:
    system = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]
    needed = dict(map(parse_requirement, system["requires"]))
    assert needed.items() <= parse_relations(CONTROL[""]["Build-Depends"]).items()


def test_make_installs_what_the_packages_depend_on() -> None:
    """And for the exporter, which `make demo` does without, where the tests are set up."""
    makefile = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    made = dict(re.findall(r"^([A-Z]+)_PACKAGES := (.*)", makefile, re.MULTILINE))
    depended = {name for package in PLACES for name in DEPENDS[package]}
    assert set(made["RUNTIME"].split()) == depended - {"passwd"} - OURS
    assert set(DEPENDS["cowd-exporter"]) - OURS <= set(made["SETUP"].split())


def test_python_has_the_same_least_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert CONTROL[""]["X-Python3-Version"].strip().replace(" ", "") == project["requires-python"]


def test_versions_agree() -> None:
    newest = (DEBIAN / "changelog").read_text().splitlines()[0]
    assert newest.startswith(f"cowd ({cowdaemon.__version__}) ")
    assert cowd.__version__ == cowdaemon.__version__


def test_files_that_the_page_on_monitoring_links_to_are_shipped() -> None:
    """All of them in one folder, so that the rules' tests find the rules."""
    linked = set(re.findall(r"\]\((packaging/[^)]+)\)", (ROOT / "MONITORING.md").read_text()))
    shipped = set((DEBIAN / "cowd-exporter.examples").read_text().splitlines()[1:])
    assert linked
    assert linked <= shipped
    assert all((ROOT / path).is_file() for path in shipped)
    assert "MONITORING.md" in (DEBIAN / "cowd-exporter.docs").read_text().splitlines()


def test_descriptions_of_the_contract_are_shipped() -> None:
    """All but twins, which are for our own two ends."""
    contracts = {path.parent for path in (ROOT / "proto" / "cowd").glob("v*/*.proto")}
    assert contracts
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    shared = build["targets"]["wheel"]["shared-data"]
    assert shared == {
        str(path.relative_to(ROOT)): f"share/cowd/{path.relative_to(ROOT)}" for path in contracts
    }
    installed = (DEBIAN / "python3-cowd.install").read_text().splitlines()
    assert "usr/share/cowd/proto" in installed
