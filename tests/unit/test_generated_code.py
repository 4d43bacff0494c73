# SPDX-License-Identifier: Apache-2.0
"""proto/cowproto/v1 is what Debian 12's compilers make of the .proto files, byte for byte."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# What newer compilers generate does not run on Debian 12's protobuf and grpc.
COMPILER = "libprotoc 3.21.12"


def read_generated(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*_pb2*")}


def test_generated_code_is_current(tmp_path: Path) -> None:
    missing = [name for name in ("make", "protoc", "grpc_python_plugin") if not shutil.which(name)]
    if missing:
        pytest.skip(
            f"{' and '.join(missing)} not installed: apt-get install protobuf-compiler-grpc"
        )
    version = subprocess.run(["protoc", "--version"], check=True, capture_output=True, text=True)
    if version.stdout.strip() != COMPILER:
        pytest.skip(f"protoc is {version.stdout.strip()}, and the code was made with {COMPILER}")
    subprocess.run(["make", "--directory", ROOT, "proto", f"OUT={tmp_path}"], check=True)
    made = read_generated(tmp_path / "cowproto/v1")
    committed = read_generated(ROOT / "proto/cowproto/v1")
    assert committed.keys() == made.keys()
    stale = [name for name in made if made[name] != committed[name]]
    assert not stale, "run `make proto`"
