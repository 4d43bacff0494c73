# SPDX-License-Identifier: Apache-2.0
"""Debian's own prometheus, and its node exporter, on what cowd-exporter and `cowctl export` tell.

What a process of alice's has copied is known by construction, and by what the kernel tells root of
it in smaps. Prometheus scrapes every two seconds. It says of each sample when it began to ask for
it: the first that is later than what was done must be right, none is passed over.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from cowdaemon import __version__
from harness.programs import PAGE_BYTES
from harness.puppets import Puppet
from system.conftest import booted, install
from system.machine import EVENT_SECONDS, TESTS, Machine, Started
from system.trees import Release
from system.units import EXPORTER, SERVICE, SOCKET_UNIT

EXPORTER_USER = "cowd-exporter"
COLLECTED = "/var/lib/prometheus/node-exporter"
"""From where Debian's node exporter takes files."""
WAREHOUSE, WORKSHOP = "warehouse", "workshop"
"""Names of commands, and of the groups that they make."""
ANSWERED = ("cowd_requests_total", "OK", "GetPageFlags")
DAEMONS = {"cowd_requests_total", "cowd_build_info", "cowd_pages_read_total"}
"""What the daemon tells of itself."""
CALLS, PAGES = 3, 64
SETTINGS = f"""\
pages_per_second = 0
cache_seconds = 0
[[group]]
name = "{{command}}"
command = ["{WAREHOUSE}", "{WORKSHOP}"]
"""
SCRAPES = """\
global: {scrape_interval: 2s, scrape_timeout: 2s}
scrape_configs:
  - job_name: exporter
    static_configs: [targets: ["127.0.0.1:9947"]]
  - job_name: textfile
    static_configs: [targets: ["127.0.0.1:9100"]]
  - job_name: elsewhere
    static_configs: [targets: ["127.0.0.1:9948"]]
"""
QUERY = """
import json, sys, time, urllib.error, urllib.parse, urllib.request
job, after, seconds = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
query = urllib.parse.urlencode({"query": '{job="%s"}[5m]' % job})
deadline = time.monotonic() + seconds
while time.monotonic() < deadline:
    try:
        with urllib.request.urlopen("http://127.0.0.1:9090/api/v1/query?" + query) as answer:
            series = json.load(answer)["data"]["result"]
    except urllib.error.URLError:  # it has not started yet
        series = []
    up = [each["values"] for each in series if each["metric"]["__name__"] == "up"]
    asked = [at for values in up for at, value in values if at > after and value == "1"]
    if asked:
        values = [(each["metric"], dict(each["values"]).get(asked[0])) for each in series]
        print(json.dumps([(metric, float(value)) for metric, value in values if value]))
        break
    time.sleep(0.1)
else:
    sys.exit(f"prometheus got nothing from {job} within {seconds} s")
"""
ELSEWHERE = "192.0.2.1"
"""An address of the machine's that is not for the machine alone, as that of another one is not."""
ADD_ADDRESS = """
import fcntl, socket, struct, sys
request = struct.pack("16sHH4s8x", b"lo:1", socket.AF_INET, 0, socket.inet_aton(sys.argv[1]))
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
    fcntl.ioctl(any_socket, 0x8916, request)  # SIOCSIFADDR
"""
FETCH = "import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=3)"
PUNCTUAL_SECONDS = 0.01
"""Prometheus says that a scrape began when it was due, if that is so but for a little."""

Samples = dict[tuple[str, ...], float]
"""Values by name of the metric, and values of labels in the order of their names."""


class Figures(NamedTuple):
    """What is known of a process, in bytes."""

    size: int
    anon: int
    copied: int


class MachinePuppet(Puppet, Started):
    """A process that a user runs by a command of that name, and that does what a test tells it."""

    def __init__(self, machine: Machine, command: str, user: str) -> None:
        program = [f"/usr/local/bin/{command}", f"{TESTS}/kernel/puppet.py"]
        Started.__init__(self, machine.command(program, user))
        self.pid_inside, self.address = self.map_pages("/var/tmp", pages=PAGES)
        self.do("store", 63, 1)  # so that what follows needs no further page of the interpreter's


@pytest.fixture(scope="module")
def monitored(release: Release, trees: dict[Release, Path]) -> Iterator[Machine]:
    """Return a machine with our packages, and Debian's for monitoring."""
    with booted(release, trees) as machine:
        install(machine)
        packages = ("prometheus", "prometheus-node-exporter")
        machine.run("apt-get", "install", "--yes", "--no-install-recommends", *packages)
        machine.write("/etc/prometheus/prometheus.yml", SCRAPES)
        machine.run("promtool", "check", "config", "/etc/prometheus/prometheus.yml")
        machine.write("/etc/cowd/exporter.toml", SETTINGS)
        machine.run("systemctl", "restart", "prometheus", EXPORTER)
        for command in WAREHOUSE, WORKSHOP:
            machine.run("ln", "--symbolic", "/usr/bin/python3", f"/usr/local/bin/{command}")
        yield machine


@pytest.fixture(scope="module")
def warehouse(monitored: Machine) -> Iterator[MachinePuppet]:
    """Return a process of alice's."""
    with MachinePuppet(monitored, WAREHOUSE, "alice") as puppet:
        yield puppet


def await_scrape(machine: Machine, job: str) -> Samples:
    """Return what the first scrape of a job told that began after now."""
    after = time.time() + PUNCTUAL_SECONDS
    told = machine.python(QUERY, job, repr(after), str(EVENT_SECONDS))
    return {
        (
            metric.pop("__name__"),
            *(metric[label] for label in sorted(metric.keys() - {"instance", "job"})),
        ): value
        for metric, value in told
    }


def read_figures(samples: Samples, group: str) -> Figures:
    """Return what was told of a group, which is complete, and of which every page is something."""
    assert samples["cowd_scrape_success", group] == 1
    assert samples["cowd_processes", group] == 1
    sizes = {
        state: value
        for (name, *labels), value in samples.items()
        if name == "cowd_mapping_bytes" and labels[0] == group
        for state in labels[1:]
    }
    anon, copied = sizes["anon"], samples["cowd_copied_bytes", group]
    return Figures(int(sum(sizes.values())), int(anon), int(copied))


def read_smaps(pid: int) -> Figures:
    """Return the same as the kernel tells it root."""
    size = anon = copied = 0
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        first, *rest = line.split()
        if not first.endswith(":"):
            is_private_file = rest[0].endswith("p") and rest[3] != "0"
        elif first == "Size:":
            size += int(rest[0]) * 1024
        elif first == "Anonymous:":
            anon += int(rest[0]) * 1024
            copied += is_private_file * int(rest[0]) * 1024
    return Figures(size, anon, copied)


def export_textfile(machine: Machine) -> None:
    """Write a file for node exporter, as the exporter's user, who has the grant by its groups."""
    machine.run("cowctl", "export", "textfile", f"{COLLECTED}/cowd.prom", user=EXPORTER_USER)


@contextmanager
def without_grant(machine: Machine) -> Iterator[None]:
    """Have the exporter run without the group that its user is in by the package."""
    machine.run("gpasswd", "--delete", EXPORTER_USER, "cowd-monitor")
    try:
        machine.run("systemctl", "restart", EXPORTER)
        yield
    finally:
        machine.run("gpasswd", "--add", EXPORTER_USER, "cowd-monitor")
        machine.run("systemctl", "restart", EXPORTER)


@contextmanager
def listening(machine: Machine, address: str) -> Iterator[None]:
    """Have the exporter listen elsewhere: by ARGS, as Debian's exporters do."""
    defaults = machine.path("/etc/default/cowd-exporter")
    packaged = defaults.read_text()
    defaults.write_text(f'ARGS="--listen {address}"\n')
    try:
        machine.run("systemctl", "restart", EXPORTER)
        yield
    finally:
        defaults.write_text(packaged)
        machine.run("systemctl", "restart", EXPORTER)


def test_prometheus_has_the_right_bytes_and_follows(
    monitored: Machine, warehouse: MachinePuppet
) -> None:
    """From the exporter; of pages that are written, not of those that are read."""
    before = read_figures(await_scrape(monitored, "exporter"), WAREHOUSE)
    assert before == read_smaps(warehouse.pid)
    copied_bytes = before.copied
    for first, pages in (0, 5), (20, 12):
        warehouse.do("store", first, pages)
        warehouse.do("load", 40, 8)
        copied_bytes += pages * PAGE_BYTES
        told = read_figures(await_scrape(monitored, "exporter"), WAREHOUSE)
        assert told.copied == copied_bytes
        assert told == read_smaps(warehouse.pid)
    warehouse.do("drop", 0, 32)
    told = read_figures(await_scrape(monitored, "exporter"), WAREHOUSE)
    assert told.copied == before.copied


def test_prometheus_has_the_same_from_node_exporter(
    monitored: Machine, warehouse: MachinePuppet
) -> None:
    """By a file that `cowctl export textfile` writes again and again."""
    monitored.run("chown", f"{EXPORTER_USER}:", COLLECTED)
    export_textfile(monitored)
    before = read_figures(await_scrape(monitored, "textfile"), WAREHOUSE)
    assert before == read_smaps(warehouse.pid)
    warehouse.do("store", 0, 9)
    export_textfile(monitored)
    samples = await_scrape(monitored, "textfile")
    told = read_figures(samples, WAREHOUSE)
    assert told.copied == before.copied + 9 * PAGE_BYTES
    assert told == read_smaps(warehouse.pid)
    assert samples["node_textfile_scrape_error",] == 0
    assert [path.name for path in monitored.path(COLLECTED).iterdir()] == ["cowd.prom"]
    warehouse.do("drop", 0, 9)


def test_others_are_seen_by_grant_alone(monitored: Machine, warehouse: MachinePuppet) -> None:
    """In sums. Page by page the exporter's user is told of its own processes, grant or no grant."""
    with MachinePuppet(monitored, WORKSHOP, EXPORTER_USER) as workshop:
        with without_grant(monitored):
            told = await_scrape(monitored, "exporter")
            assert read_figures(told, WORKSHOP) == read_smaps(workshop.pid)
            assert told.get(("cowd_copied_bytes", WAREHOUSE), 0) == 0
            assert told.get(("cowd_scrape_success", WAREHOUSE), 0) == 0
        told = await_scrape(monitored, "exporter")
        for puppet, group in (workshop, WORKSHOP), (warehouse, WAREHOUSE):
            assert read_figures(told, group) == read_smaps(puppet.pid)
        for puppet, status in (workshop, 0), (warehouse, 4):
            query = ("cowctl", "query", str(puppet.pid_inside), "--backend=daemon")
            assert monitored.run(*query, user=EXPORTER_USER, check=False).returncode == status


def test_daemon_tells_of_itself_by_grant_alone(
    monitored: Machine, warehouse: MachinePuppet
) -> None:
    """And counts what any caller asks."""
    before = await_scrape(monitored, "exporter")
    with monitored.start_caller("alice") as caller:
        for _ in range(CALLS):
            caller.get_page_flags(warehouse.pid_inside, warehouse.address, PAGES)
    told = await_scrape(monitored, "exporter")
    assert told["cowd_build_info", __version__] == 1
    assert told[ANSWERED] - before.get(ANSWERED, 0) == CALLS
    read_pages = told["cowd_pages_read_total",] - before["cowd_pages_read_total",]
    assert read_pages >= CALLS * PAGES
    with without_grant(monitored):
        told = await_scrape(monitored, "exporter")
        assert told["cowd_up",] == 1
        assert not DAEMONS & {name for name, *_ in told}


def test_exporter_outlives_the_daemon(monitored: Machine, warehouse: MachinePuppet) -> None:
    """And tells that it is not there, until it is."""
    pid = monitored.main_pid(EXPORTER)
    monitored.run("systemctl", "stop", SOCKET_UNIT, SERVICE)
    try:
        assert await_scrape(monitored, "exporter")["cowd_up",] == 0
    finally:
        monitored.run("systemctl", "start", SOCKET_UNIT)
    told = await_scrape(monitored, "exporter")
    assert told["cowd_up",] == 1
    assert read_figures(told, WAREHOUSE) == read_smaps(warehouse.pid)
    assert monitored.main_pid(EXPORTER) == pid


def test_exporter_listens_where_it_is_told(monitored: Machine) -> None:
    with listening(monitored, "127.0.0.1:9948"):
        assert await_scrape(monitored, "elsewhere")["cowd_up",] == 1


def test_unit_keeps_other_machines_out_unless_told(monitored: Machine) -> None:
    """Seen to fail with IPAddressAllow=any in the unit."""
    monitored.run("python3", "-c", ADD_ADDRESS, ELSEWHERE)
    fetch = ["python3", "-c", FETCH, f"http://{ELSEWHERE}:9948/metrics"]
    with listening(monitored, "0.0.0.0:9948"):
        await_scrape(monitored, "elsewhere")
        assert "timed out" in monitored.run(*fetch, check=False).stderr
        with monitored.drop_in(EXPORTER, f"[Service]\nIPAddressAllow={ELSEWHERE}\n"):
            monitored.run("systemctl", "restart", EXPORTER)
            await_scrape(monitored, "elsewhere")
            monitored.run(*fetch)
