# SPDX-License-Identifier: Apache-2.0
"""What cowd's processes may still do when systemd has started them with our unit."""

import json
import re
from enum import IntFlag
from pathlib import Path

from cowdaemon.system.confinement import read_landlock_abi
from harness.processes import Tree, read_status, read_tree
from system.machine import Machine
from system.units import SERVICE

MOST_EXPOSURE = 2.0
SECCOMP_FILTER = "2"


class Capability(IntFlag):
    """Those that our unit leaves (linux/capability.h)."""

    DAC_READ_SEARCH = 1 << 2
    SETGID = 1 << 6
    SETUID = 1 << 7
    SYS_PTRACE = 1 << 19
    SYS_ADMIN = 1 << 21


OURS = Capability(sum(Capability))


def serve_alice(machine: Machine) -> Tree:
    """Return cowd's processes when they have answered a user."""
    machine.run("cowctl", "demo", user="alice")
    return read_tree(machine.main_pid())


def test_systemd_finds_little_exposed(machine: Machine) -> None:
    """By its own measure, which falls with every setting that takes something from a service."""
    verdict = machine.run("systemd-analyze", "security", SERVICE, "--no-pager").stdout
    [exposure] = re.findall(rf"Overall exposure level for {SERVICE}: ([0-9.]+) ", verdict)
    assert float(exposure) <= MOST_EXPOSURE, verdict


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


def test_workers_are_confined_as_far_as_the_kernel_can(machine: Machine) -> None:
    """By seccomp, and by the Landlock that the same kernel has outside of the unit."""
    told = json.loads(machine.run("cowctl", "status", "--json", user="alice").stdout)
    assert told["confinement"] == {"seccomp": True, "landlock_abi": read_landlock_abi()}
