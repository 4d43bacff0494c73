# SPDX-License-Identifier: Apache-2.0
"""What cowd's processes may still do when systemd has started them with our unit."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from cowdaemon.system.confinement import read_landlock_abi
from cowdaemon.system.privileges import Capability
from cowdaemon.worker.features import probe_features
from harness.daemon import ROOT
from harness.processes import Tree, read_status, read_tree
from system.machine import CHECKOUT, Machine
from system.trees import RELEASES
from system.units import EXPORTER, SERVICE

MOST_EXPOSURE = {SERVICE: 2.1, EXPORTER: 1.3}
"""Of cowd 0.1 is for setpriority, by which workers take the nice value of a grant: @resources."""
PYTHONS = {12: (3, 11), 13: (3, 13)}
HOSTS_OWN = [release for release in RELEASES if PYTHONS[release.version] == sys.version_info[:2]]
SECCOMP_FILTER = "2"
USER = "cowd-exporter"


CONNECT = ("python3", "-c", "import socket, sys; socket.socket(1).connect(sys.argv[1])")
OURS = Capability(sum(Capability))


def fails(*command: str) -> bool:
    """Tell whether a command fails."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    return done.returncode != 0


def serve_alice(machine: Machine) -> Tree:
    """Return cowd's processes when they have answered a user."""
    machine.run("cowctl", "demo", user="alice")
    return read_tree(machine.main_pid())


@pytest.mark.parametrize("unit", MOST_EXPOSURE)
def test_systemd_finds_little_exposed(machine: Machine, unit: str) -> None:
    """By its own measure, which falls with every setting that takes something from a service."""
    verdict = machine.run("systemd-analyze", "security", unit, "--no-pager").stdout
    [exposure] = re.findall(rf"Overall exposure level for {unit}: ([0-9.]+) ", verdict)
    assert float(exposure) <= MOST_EXPOSURE[unit], verdict


def test_exporter_has_nothing_but_its_group(machine: Machine) -> None:
    """Seen to fail without CapabilityBoundingSet=, and without the member in sysusers.d."""
    status = read_status(machine.main_pid(EXPORTER))
    ids = machine.run("sh", "-c", f"id -u {USER}; id -g {USER}; getent group cowd-monitor").stdout
    uid, gid, monitors = ids.split()
    assert status["Uid"].split() == [uid] * 4
    assert status["Gid"].split() == [gid] * 4
    assert set(status["Groups"].split()) == {gid, monitors.split(":")[2]}
    for capabilities in "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb":
        assert status[capabilities] == "0" * 16
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", SECCOMP_FILTER)


def test_no_process_has_more_than_it_needs(machine: Machine) -> None:
    """Seen to fail without CapabilityBoundingSet=, and without NoNewPrivileges= and its like."""
    tree = serve_alice(machine)
    [opener], [zygote], [worker] = tree.openers, tree.zygotes, tree.workers
    for pid in tree.broker, zygote:
        assert "-I" in Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    cowd = machine.run("id", "-u", "cowd").stdout.strip()
    others_ids = Capability.SETUID | Capability.SETGID
    expected = {
        tree.broker: ("0", OURS),
        opener: ("0", OURS & ~others_ids & ~Capability.SYS_PTRACE & ~Capability.DAC_READ_SEARCH),
        zygote: (cowd, Capability(0)),
        worker: (cowd, Capability(0)),
    }
    for pid, (uid, permitted) in expected.items():
        status = read_status(pid)
        assert status["Uid"].split()[:3] == [uid] * 3, status
        assert Capability(int(status["CapPrm"], 16)) == permitted, status
        assert int(status["CapEff"], 16) & ~permitted == 0, status
        assert int(status["CapBnd"], 16) & ~OURS == 0, status
        assert (status["CapInh"], status["CapAmb"]) == ("0" * 16, "0" * 16), status
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", SECCOMP_FILTER), status


@pytest.mark.parametrize("release", HOSTS_OWN, ids=str, indirect=True)
def test_newest_releases_run_under_the_unit(machine: Machine) -> None:
    """Those in .venv, whose Python is the host's.

    Seen to fail where a forbidden system call ends a process: OpenBLAS tries mbind.
    """
    if not (ROOT / ".venv" / "ready").exists():
        pytest.skip("there is no .venv: make .venv/ready")
    command = f"{CHECKOUT}/.venv/bin/python -P -m cowdaemon.main"
    path = f"{CHECKOUT}/daemon:{CHECKOUT}/proto"
    drop_in = f"[Service]\nEnvironment=PYTHONPATH={path}\nExecStart=\nExecStart={command}\n"
    with machine.drop_in(SERVICE, drop_in):
        machine.run("systemctl", "restart", SERVICE)
        tree = serve_alice(machine)
        assert "/.venv/" in Path(f"/proc/{tree.zygotes[0]}/maps").read_text()
    machine.run("systemctl", "restart", SERVICE)


def test_kernel_tells_under_the_unit_what_it_tells_without(machine: Machine) -> None:
    """Some of it is found by trying. Seen to fail with madvise forbidden."""
    told = json.loads(machine.run("cowctl", "status", "--json", user="alice").stdout)
    features = probe_features()
    assert told["kernel_features"] == {
        "soft_dirty": features.layout.has_soft_dirty,
        "guard_regions": features.has_guard_regions,
        "markers": features.layout.marker_type is not None,
        "pagemap_scan": features.has_pagemap_scan,
        "page_copiers": features.has_page_copiers,
    }


def test_broker_cannot_write_nor_ask_systemd(machine: Machine) -> None:
    """As its own mounts show. Seen to fail without ReadOnlyPaths= and InaccessiblePaths=."""
    pid = serve_alice(machine).broker
    enter = ["nsenter", f"--target={pid}", "--mount", "--"]
    for path in "/run", "/etc", "/usr", "/var", "/root":
        assert fails(*enter, "touch", f"{path}/cowd-test"), path
    assert not fails(*enter, "sh", "-c", "touch /run/cowd/test && rm /run/cowd/test")
    for path in "/run/systemd/private", "/run/dbus/system_bus_socket":
        assert not fails(*enter[:1], f"--target={machine.leader}", "--mount", *CONNECT, path)
        assert fails(*enter, *CONNECT, path), path


def test_workers_are_confined_as_far_as_the_kernel_can(machine: Machine) -> None:
    """By seccomp, and by the Landlock that the same kernel has outside of the unit."""
    told = json.loads(machine.run("cowctl", "status", "--json", user="alice").stdout)
    assert told["confinement"] == {"seccomp": True, "landlock_abi": read_landlock_abi()}
