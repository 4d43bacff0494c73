# SPDX-License-Identifier: Apache-2.0
"""Debian trees to boot: made once, kept in build/trees, never written to afterwards.

Root. A tree is the smallest Debian of its release that boots. In its apt cache lies all that our
packages need, downloaded and not installed, so that `apt install` in there needs no network. The
name of a tree has a digest of what went into it: whoever changes that gets a new tree, and the old
one is removed.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from harness.daemon import ROOT

TREES = ROOT / "build" / "trees"
CONTENT = ("dbus", "systemd", "systemd-sysv")
"""Beside apt and what is essential."""
CACHED = ("autopkgtest", "prometheus", "prometheus-node-exporter")
"""Downloaded, beside what our packages depend on or recommend: tests install it."""
DOWNLOAD = "apt-get --quiet --yes --download-only install"
DEPENDENCIES = ("Pre-Depends", "Depends", "Recommends")


class Release(NamedTuple):
    """A release of Debian."""

    codename: str
    version: int

    def __str__(self) -> str:
        return f"debian{self.version}"


RELEASES = (Release("bookworm", 12), Release("trixie", 13))


class TreeError(Exception):
    """A tree could not be made; the text ends with what the tools said."""


@contextmanager
def held_trees(packages: Sequence[Path]) -> Iterator[dict[Release, Path]]:
    """Yield the tree of each release, for these packages of ours; make what is not there.

    Says on standard error what it does. Meanwhile no other run removes them.

    Args:
        packages: the .deb files whose dependencies a tree has to have.

    Raises:
        TreeError: one could not be made.
    """
    TREES.mkdir(parents=True, exist_ok=True)
    digest = digest_recipe(packages)
    trees = {release: TREES / f"{release}-{digest}" for release in RELEASES}
    with open(TREES / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        while missing := [release for release, tree in trees.items() if not tree.is_dir()]:
            say("trees are missing: waiting for other runs that make or use trees, if any")
            fcntl.flock(lock, fcntl.LOCK_EX)
            for entry in TREES.iterdir():
                if entry.is_dir() and entry not in trees.values():
                    shutil.rmtree(entry)
            for release in missing:
                if not trees[release].is_dir():
                    make_tree(release, packages, trees[release])
            fcntl.flock(lock, fcntl.LOCK_SH)
        yield trees


def digest_recipe(packages: Sequence[Path]) -> str:
    """Return what changes with whatever a tree is made of."""
    recipe = hashlib.sha256(Path(__file__).read_bytes())
    for package in sorted(packages):
        recipe.update(read_dependencies(package))
    return recipe.hexdigest()[:12]


def read_dependencies(package: Path) -> bytes:
    """Return what a package depends on, without versions of our own packages."""
    command = ["dpkg-deb", "--field", package, "Package", *DEPENDENCIES]
    fields = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
    version = subprocess.run(
        ["dpkg-deb", "--field", package, "Version"], stdout=subprocess.PIPE, check=True
    ).stdout
    return fields.replace(version.strip(), b"")


def make_tree(release: Release, packages: Sequence[Path], tree: Path) -> None:
    """Make it under another name, so that an interrupted run leaves no half of a tree."""
    say(f"making a tree of Debian {release.version}, once: a minute, mostly downloads")
    started = time.monotonic()
    unfinished = tree.with_suffix(".unfinished")
    inside = "/var/tmp/packages"
    ours = " ".join(f"{inside}/{package.name}" for package in packages)
    hooks = [
        f"mkdir $1{inside}",
        f"copy-in {' '.join(map(str, packages))} {inside}",
        f'chroot "$1" {DOWNLOAD} --install-recommends {ours}',
        f'chroot "$1" {DOWNLOAD} --no-install-recommends {" ".join(CACHED)}',
        f'rm -r "$1{inside}"',
    ]
    # In namespaces of its own: all its processes end with this one, and what it mounts with them.
    command = ["setpriv", "--pdeathsig=KILL", "unshare", "--pid", "--mount-proc", "--kill-child"]
    command += ["mmdebstrap", "--mode=root", "--variant=minbase"]
    command += [f"--include={','.join(CONTENT)}", "--skip=cleanup/apt"]
    command += [f"--customize-hook={hook}" for hook in hooks]
    made = subprocess.run(
        [*command, release.codename, str(unfinished)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
    )
    if made.returncode:
        raise TreeError(f"mmdebstrap ended with {made.returncode}:\n{made.stdout[-4000:]}")
    unfinished.rename(tree)
    say(f"made {tree.relative_to(ROOT)} in {time.monotonic() - started:.0f} s")


def say(text: str) -> None:
    """Tell whoever waits."""
    print(f"system tests: {text}", file=sys.stderr, flush=True)
