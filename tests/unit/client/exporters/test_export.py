# SPDX-License-Identifier: Apache-2.0
"""`cowctl export`: exit statuses and messages, with made-up figures.

`tests/integration/test_export.py` has the daemon's.
"""

import io
import socket
import sys
from dataclasses import replace

import pytest
from cowd.cli import export
from cowd.exporters.influx import format_lines
from unit.client.exporters.made_up import DOWN, SCRAPE, MadeUpScraper

GONE = [
    "cowctl: cannot connect to cowd at /nowhere: No such file or directory",
    "cowctl: note: there are no figures until it answers; `cowctl doctor` tells more",
]
BACK = ["cowctl: note: cowd answers again"]
INCOMPLETE = [
    "cowctl: note: group 'say \"hi\"' is not complete: OPEN_TIMED_OUT; cowctl-export(1) says more"
]
NOTE = f"{INCOMPLETE[0]}\n"


@pytest.fixture
def made_up(monkeypatch):
    """Return a function that has every command get these scrapes, from one scraper."""

    def make_up(*scrapes):
        scraper = MadeUpScraper(*scrapes)
        monkeypatch.setattr(export, "Scraper", lambda *_: scraper)
        return scraper

    return make_up


@pytest.fixture
def ask(monkeypatch):
    """Return a function that makes standard input ask so many times, and end."""

    def ask(count):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\n" * count)))

    return ask


def test_a_file_is_written(made_up, run, tmp_path):
    scraper = made_up(SCRAPE)
    assert run("export", "textfile", str(tmp_path / "cowd.prom")) == (0, "", NOTE)
    assert "\ncowd_up 1.0\n" in (tmp_path / "cowd.prom").read_text()
    assert scraper.count == 1


def test_a_file_tells_that_the_daemon_is_away_and_so_does_the_exit_status(made_up, run, tmp_path):
    made_up(DOWN)
    status, out, err = run("export", "textfile", str(tmp_path / "cowd.prom"))
    assert (status, out) == (3, "")
    assert err.splitlines()[0] == GONE[0]
    assert "systemctl start cowd.socket" in err
    assert "\ncowd_up 0.0\n" in (tmp_path / "cowd.prom").read_text()


def test_a_file_that_cannot_be_written_is_said(made_up, run, tmp_path):
    made_up(SCRAPE)
    path = tmp_path / "missing" / "cowd.prom"
    status, out, err = run("export", "textfile", str(path))
    assert (status, out) == (1, "")
    assert f"cowctl: cannot write {path}: No such file or directory; it must be in" in err


def test_a_file_that_node_exporter_does_not_read_is_refused(made_up, run, tmp_path):
    scraper = made_up(SCRAPE)
    status, _, err = run("export", "textfile", str(tmp_path / "cowd.txt"))
    assert status == 2
    assert "must end in .prom" in err
    assert not scraper.count
    assert not [*tmp_path.iterdir()]


def test_lines_are_written_once(made_up, run):
    scraper = made_up(SCRAPE)
    assert run("export", "influx") == (0, format_lines(SCRAPE), NOTE)
    assert scraper.count == 1


def test_no_line_is_written_if_the_daemon_is_away(made_up, run):
    made_up(DOWN)
    status, out, err = run("export", "influx")
    assert (status, out) == (3, "")
    assert err.splitlines()[0] == GONE[0]


def test_lines_are_written_whenever_they_are_asked_for_until_nobody_can(made_up, run, ask):
    scraper = made_up(SCRAPE)
    ask(3)
    assert run("export", "influx", "--execd") == (0, 3 * format_lines(SCRAPE), NOTE)
    assert scraper.count == 3


def test_what_goes_on_tells_once_that_the_daemon_is_away_and_once_that_it_is_back(
    made_up, run, ask
):
    scrapes = [DOWN, DOWN, SCRAPE, SCRAPE, DOWN, SCRAPE]
    made_up(*scrapes)
    ask(len(scrapes))
    status, out, err = run("export", "influx", "--execd")
    assert (status, out) == (0, "".join(map(format_lines, scrapes)))
    assert err.splitlines() == [*GONE, *BACK, *INCOMPLETE, *GONE, *BACK, *INCOMPLETE]


def test_that_forks_of_others_are_not_compared_is_said_once(made_up, run, ask):
    made_up(replace(SCRAPE, groups=[], are_forks_own=True))
    ask(2)
    _, _, err = run("export", "influx", "--execd")
    [note] = err.splitlines()
    assert "fork = true compares only this user's processes" in note


def test_an_address_that_is_taken_is_said(made_up, run):
    made_up(SCRAPE)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        status, _, err = run("export", "prometheus", "--listen", address)
    assert status == 1
    assert err == (
        f"cowctl: cannot listen on {address}: Address already in use; --listen names another "
        "place\n"
    )


def test_a_host_that_can_be_no_name_is_said(made_up, run):
    """Seen to fail with OSError alone caught."""
    made_up(SCRAPE)
    status, _, err = run("export", "prometheus", "--listen", "a..b:1")
    assert status == 1
    assert err.startswith("cowctl: cannot listen on a..b:1: it is no name of a host; --listen")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["prometheus", "--listen", "9947"], "'--listen': '9947' is no HOST:PORT, such as 127."),
        (["otlp", "--endpoint", "localhost:4317"], "'localhost:4317' is no URL such as http://"),
        (["otlp", "--endpoint", "ftp://x"], "'ftp://x' is no URL such as http://localhost:4317"),
        (["otlp", "--interval", "0"], "--interval"),
        (["influx", "--config", "/nowhere.toml"], "/nowhere.toml: there is no such file"),
        ([], "Missing command"),
    ],
)
def test_wrong_usage_is_said(made_up, run, arguments, text):
    made_up(SCRAPE)
    status, out, err = run("export", *arguments)
    assert (status, out) == (2, "")
    assert text in err
    assert "--help`" in err


@pytest.mark.parametrize(
    ("form", "module", "text"),
    [
        (["prometheus"], "prometheus_client", "python3-prometheus-client"),
        (["textfile", "x.prom"], "prometheus_client", "python3-prometheus-client"),
        (["otlp"], "opentelemetry", "opentelemetry-exporter-otlp-proto-grpc"),
    ],
)
def test_a_library_that_is_not_installed_is_named(made_up, run, monkeypatch, form, module, text):
    made_up(SCRAPE)
    for name in [each for each in sys.modules if each.split(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    for name in "prometheus", "otlp":
        monkeypatch.delitem(sys.modules, f"cowd.exporters.{name}", raising=False)
    monkeypatch.setitem(sys.modules, module, None)
    status, out, err = run("export", *form)
    assert (status, out) == (1, "")
    assert "is not installed" in err
    assert text in err
