# SPDX-License-Identifier: Apache-2.0
"""Settings that somebody else may have written, or that cannot be meant, do not start a daemon.

Each test says which defence was taken out to see it fail: without it, the daemon ran.
"""

import grp
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from harness.daemon import NotStartedError, StartDaemon
from harness.programs import NOBODY

START = "[access]\n# Comments count.\ngroups = [\n]\n"
GROUP = grp.getgrgid(NOBODY.gid).gr_name
GRANT = f'[[grant]]\ngroup = "{GROUP}"\ndetail = "pages"\n'
"""What somebody would want to be there."""

Refuse = Callable[[Path], str]


@pytest.fixture
def config(public_directory: Path) -> Path:
    """Return a file of root's in a directory of root's, in the sticky one of everybody."""
    path = public_directory / "etc" / "cowd.toml"
    path.parent.mkdir()
    path.parent.chmod(0o755)
    path.write_text(GRANT)
    path.chmod(0o644)
    return path


@pytest.fixture
def refuse(start_daemon: StartDaemon) -> Refuse:
    """Return a function that starts a daemon with a file and returns why it did not start."""

    def refuse(config: Path) -> str:
        with pytest.raises(NotStartedError) as refusal:
            start_daemon(config=config)
        assert refusal.value.exit_status == 1
        [line] = refusal.value.log.splitlines()
        return line

    return refuse


def test_safe_file_is_read(start_daemon: StartDaemon, config: Path) -> None:
    """The daemon starts, so what each other test changes is what keeps it from it.

    Seen to fail when lines of the log had another form.
    """
    daemon = start_daemon(config=config)
    told = f"cowd: every process's pages are open to group {GROUP} (gid {NOBODY.gid}), by {config}"
    assert told in daemon.log().splitlines()


@pytest.mark.parametrize("mode", [0o664, 0o646])
def test_file_that_others_may_write(refuse: Refuse, config: Path, mode: int) -> None:
    """Taken out: S_IWGRP and S_IWOTH, each, in trusted_files._others_may_write."""
    config.chmod(mode)
    assert refuse(config) == (
        f"cowd: {config}: others than its owner may write to it: chmod go-w {config}"
    )


def test_file_of_another_user(refuse: Refuse, config: Path) -> None:
    """Taken out: _verify_owner in trusted_files._verify_file."""
    os.chown(config, NOBODY.uid, 0)
    told = refuse(config)
    assert told.startswith(f"cowd: {config}: {config} belongs to uid {NOBODY.uid}")


@pytest.mark.parametrize("mode", [0o775, 0o757])
def test_directory_that_others_may_change(refuse: Refuse, config: Path, mode: int) -> None:
    """Taken out: the raise about directories in trusted_files._resolve."""
    config.parent.chmod(mode)
    assert refuse(config) == (
        f"cowd: {config}: others may change what is in its directory: chmod go-w {config.parent}"
    )


def test_directory_above_of_another_user(
    refuse: Refuse, config: Path, public_directory: Path
) -> None:
    """Taken out: _verify_owner of directories in trusted_files._resolve."""
    os.chown(public_directory, NOBODY.uid, 0)
    told = refuse(config)
    assert told.startswith(f"cowd: {config}: {public_directory} belongs to uid {NOBODY.uid}")


def test_link_of_another_user_to_a_file_of_root(
    refuse: Refuse, config: Path, public_directory: Path
) -> None:
    """Taken out: _verify_owner of links in trusted_files._resolve."""
    link = public_directory / "link"
    link.symlink_to(config)
    os.chown(link, NOBODY.uid, NOBODY.gid, follow_symlinks=False)
    assert refuse(link).startswith(f"cowd: {link}: {link} belongs to uid {NOBODY.uid}")


def test_fifo_that_nobody_writes_to(refuse: Refuse, public_directory: Path) -> None:
    """Taken out: S_ISREG in trusted_files._verify_file; and O_NONBLOCK, and the daemon hung."""
    fifo = public_directory / "fifo"
    os.mkfifo(fifo, 0o644)
    assert refuse(fifo) == f"cowd: {fifo}: this is no regular file: put one in its place"


def test_named_file_that_is_not_there(refuse: Refuse, public_directory: Path) -> None:
    """Taken out: `path is None` in config.read_settings."""
    path = public_directory / "cowd.toml"
    assert refuse(path) == f"cowd: {path}: No such file or directory"


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("[limits\n", "5: this is not TOML: "),
        ("groups = []\n", "5: this is not TOML: "),
        ("group = []\n", "5: 'group' is not known here: did you mean groups?"),
        ("[limit]\n", "5: 'limit' is not known here: did you mean limits?"),
        ("[limits]\nworkers = true\n", "6: limits.workers must be a whole number"),
        ("[limits]\nworkers = 0\n", "6: limits.workers must be 1 to 256"),
        (GRANT.replace(GROUP, "no-such-group"), "6: there is no group 'no-such-group': "),
        (GRANT.replace("pages", "all"), '7: grant.detail must be "summary" or "pages"'),
        (GRANT + GRANT, f"9: group {GROUP} (gid {NOBODY.gid}) has a grant above"),
        ("# \xe9\n", "5: this is not UTF-8"),
    ],
)
def test_text_that_cannot_be_meant(refuse: Refuse, config: Path, wrong: str, told: str) -> None:
    """Taken out, for each case: what raises it.

    In Document.__init__ and Document.take, and config's _verify_keys, _take_group, _take_grants,
    _take_limits and read_settings.
    """
    config.write_text(START + wrong, encoding="latin-1")
    assert refuse(config).startswith(f"cowd: {config}:{told}")
