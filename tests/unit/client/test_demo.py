# SPDX-License-Identifier: Apache-2.0
"""`cowctl demo`: its judge, its experiment, and what it says of wrong answers."""

import errno
import io
import json
import mmap
import os
import tempfile
from pathlib import Path

import click
import pytest
from cowd import Mapping, MappingKind, PageAttributes, PageState
from cowd._runs import Run
from cowd.cli import experiment
from cowd.cli.demo import Answer
from cowd.cli.experiment import ACTIONS, Medium, map_privately, open_media
from cowd.cli.main import main
from harness.schemas import verify_json

STATES = {
    ".": PageState.ABSENT,
    "f": PageState.FILE,
    "a": PageState.ANON,
    "s": PageState.ANON_SWAPPED,
    "?": PageState.UNKNOWN,
}


def find_mistakes(drawn, kind=MappingKind.PRIVATE_FILE):
    mapping = Mapping(0, 4 * 4096, "rw-p", 0, b"/x", kind)
    medium = Medium("disk", "ext4", "/x", io.BytesIO())
    runs = [Run(0, 1, 4096, STATES[char], PageAttributes(0), None, mapping) for char in drawn]
    answers = [
        Answer(medium, page, action, run, None)
        for page, (action, run) in enumerate(zip(ACTIONS, runs, strict=True))
    ]
    return [answer.mistake for answer in answers if not answer.right]


@pytest.mark.parametrize("drawn", ["afaf", "a.af", "s.sf", "a.a.", "afs."])
def test_right_answers_are_right(drawn):
    assert find_mistakes(drawn) == []


@pytest.mark.parametrize(
    ("drawn", "mistake"),
    [
        ("ffaf", "disk: page 0 was written: expected copied, got not copied (state file)"),
        ("aaaf", "disk: page 1 was untouched: expected not copied, got copied (state anon)"),
        ("a..f", "disk: page 2 was written: expected copied, got not copied (state absent)"),
        ("afaa", "disk: page 3 was read: expected not copied, got copied (state anon)"),
        ("afas", "disk: page 3 was read: expected not copied, got copied (state anon_swapped)"),
        ("?faf", "disk: page 0 was written: expected copied, got no answer (state unknown)"),
        ("af?f", "disk: page 2 was written: expected copied, got no answer (state unknown)"),
    ],
)
def test_each_wrong_answer_is_named(drawn, mistake):
    assert find_mistakes(drawn) == [mistake]


def test_an_answer_about_another_mapping_is_wrong():
    assert len(find_mistakes("afaf", MappingKind.ANONYMOUS)) == 4


def test_the_experiment_maps_what_it_says():
    with open_media() as media:
        assert [medium.name for medium in media] == ["disk", "tmpfs"]
        assert media[0].filesystem != "tmpfs"
        for medium in media:
            assert os.fstat(medium.file.fileno()).st_nlink == 0
            with map_privately(medium.file) as address:
                line = next(
                    line
                    for line in Path("/proc/self/maps").read_text().splitlines()
                    if line.startswith(f"{address:x}-")
                )
                assert line.split()[1] == "rw-p"
                assert line.endswith("(deleted)")
            medium.file.seek(0)
            assert medium.file.read() == b"original\n".ljust(mmap.PAGESIZE) * 4


def test_tmpfs_is_a_memfd_where_no_tmpfs_can_be_written(monkeypatch):
    monkeypatch.setattr(experiment, "_SHARED_MEMORY", "/nowhere")
    with open_media() as media:
        assert media[1][:3] == ("tmpfs", "tmpfs", "memfd")


def test_without_a_disk_the_demo_fails_with_what_to_do(monkeypatch):
    def refuse(dir):  # noqa: A002 (a name of tempfile's)
        raise PermissionError(dir)

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(click.ClickException, match="set TMPDIR"), open_media():
        pass


@pytest.mark.usefixtures("fake")
def test_an_experiment_that_fails_is_said(monkeypatch, capsys):
    def fail(_file):
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    monkeypatch.setattr("cowd.cli.demo.map_privately", fail)
    assert main(["demo"]) == 1
    assert capsys.readouterr() == (
        "",
        "cowctl: the experiment cannot be made: [Errno 12] Cannot allocate memory\n",
    )


@pytest.fixture
def answering(fake, monkeypatch, mapping):
    """Return a function that makes every four pages look as drawn."""

    def answer(drawn):
        monkeypatch.setattr("cowd.cli.demo.map_privately", lambda _file: _At(0x7F0000000000))
        fake.mappings = [mapping(0x7F0000000000, 4)]
        fake.pages = drawn

    return answer


class _At:
    def __init__(self, address):
        self.address = address

    def __enter__(self):
        return self.address

    def __exit__(self, *exception):
        return None


def test_right_answers_exit_with_0(answering, capsys):
    answering("afa.")
    assert main(["demo"]) == 0
    written = capsys.readouterr()
    assert written.err == ""
    assert written.out.endswith("8 of 8 answers are right.\n")
    assert written.out.count("|CfC.|") == 2
    assert all(len(line) <= 80 for line in written.out.splitlines())


def test_a_wrong_answer_exits_with_1_and_says_which(answering, capsys):
    answering("aaa.")
    assert main(["demo"]) == 1
    written = capsys.readouterr()
    assert written.err.splitlines() == [
        f"cowctl: wrong: {medium}: page 1 was untouched: expected not copied, got copied "
        "(state anon)"
        for medium in ("disk", "tmpfs")
    ]
    assert "6 of 8 answers are right." in written.out


def test_a_missing_answer_exits_with_1(answering, fake, capsys):
    answering("afa.")
    fake.missing_page_count = 1
    assert main(["demo"]) == 1
    written = capsys.readouterr()
    assert (written.out, "not about the pages" in written.err) == ("", True)


def test_an_answer_outside_any_mapping_is_wrong(answering, fake, capsys, mapping):
    answering("afa.")
    fake.mappings = [mapping(0x1000, 1)]
    assert main(["demo"]) == 1
    assert capsys.readouterr().err.count("got no answer") == 8


def test_json_says_the_same(answering, capsys):
    answering("aaa.")
    assert main(["demo", "--json"]) == 1
    written = capsys.readouterr().out
    verify_json(["demo", "--json"], written)
    told = json.loads(written)
    assert (told["schema"], told["right"], told["pid"]) == ("cowd.demo/1", False, os.getpid())
    assert len(told["mistakes"]) == 2
    assert [medium["medium"] for medium in told["media"]] == ["disk", "tmpfs"]
    assert told["pages"][1] == {
        "medium": "disk",
        "page": 1,
        "action": "untouched",
        "state": "anon",
        "copied": True,
        "expected": False,
        "right": False,
        "swapbacked": True,
        "kpageflags": "0x5828",
    }


def test_swapbacked_is_compared(answering, capsys):
    answering("afa.")
    main(["demo"])
    assert "The flag SWAPBACKED, often taken for it, says the same here." in capsys.readouterr().out
    answering("ffa.")
    main(["demo"])
    assert "would have said otherwise: page 0 not copied." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("mask", "seen"), [(0x14A5808, [True, False, True, None]), (0x808, [None] * 4)]
)
def test_swapbacked_is_said_where_it_is_known(answering, fake, capsys, mask, seen):
    answering("afa.")
    fake.shared_flags_mask = mask
    main(["demo", "--json"])
    written = capsys.readouterr().out
    verify_json(["demo", "--json"], written)
    pages = json.loads(written)["pages"]
    assert [page["swapbacked"] for page in pages[:4]] == seen
    main(["demo"])
    hidden = "SWAPBACKED is hidden from you: no comparison with it."
    assert (hidden in capsys.readouterr().out) is (mask == 0x808)
