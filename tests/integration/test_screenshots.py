# SPDX-License-Identifier: Apache-2.0
"""The pictures in the README: the script takes them, and those that are there are of that kind."""

import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from harness.daemon import ROOT

PLACE = ROOT / "packaging" / "screenshots"
TEXT = "{http://www.w3.org/2000/svg}text"
SECONDS = 120.0
# What a picture of each kind shows, by words that the commands write.
WORDS = {
    "maps.svg": ["ADDRESS", "COPIED", "MAPPING", "catalogue.db", "copied"],
    "family.svg": ["COMMAND", "SHARED", "BY-CHILD", "BY-PARENT", "warehouse", "heap"],
    "plot.svg": ["warehouse (", "copied", "anonymous", "catalogue.db", "[heap]"],
}


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with pictures taken now."""
    pytest.importorskip("matplotlib", reason="no matplotlib: it draws the pictures")
    directory = tmp_path_factory.mktemp("screenshots")
    before = set(Path("/var/tmp").glob("shop-*"))
    path = os.pathsep.join(str(ROOT / folder) for folder in ("proto", "daemon", "client", "tests"))
    subprocess.run(
        [sys.executable, PLACE / "render.py", directory],
        env=os.environ | {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
        check=True,
        timeout=SECONDS,
    )
    assert set(Path("/var/tmp").glob("shop-*")) <= before, "it leaves its shop behind"
    return directory


def read_words(path: Path) -> str:
    """Return all text of a picture."""
    texts = ("".join(each.itertext()) for each in ET.parse(path).iter(TEXT))
    return " ".join(texts).replace("\N{NO-BREAK SPACE}", " ")


def verify(path: Path) -> None:
    """Check that a picture is of its kind, and loads nothing."""
    text = read_words(path)
    missing = [word for word in WORDS[path.name] if word not in text]
    assert missing == [], text
    loaded = re.findall(r"(?:href|src)=\"([^#][^\"]*)|url\(([^#)][^)]*)|@import", path.read_text())
    assert loaded == []


def test_the_script_takes_every_picture_and_leaves_nothing(taken: Path) -> None:
    """Seen to fail with a heading that no command writes, and with rich's own fonts."""
    assert {each.name for each in taken.iterdir()} == set(WORDS)
    for each in taken.iterdir():
        verify(each)


def test_what_is_known_of_the_server_is_in_its_pictures(taken: Path) -> None:
    """Of the catalogue, 450 pages have been copied: 1.8M."""
    maps = read_words(taken / "maps.svg")
    assert re.search(r"24M\s+\S+\s+1\.8M", maps), maps
    family = read_words(taken / "family.svg")
    assert "4 children" in family
    assert len(re.findall(r"\bwarehouse\b", family)) == 4


@pytest.mark.parametrize("name", WORDS)
def test_the_pictures_in_the_readme_are_of_their_kind(name: str) -> None:
    verify(PLACE / name)
    readme = (ROOT / "README.md").read_text()
    [alternative] = re.findall(rf"!\[([^\]]+)\]\(packaging/screenshots/{name}\)", readme)
    assert len(alternative) > 30
