# SPDX-License-Identifier: Apache-2.0
"""Pictures of a made-up process: what is in them, and how the file is written."""

import os
import re
import stat
import sys
import warnings
import xml.etree.ElementTree as ET
from datetime import UTC, datetime
from html.parser import HTMLParser

import pytest
from cowd.cli.drawing import COLORS
from cowd.cli.pictures import SORTS
from cowd.cli.symbols import COPIED

START = 0x7F0000000000
PAGE = 4096
NAMES = {
    ".": "absent",
    "f": "file",
    "a": "anon",
    "s": "anon_swapped",
    "z": "zero",
    "G": "guard",
    "?": "unknown",
}
SVG = "{http://www.w3.org/2000/svg}"
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def process(fake, mapping, monkeypatch):
    """Give the process mappings with pages of every sort, and names that are not to be trusted."""
    pytest.importorskip("matplotlib", reason="no matplotlib: it draws the pictures")
    fake.pages = "aaf.ssazz?Gaffff" + "f" * 600
    fake.mappings = [
        mapping(START, 5, b"/srv/words.dat"),
        mapping(START + 5 * PAGE, 6, b"[heap]", kind="anonymous"),
        mapping(START + 11 * PAGE, 5, b"/dev/shm/shared", kind="shared"),
        mapping(START + 16 * PAGE, 600, '/tmp/<b>&"$x^2$ 写\x1b[31m'.encode()),
    ]
    fake.maximum_page_count = 100

    def count_pages(mapping):
        first, end = ((at - START) // PAGE for at in (mapping.start_address, mapping.end_address))
        for char, name in NAMES.items():
            count = fake.pages[first:end].count(char)
            setattr(mapping.page_counts, f"{name}_page_count", count)

    fake.count_pages = count_pages
    moment = datetime(2026, 11, 23, 12, tzinfo=UTC)
    monkeypatch.setattr("cowd.cli.plot.read_time", lambda: moment)
    monkeypatch.setattr("cowd.cli.plot.read_names", lambda _: ("u", "</title><script>$a_b$"))
    return fake


@pytest.fixture
def plot(run, tmp_path):
    """Return a function that draws process 7 with some options, and returns the file's bytes."""

    def plot(name, *options):
        status, out, err = run("plot", "7", "-o", str(tmp_path / name), *options)
        assert (status, out) == (0, ""), err
        plot.messages = err
        return (tmp_path / name).read_bytes()

    return plot


def read_texts(svg):
    return ["".join(each.itertext()) for each in ET.fromstring(svg).iter(f"{SVG}text")]


@pytest.mark.usefixtures("process")
def test_a_picture_tells_names_sizes_and_totals(plot):
    """Seen to fail with math in names, which lost their dollars."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        texts = read_texts(plot("map.svg"))
    assert texts[0] == "</title><script>$a_b$ (7)"
    assert texts[1].startswith("2026-11-23 12:00:00")
    assert "2.4M mapped" in texts[1]
    assert "12K copied from files" in texts[1]
    assert texts[2:10] == [
        "copied 8K",
        "copied, swapped out 4K",
        "unknown 4K",
        "guard 4K",
        "anonymous 4K",
        "anonymous, swapped out 4K",
        "zero page 8K",
        "file 2.3M",
    ]
    assert texts[10] == "absent 4K"
    assert {"/srv/words.dat", "[heap]", '/tmp/<b>&"$x^2$ 写\\x1b[31m', f"{START:x} rw-p"} <= {
        *texts
    }
    assert "/dev/shm/shared" not in texts
    assert not re.search(r"\d more|Not shown", "".join(texts))


@pytest.mark.usefixtures("process")
def test_colours_are_those_of_the_sorts_and_differ(plot):
    fills = set(re.findall(r"fill: (#[0-9a-f]{6})", plot("map.svg").decode()))
    assert set(COLORS.values()) <= fills
    assert len(set(COLORS.values())) == len(SORTS)


@pytest.mark.usefixtures("process")
def test_one_copied_page_among_many_is_drawn(plot, process, mapping):
    """Seen to fail with columns that have the colour of most of their pages."""
    process.pages = "f" * 3000 + "a" + "f" * 2999
    process.mappings = [mapping(START, 6000, b"/tmp/words")]
    picture = plot("map.svg", "--mapping=/tmp/")
    assert picture.decode().count(f"fill: {COLORS[COPIED]}") == 2  # in the legend, and in the strip


@pytest.mark.usefixtures("process")
def test_what_there_is_no_room_for_is_told(plot):
    texts = read_texts(plot("map.svg", "--rows=1"))
    assert "[heap]" not in texts
    assert "copied 8K" in texts
    assert texts[-1] == (
        "Not shown: 2 mappings with fewer pages, 16K in memory, 12K copied. The legend counts them."
    )
    assert plot.messages == "cowctl: note: 1 mappings of 3 are drawn: --rows draws more\n"


@pytest.mark.usefixtures("process")
def test_mappings_can_be_chosen(plot):
    assert "/dev/shm/shared" in read_texts(plot("all.svg", "--all"))
    names = read_texts(plot("some.svg", "--mapping=shm"))
    assert "/dev/shm/shared" in names
    assert "[heap]" not in names


@pytest.mark.usefixtures("process")
@pytest.mark.parametrize("name", ["map.png", "map.svg", "map.html"])
def test_the_same_picture_is_the_same_bytes(plot, name):
    """Seen to fail without a salt for the ids of SVG, and with its date."""
    first = plot(name)
    assert first == plot(name)
    assert b"atplotlib" not in first.replace(b"<!--", b"")


@pytest.mark.usefixtures("process")
def test_settings_of_the_user_change_nothing(plot):
    """Seen to fail with them: the picture was cut to what is in it."""
    import matplotlib

    usual = plot("map.svg")
    with matplotlib.rc_context({"savefig.bbox": "tight", "svg.fonttype": "path"}):
        assert plot("map.svg") == usual
        assert matplotlib.rcParams["savefig.bbox"] == "tight"


@pytest.mark.usefixtures("process")
def test_a_png_is_as_wide_as_asked_for(plot):
    for width in (640, 1200):
        picture = plot("map.png", f"--width={width}")
        assert picture.startswith(PNG)
        assert int.from_bytes(picture[16:20], "big") == width


class Page(HTMLParser):
    """What is in a page: tags, where anything is loaded from, titles, cells."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.places, self.texts = [], [], {"title": [], "td": []}
        self._inside = None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.places += [value for key, value in attrs if key in ("src", "href", "xlink:href")]
        self._inside = tag if tag in self.texts else None
        if self._inside:
            self.texts[tag].append("")

    def handle_data(self, data):
        if self._inside:
            self.texts[self._inside][-1] += data

    def handle_endtag(self, tag):  # noqa: ARG002
        self._inside = None


@pytest.mark.usefixtures("process")
def test_a_page_tells_of_each_mapping_and_loads_nothing(plot):
    """Seen to fail with names that were not escaped."""
    text = plot("map.html").decode()
    page = Page(text)
    assert "script" not in page.tags
    assert "b" not in page.tags
    assert all(place.startswith("#") for place in page.places)
    assert not re.search(r"url\((?!#)|@import|DTD", text)
    assert page.texts["title"][0] == "The pages of </title><script>$a_b$ (7)"
    assert page.texts["title"][1:] == [
        f"/srv/words.dat\n{START:x}-{START + 5 * PAGE:x} rw-p\n"
        "copied: 2 pages, 8K\ncopied, swapped out: 1 page, 4K\nfile: 1 page, 4K\n"
        "absent: 1 page, 4K",
        f"[heap]\n{START + 5 * PAGE:x}-{START + 11 * PAGE:x} rw-p\n"
        "unknown: 1 page, 4K\nguard: 1 page, 4K\nanonymous: 1 page, 4K\n"
        "anonymous, swapped out: 1 page, 4K\nzero page: 2 pages, 8K",
        f'/tmp/<b>&"$x^2$ 写\\x1b[31m\n{START + 16 * PAGE:x}-{START + 616 * PAGE:x} rw-p\n'
        "file: 600 pages, 2.3M",
    ]
    assert page.texts["td"][:6] == ["/srv/words.dat", f"{START:x}", "20K", "8K", "4K", ""]
    assert page.texts["td"][-12] == "all, with what is not drawn"


def test_an_ending_that_is_not_known_is_wrong_usage(run, tmp_path):
    for name in ("map", "map.jpg", "png"):
        status, out, err = run("plot", "7", "-o", str(tmp_path / name))
        assert (status, out) == (2, "")
        assert ".png, .svg or .html" in err
    assert run("plot", "7")[0] == 2
    assert run("plot", "7", "1000+2", "-o", "x.png")[0] == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("process")
def test_a_file_is_replaced_as_a_whole_and_may_be_read_by_others(plot, tmp_path):
    (tmp_path / "map.svg").write_bytes(b"x" * 10**6)
    before = os.umask(0o022)
    try:
        assert plot("map.svg").endswith(b"</svg>\n")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "map.svg").stat().st_mode) == 0o644
    assert [each.name for each in tmp_path.iterdir() if each.suffix == ".svg"] == ["map.svg"]


@pytest.mark.usefixtures("process")
def test_a_picture_that_cannot_be_written_leaves_nothing(run, tmp_path, monkeypatch):
    """Seen to fail where the file itself was opened."""
    old = tmp_path / "map.svg"
    old.write_text("old")

    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fchmod", refuse)
    status, out, err = run("plot", "7", "-o", str(old))
    assert (status, out) == (1, "")
    assert err == f"cowctl: cannot write {old}: No space left on device\n"
    assert old.read_text() == "old"
    assert {each.name for each in tmp_path.iterdir()} == {"map.svg", "cowd.sock"}


def test_what_cannot_be_written_is_said_before_anything_is_read(run, tmp_path):
    """Nobody answers here. Seen to fail with the look at the directory taken out."""
    status, _, err = run("plot", "7", "-o", f"{tmp_path}/none/map.png")
    assert status == 1
    assert err.startswith(f"cowctl: cannot write {tmp_path}/none/map.png: its directory ")


@pytest.mark.usefixtures("process")
def test_without_matplotlib_it_says_what_to_install(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    status, _, err = run("plot", "7", "-o", str(tmp_path / "map.png"))
    assert status == 1
    assert "python3-matplotlib" in err
    assert "pip install matplotlib" in err


@pytest.mark.usefixtures("process")
def test_nothing_to_draw_is_said(run, tmp_path):
    status, _, err = run("plot", "7", "-o", str(tmp_path / "map.png"), "--mapping=nothing")
    assert status == 1
    assert "has no mapping whose name has 'nothing' in it" in err
