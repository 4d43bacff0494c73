# SPDX-License-Identifier: Apache-2.0
"""A file is read only if nobody but its trusted owner decides what it says and which file it is."""

import os
import re
import signal
from pathlib import Path

import pytest
from cowdaemon.system.trusted_files import read_trusted_file
from harness.programs import GAMES, NOBODY

needs_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="needs root: to make a file of another user"
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "directory" / "file"
    path.parent.mkdir(mode=0o755)
    path.write_text("content")
    path.chmod(0o644)
    return path


def read(path: Path) -> str:
    return read_trusted_file(path, 16).decode()


def assert_refused(path: Path, told: str) -> None:
    with pytest.raises(PermissionError, match=re.escape(told)):
        read(path)


def test_content_is_returned(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read(path) == "content"
    monkeypatch.chdir(path.parent)
    assert read(Path("file")) == read(Path("../directory/./file")) == "content"


@pytest.mark.parametrize("mode", [0o400, 0o600, 0o644, 0o755, 0o4644])
def test_file_that_its_owner_alone_may_write_is_read(path: Path, mode: int) -> None:
    path.chmod(mode)
    assert read(path) == "content"


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o620, 0o602, 0o1666])
def test_file_that_others_may_write_is_refused(path: Path, mode: int) -> None:
    path.chmod(mode)
    assert_refused(path, f"may write to it: chmod go-w {path}")


@needs_root
def test_file_that_an_access_list_opens_is_refused(path: Path) -> None:
    """The kernel shows what a list allows at most as the rights of the file's group: acl(5)."""
    entries = [(0x01, 6, -1), (0x02, 6, NOBODY.uid), (0x04, 4, -1), (0x10, 6, -1), (0x20, 4, -1)]
    acl = (2).to_bytes(4, "little") + b"".join(
        tag.to_bytes(2, "little")
        + rights.to_bytes(2, "little")
        + (who & 0xFFFFFFFF).to_bytes(4, "little")
        for tag, rights, who in entries
    )
    try:
        os.setxattr(path, "system.posix_acl_access", acl)
    except OSError as error:
        pytest.skip(f"no access lists on this file system: {error}")
    assert_refused(path, "may write to it")


@pytest.mark.parametrize(
    ("mode", "safe"),
    [(0o755, True), (0o700, True), (0o1777, True), (0o1775, True), (0o777, False), (0o775, False)],
)
@pytest.mark.parametrize("above", [0, 1], ids=["its own", "above it"])
def test_directory_that_others_may_change_is_refused(
    path: Path, mode: int, safe: bool, above: int
) -> None:
    directory = path.parents[above]
    directory.chmod(mode)
    if safe:
        assert read(path) == "content"
    else:
        assert_refused(path, f"others may change what is in its directory: chmod go-w {directory}")


@needs_root
@pytest.mark.parametrize("what", ["directory/file", "directory", "."])
def test_what_belongs_to_another_user_is_refused(tmp_path: Path, path: Path, what: str) -> None:
    os.chown(tmp_path / what, NOBODY.uid, NOBODY.gid)
    assert_refused(path, f"{tmp_path / what} belongs to uid {NOBODY.uid}")


@needs_root
def test_another_user_trusts_root_and_itself(public_path: Path) -> None:
    roots, own, strange = (public_path / name for name in ("roots", "own", "strange"))
    for path, uid in (roots, 0), (own, NOBODY.uid), (strange, GAMES.uid):
        path.write_text("content")
        os.chown(path, uid, uid)
    os.seteuid(NOBODY.uid)
    try:
        assert read(roots) == read(own) == "content"
        assert_refused(strange, f"belongs to uid {GAMES.uid}")
    finally:
        os.seteuid(0)


# Links.


@pytest.mark.parametrize("target", ["directory", "./x/../directory", "{}/directory"])
def test_link_is_followed(tmp_path: Path, path: Path, target: str) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "link").symlink_to(target.format(tmp_path))
    (path.parent / "other").symlink_to("../link/file")
    assert read(tmp_path / "link" / "file") == "content"
    assert read(tmp_path / "link" / "other") == "content"


def test_way_back_leaves_where_a_link_led(tmp_path: Path, path: Path) -> None:
    """As the kernel goes it, not as the text reads."""
    (path.parent / "below").mkdir()
    (tmp_path / "link").symlink_to("directory/below")
    (tmp_path / "file").write_text("wrong")
    assert read(tmp_path / "link" / ".." / "file") == "content"


def test_links_are_as_safe_as_what_they_lead_through(tmp_path: Path, path: Path) -> None:
    open_directory = tmp_path / "open"
    open_directory.mkdir()
    (open_directory / "between").symlink_to(path)
    (tmp_path / "link").symlink_to("open/between")
    assert read(tmp_path / "link") == "content"
    open_directory.chmod(0o777)
    assert_refused(tmp_path / "link", f"chmod go-w {open_directory}")


@needs_root
def test_link_of_another_user_is_refused(tmp_path: Path, path: Path) -> None:
    """In /tmp anybody can make one that leads to a file of root's, but not of root's choice."""
    tmp_path.chmod(0o1777)
    link = tmp_path / "link"
    link.symlink_to(path.parent)
    assert read(link / "file") == "content"
    os.chown(link, NOBODY.uid, NOBODY.gid, follow_symlinks=False)
    assert_refused(link / "file", f"{link} belongs to uid {NOBODY.uid}")


def test_link_that_leads_nowhere_is_not_an_absent_file(tmp_path: Path) -> None:
    link = tmp_path / "link"
    with pytest.raises(FileNotFoundError):
        read(link)
    link.symlink_to("nothing")
    with pytest.raises(OSError, match=f"leads to {tmp_path}/nothing, which is not") as refusal:
        read(link)
    assert not isinstance(refusal.value, FileNotFoundError)


def test_as_many_links_are_followed_as_the_kernel_would(tmp_path: Path, path: Path) -> None:
    (tmp_path / "0").symlink_to(path)
    for number in range(1, 41):
        (tmp_path / str(number)).symlink_to(str(number - 1))
    assert read(tmp_path / "39") == (tmp_path / "39").read_text()
    with pytest.raises(OSError, match="too many links"):
        read(tmp_path / "40")
    with pytest.raises(OSError, match="Too many levels"):
        (tmp_path / "40").read_text()


def test_links_in_a_circle_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match="too many links"):
        read(tmp_path / "a")


# What is no file.


def test_fifo_is_refused_without_waiting(tmp_path: Path) -> None:
    def give_up(*_: object) -> None:
        raise TimeoutError

    os.mkfifo(tmp_path / "fifo", 0o644)
    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(5)
    try:
        with pytest.raises(OSError, match="no regular file"):
            read(tmp_path / "fifo")
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("name", ["directory", "/dev/null", "/"])
def test_what_is_no_file_is_refused(tmp_path: Path, path: Path, name: str) -> None:
    assert path.exists()
    with pytest.raises(OSError, match="no regular file"):
        read(tmp_path / name)


def test_file_is_read_up_to_the_longest_that_is_allowed(path: Path) -> None:
    path.write_text("x" * 16)
    assert read(path) == "x" * 16
    path.write_text("x" * 17)
    with pytest.raises(OSError, match="longer than 16 bytes"):
        read(path)
