# SPDX-License-Identifier: Apache-2.0
"""The packages are a function of the checkout alone."""

import os
import subprocess
from pathlib import Path

from harness.daemon import ROOT

BUILD_SECONDS = 300
# Another place, time zone, language and umask, and no network.
ELSEWHERE = 'umask 077; exec unshare --net "$0" "$1"'
ENVIRONMENT = {"LC_ALL": "C", "TZ": "Pacific/Kiritimati", "HOME": "/nonexistent"}


def test_a_build_elsewhere_gives_the_same_bytes(packages: list[Path], tmp_path: Path) -> None:
    again = tmp_path / "another" / "directory"
    subprocess.run(
        ["/bin/sh", "-euc", ELSEWHERE, ROOT / "packaging" / "build-deb", again],
        env={"PATH": os.environ["PATH"], **ENVIRONMENT},
        stdout=subprocess.DEVNULL,
        check=True,
        timeout=BUILD_SECONDS,
    )
    first = packages[0].parent
    built = [*packages, *first.glob("*.dsc"), *first.glob("*.tar.xz")]
    assert len(built) == 6
    different = [
        path.name for path in built if path.read_bytes() != (again / path.name).read_bytes()
    ]
    assert not different
