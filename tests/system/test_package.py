# SPDX-License-Identifier: Apache-2.0
"""The packages over their life: installed, upgraded, removed, purged, on machines of their own."""

import re
import stat
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from harness.daemon import ROOT
from system.conftest import install
from system.machine import CONFIG, PACKAGES, SOCKET, Machine
from system.trees import RELEASES
from system.units import ACTIVE, EXPORTER, SERVICE, SOCKET_UNIT, read_state

OURS = ("cowctl", "cowd", "cowd-exporter", "python3-cowd")
USERS = {"cowd", "cowd-exporter"}
NEWER = "/root/newer"
CHANGE = "# The administrator was here.\n"
LOOK = "find / /run /tmp /dev/shm -xdev -printf '%M %u %g %p %l\\n'"
KEPT_BY_OTHERS = (
    "/etc/group",  # and passwd, shadow and gshadow: what is in them is compared instead
    "/etc/gshadow",
    "/etc/passwd",
    "/etc/shadow",
    "/root/newer",  # the test's own
    "/run/systemd/",  # systemd's own: journal streams, invocations
    "/tmp/systemd-private-",  # of services that were started meanwhile
    "/var/cache/apt/",  # apt's own: an index of packages, and what it has used up
    "/var/lib/apt/",
    "/var/lib/dpkg/",  # dpkg's own: triggers, diversions, the status before
    "/var/lib/systemd/",
    "/var/log/",  # what happened
    "/var/tmp/systemd-private-",
)
ACCOUNTS = ("passwd", "group")
README_INSTALLS = r"^# apt install \./build/deb/(\S+)$"


def look(machine: Machine) -> set[str]:
    """Return every file of a machine but what others keep, with its mode, owners and target."""
    lines = machine.run("sh", "-c", LOOK).stdout.splitlines()
    return {line for line in lines if not line.split(" ", 3)[3].startswith(KEPT_BY_OTHERS)}


def read_accounts(machine: Machine) -> set[str]:
    """Return the users and groups of a machine."""
    return {
        f"{name}:{line}"
        for name in ACCOUNTS
        for line in machine.path(f"/etc/{name}").read_text().splitlines()
    }


def make_newer(packages: Sequence[Path], directory: Path, to: Path) -> str:
    """Make the same packages with a higher version; return that version."""
    [old] = {field(package, "Version") for package in packages}
    new = f"{old}+newer"
    for package in packages:
        unpacked = directory / package.name
        subprocess.run(["dpkg-deb", "--raw-extract", package, unpacked], check=True)
        control = unpacked / "DEBIAN" / "control"
        control.write_text(control.read_text().replace(old, new))
        subprocess.run(
            ["dpkg-deb", "--root-owner-group", "-Zgzip", "--build", unpacked, to],
            stdout=subprocess.DEVNULL,
            check=True,
        )
    return new


def field(package: Path, name: str) -> str:
    """Return a field of a package."""
    command = ["dpkg-deb", "--field", package, name]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


def test_one_command_installs_it(bare_machine: Machine) -> None:
    """And nothing else is needed before an ordinary user is answered. The exporter takes another.

    Both are the README's.
    """
    machine = bare_machine
    readme = (ROOT / "README.md").read_text()
    daemon, exporter = re.findall(README_INSTALLS, readme, re.MULTILINE)
    machine.run("bash", "-c", f"cd {PACKAGES} && apt install --yes ./{daemon}")
    assert machine.show(EXPORTER, "LoadState") == {"LoadState": "not-found"}
    assert read_state(machine, SOCKET_UNIT)[:2] == ("active", "listening")
    assert read_state(machine).active == "inactive"
    demo = machine.run("cowctl", "demo", user="alice")
    assert "8 of 8 answers are right." in demo.stdout
    assert demo.stderr == ""
    assert read_state(machine) == ACTIVE
    machine.run("bash", "-c", f"cd {PACKAGES} && apt install --yes ./{exporter}")
    assert read_state(machine, EXPORTER) == ACTIVE
    for unit in SOCKET_UNIT, EXPORTER:
        assert machine.run("systemctl", "is-enabled", unit).stdout == "enabled\n"
    assert machine.run("systemctl", "--failed", "--no-legend").stdout == ""
    for path, kind, mode in (
        (SOCKET, stat.S_IFSOCK, 0o666),
        ("/run/cowd", stat.S_IFDIR, 0o755),
        ("/etc/cowd", stat.S_IFDIR, 0o755),
        (CONFIG, stat.S_IFREG, 0o644),
        ("/etc/cowd/exporter.toml", stat.S_IFREG, 0o644),
        ("/usr/sbin/cowd", stat.S_IFREG, 0o755),
        ("/usr/bin/cowctl", stat.S_IFREG, 0o755),
    ):
        found = machine.path(path).stat()
        assert (stat.S_IFMT(found.st_mode), stat.S_IMODE(found.st_mode)) == (kind, mode), path
        assert (found.st_uid, found.st_gid) == (0, 0), path
    verified = machine.run("systemd-analyze", "verify", "--man=no", SERVICE, SOCKET_UNIT, EXPORTER)
    assert verified.stdout + verified.stderr == ""
    for unit in SERVICE, EXPORTER:
        assert machine.read_journal(f"UNIT={unit}", "PRIORITY=4") == []


def test_removal_and_purge_leave_nothing(
    bare_machine: Machine, packages: list[Path], tmp_path: Path
) -> None:
    """But the locked users. A setting of the administrator's outlives all but the purge.

    Seen to fail without the package's postrm, and without its conffiles.
    """
    machine = bare_machine
    needs = [
        need.strip()
        for package in packages
        for need in field(package, "Depends").split(",")
        if need.split()[0] not in OURS
    ]
    machine.run("apt-get", "satisfy", "--yes", "--no-install-recommends", ", ".join(needs))
    files, accounts = look(machine), read_accounts(machine)

    install(machine)
    machine.run("usermod", "--append", "--groups", "cowd-monitor", "bob")
    config = machine.path(CONFIG)
    config.write_text(config.read_text() + CHANGE)
    machine.run("cowctl", "demo", user="alice")

    newer = machine.path(NEWER)
    newer.mkdir()
    version = make_newer(packages, tmp_path, newer)
    pids = [machine.main_pid(unit) for unit in (SERVICE, EXPORTER)]
    machine.run("sh", "-c", f"apt install --yes {NEWER}/*.deb")
    shown = machine.run("dpkg-query", "--show", "--showformat=${Version}\n", *OURS).stdout
    assert shown.split() == [version] * len(OURS)
    for unit, pid in zip((SERVICE, EXPORTER), pids, strict=True):
        assert read_state(machine, unit) == ACTIVE
        assert machine.main_pid(unit) != pid
    assert config.read_text().endswith(CHANGE)
    machine.run("cowctl", "demo", user="alice")

    machine.run("apt", "remove", "--yes", *OURS)
    assert not machine.path(SOCKET).exists()
    # Their files are gone, and systemd has forgotten about them.
    for unit in SERVICE, SOCKET_UNIT, EXPORTER:
        assert machine.show(unit, "LoadState", "ActiveState") == {
            "LoadState": "not-found",
            "ActiveState": "inactive",
        }
    assert config.read_text().endswith(CHANGE)

    machine.run("apt", "purge", "--yes", *OURS)
    assert sorted(look(machine) ^ files) == []
    left = read_accounts(machine) - accounts
    assert accounts <= read_accounts(machine)
    assert {line.split(":")[1] for line in left} == USERS, left
    for user in USERS:
        shadow = machine.run("getent", "shadow", user).stdout.split(":")[1]
        assert shadow.startswith("!")


def test_upgrade_does_not_lose_calls(
    bare_machine: Machine, packages: list[Path], tmp_path: Path
) -> None:
    machine = bare_machine
    install(machine)
    newer = machine.path(NEWER)
    newer.mkdir()
    make_newer(packages, tmp_path, newer)
    with machine.start_asking("both", "alice") as asking:
        machine.run("sh", "-c", f"apt install --yes {NEWER}/*.deb")
        told = asking.end()
    assert told["failures"] == []


def test_manual_pages_and_completions(machine: Machine) -> None:
    """One page for each command, and for what is no command."""
    helped = machine.run("cowctl", "--help").stdout
    commands = re.findall(r"^  ([a-z]+)  ", helped.split("Commands:")[1], re.MULTILINE)
    assert "query" in commands
    pages = ["man1/cowctl.1", "man5/cowd.toml.5", "man7/cowd.7", "man8/cowd.8"]
    pages += [f"man1/cowctl-{command}.1" for command in commands]
    for page in pages:
        text = machine.run("gzip", "--decompress", "--stdout", f"/usr/share/man/{page}.gz").stdout
        assert ".SH" in text, page
    for shell, path in (
        ("bash", "/usr/share/bash-completion/completions/cowctl"),
        ("zsh", "/usr/share/zsh/vendor-completions/_cowctl"),
        ("fish", "/usr/share/fish/vendor_completions.d/cowctl.fish"),
    ):
        # Not the same on each release: click writes it, and the packages are made on one.
        for script in (
            machine.run("cowctl", "completion", shell, user="alice").stdout,
            machine.path(path).read_text(),
        ):
            assert f"_COWCTL_COMPLETE={shell}_complete" in script, shell


@pytest.mark.parametrize("release", RELEASES[:1], ids=str, indirect=True)
def test_autopkgtest(bare_machine: Machine) -> None:
    """The tests that Debian's own machinery would run, as it would run them."""
    machine = bare_machine
    machine.run("apt-get", "install", "--yes", "--no-install-recommends", "autopkgtest")
    machine.run(
        "sh",
        "-c",
        f"cd /root && autopkgtest --no-built-binaries {PACKAGES}/*.deb {PACKAGES}/cowd-*/ -- null",
        seconds=300,
    )
