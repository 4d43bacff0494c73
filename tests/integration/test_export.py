# SPDX-License-Identifier: Apache-2.0
"""cowctl export, as user nobody, of a process whose pages are known; to each kind of reader."""

import os
import re
import select
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from cowd import Client, PageState
from cowd.exporters.figures import STATES
from harness.cowctl import SECONDS, RunCowctl, StartCowctl
from harness.daemon import Daemon, StartDaemon
from harness.programs import NOBODY, PAGE_BYTES
from prometheus_client.parser import text_string_to_metric_families

PROGRAM = """
import ctypes, json, mmap, os, sys
PAGE = mmap.PAGESIZE
open("/proc/self/comm", "w").write("shop, till=1")
file = mmap.mmap(os.open(sys.argv[1], os.O_RDONLY), 64 * PAGE, mmap.MAP_PRIVATE)
address = ctypes.addressof(ctypes.c_char.from_buffer(file))
written = 0
for line in sys.stdin:
    for page in range(written, written + int(line)):
        file[page * PAGE] = 1
    written += int(line)
    print(json.dumps(written), flush=True)
"""
CONFIG = """
cache_seconds = 0
[[group]]
name = "tills"
command = "shop*"
"""
GROUP = (("group", "tills"),)


class Shop:
    """A process that writes to as many further pages of a file as it is told to."""

    def __init__(self, file: Path) -> None:
        file.write_bytes(b"f" * 64 * PAGE_BYTES)
        self.process = subprocess.Popen(
            NOBODY.command([sys.executable, "-c", PROGRAM, str(file)]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        # From here on it does nothing for the first time but to write to more pages.
        self.write(1)
        self.write(1)

    def write(self, page_count: int) -> None:
        """Have it write to more pages; returns when it has."""
        assert self.process.stdin
        assert self.process.stdout
        print(page_count, file=self.process.stdin, flush=True)
        assert self.process.stdout.readline()


@pytest.fixture
def shop(public_directory: Path) -> Iterator[Shop]:
    """Return the process, which waits."""
    made = Shop(public_directory / "goods")
    yield made
    made.process.communicate()


@pytest.fixture
def config(public_directory: Path) -> Path:
    """Return settings with a group of that process alone."""
    path = public_directory / "exporter.toml"
    path.write_text(CONFIG)
    path.chmod(0o644)
    return path


@pytest.fixture
def start_asked(start_cowctl: StartCowctl) -> Callable[..., "subprocess.Popen[str]"]:
    """Return a function that starts cowctl with a pipe for its input, too."""
    return partial(start_cowctl, stdin=subprocess.PIPE, text=True)


def list_known(daemon: Daemon, shop: Shop) -> dict[str, int]:
    """Return what the daemon says of the process to somebody who asks of it alone, in bytes."""
    with Client(str(daemon.socket_path)) as client:
        [summary] = client.summarize_processes([shop.process.pid])
    counts = {state: summary.page_counts[PageState[state.upper()]] for state in STATES}
    counts["copied"] = summary.copied_page_count
    return {key: count * PAGE_BYTES for key, count in counts.items()}


def read_samples(text: str) -> dict[tuple[object, ...], float]:
    """Return values by name and labels."""
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def read_sizes(samples: dict[tuple[object, ...], float]) -> dict[str, float]:
    """Return the sizes of the group as `list_known` has them."""
    sizes = {state: samples["cowd_mapping_bytes", *GROUP, ("state", state)] for state in STATES}
    return sizes | {"copied": samples["cowd_copied_bytes", *GROUP]}


def read_lines(process: "subprocess.Popen[bytes]", count: int = 1) -> list[str]:
    """Return the next lines that it writes to standard error."""
    assert process.stderr
    text = b""
    while text.count(b"\n") < count:
        ready, _, _ = select.select([process.stderr], [], [], SECONDS)
        assert ready, text
        text += os.read(process.stderr.fileno(), 4096)
    return text.decode().splitlines()


def get(process: "subprocess.Popen[bytes]") -> Callable[[], str]:
    """Return a function that reads what is served."""
    match = re.search(r"http://127\.0\.0\.1:\d+/metrics", read_lines(process)[0])
    assert match
    url = match[0]

    def read() -> str:
        with urllib.request.urlopen(url, timeout=SECONDS) as answer:
            return str(answer.read().decode())

    return read


def test_prometheus_reads_what_is_known_and_follows_what_is_written(
    daemon: Daemon, start_cowctl: StartCowctl, shop: Shop, config: Path
) -> None:
    listen = ("--listen", "127.0.0.1:0", "--config", str(config))
    read = get(start_cowctl("export", "prometheus", *listen))
    samples = read_samples(read())
    sizes = read_sizes(samples)
    assert sizes == list_known(daemon, shop)
    assert samples["cowd_up",] == 1
    assert samples["cowd_processes", *GROUP] == 1
    assert samples["cowd_scrape_success", *GROUP] == 1
    shop.write(20)
    later = read_sizes(read_samples(read()))
    assert later == list_known(daemon, shop)
    assert later["copied"] - sizes["copied"] >= 20 * PAGE_BYTES


def test_what_serves_outlives_the_daemon(
    start_daemon: StartDaemon, start_cowctl: StartCowctl, config: Path, public_directory: Path
) -> None:
    path = public_directory / "cowd.sock"
    running = start_daemon(socket_path=path)
    options = ("--listen", "127.0.0.1:0", "--config", str(config))
    serving = start_cowctl("export", "prometheus", *options, socket_path=path)
    read = get(serving)
    assert read_samples(read())["cowd_up",] == 1
    running.stop()
    assert read_samples(read())["cowd_up",] == 0
    assert read_samples(read())["cowd_up",] == 0
    why, next_step = read_lines(serving, 2)
    assert "cowd" in why
    assert "`cowctl doctor` tells more" in next_step
    start_daemon(socket_path=path)
    # gRPC waits a while after a connection that failed, and nobody is told when that is over.
    deadline = time.monotonic() + SECONDS
    while not read_samples(read())["cowd_up",]:
        assert time.monotonic() < deadline
    assert read_lines(serving) == ["cowctl: note: cowd answers again"]


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, -signal.SIGTERM), (signal.SIGINT, 130)]
)
def test_what_serves_ends_as_it_is_told_to(
    start_cowctl: StartCowctl, number: signal.Signals, status: int
) -> None:
    serving = start_cowctl("export", "prometheus", "--listen", "127.0.0.1:0")
    read = get(serving)
    assert read()
    serving.send_signal(number)
    out, err = serving.communicate(timeout=SECONDS)
    assert (serving.returncode, out, err) == (status, b"", b"")


def test_the_file_has_what_is_known(
    daemon: Daemon, run_cowctl: RunCowctl, shop: Shop, config: Path, public_directory: Path
) -> None:
    path = public_directory / "cowd.prom"
    assert run_cowctl("export", "textfile", str(path), "--config", str(config)) == (0, "", "")
    assert read_sizes(read_samples(path.read_text())) == list_known(daemon, shop)
    assert path.stat().st_uid == NOBODY.uid


def test_telegraf_gets_lines_whenever_it_asks_until_it_ends(
    daemon: Daemon,
    start_asked: Callable[..., "subprocess.Popen[str]"],
    shop: Shop,
    config: Path,
) -> None:
    """The contract of inputs.execd with signal = "STDIN": a line end asks, the end of input ends.

    https://github.com/influxdata/telegraf/tree/master/plugins/inputs/execd
    """
    asked = start_asked("export", "influx", "--execd", "--config", str(config))
    assert asked.stdin
    assert asked.stdout
    for page_count in (0, 20):
        shop.write(page_count)
        print(file=asked.stdin, flush=True)
        assert asked.stdout.readline().startswith("cowd_daemon up=1i,")
        line = asked.stdout.readline()
        assert line.startswith("cowd,group=tills file_bytes=")
        fields = dict(re.findall(r"(\w+)_bytes=(\d+)i", line))
        assert {key: int(value) for key, value in fields.items()} == list_known(daemon, shop)
    out, err = asked.communicate(timeout=SECONDS)
    assert (asked.returncode, out, err) == (0, "", "")


@pytest.mark.pypi
@pytest.mark.usefixtures("shop")
def test_lines_of_every_process_are_accepted(run_cowctl: RunCowctl) -> None:
    """Without settings, so that there is a group with the name that the process gave itself."""
    parser = pytest.importorskip("line_protocol_parser", reason="no line-protocol-parser")
    status, out, err = run_cowctl("export", "influx")
    assert (status, err) == (0, "")
    groups = {parser.parse_line(line)["tags"].get("group") for line in out.splitlines()}
    assert "shop, till=1" in groups


@pytest.mark.pypi
def test_a_collector_gets_what_is_known_and_again_when_it_was_away(
    daemon: Daemon, start_cowctl: StartCowctl, shop: Shop, config: Path
) -> None:
    pytest.importorskip("opentelemetry.sdk", reason="no opentelemetry-sdk: Debian lacks it")
    from harness.otlp_receiver import Receiver, read_metrics, read_values

    receiver = Receiver()
    with receiver.listening() as url:
        arguments = ("--endpoint", url, "--interval", "1", "--config", str(config))
        sending = start_cowctl("export", "otlp", *arguments)
        metrics = read_metrics(receiver.take())
    group = ("cowd.group", "tills")
    told = {
        state: read_values(metrics["cowd.mapping.usage"])[group, ("cowd.page.state", state)]
        for state in STATES
    }
    told["copied"] = read_values(metrics["cowd.mapping.copied"])[group,]
    assert told == list_known(daemon, shop)
    why, next_step = read_lines(sending, 2)
    assert "the collector does not take figures: " in why
    assert "--endpoint names another" in next_step
    again = Receiver()
    with again.listening(int(url.rpartition(":")[2])):
        assert "cowd.mapping.usage" in read_metrics(again.take())
        assert read_lines(sending) == ["cowctl: note: the collector takes figures again"]
    sending.send_signal(signal.SIGTERM)
    assert sending.wait(SECONDS) == -signal.SIGTERM
