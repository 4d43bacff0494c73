# SPDX-License-Identifier: Apache-2.0
"""The contract has the form that buf asks of every .proto file, and a comment on every element."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.pypi

PROTO = Path(__file__).resolve().parents[2] / "proto"
CONFIGURATION = {"version": "v2", "lint": {"use": ["STANDARD", "COMMENTS"]}}


def test_contract_has_the_form_that_buf_asks(tmp_path: Path) -> None:
    buf = shutil.which("buf", path=Path(sys.executable).parent) or shutil.which("buf")
    if not buf:
        pytest.skip("buf is not installed: pip install buf-bin")
    command = [buf, "lint", "--config", json.dumps(CONFIGURATION)]
    environment = os.environ | {"BUF_CACHE_DIR": str(tmp_path)}  # the user may have no home
    lint = subprocess.run(
        command, cwd=PROTO, env=environment, check=False, capture_output=True, text=True
    )
    assert lint.returncode == 0, lint.stdout + lint.stderr
