# SPDX-License-Identifier: Apache-2.0
"""What Prometheus reads: judged by the parsers of its own library, over HTTP and in a file."""

import gzip
import resource
import socket
import threading
import urllib.request
from contextlib import contextmanager, suppress

import pytest
from cowd.exporters import prometheus
from cowd.exporters.figures import STATES
from cowd.exporters.prometheus import Address, MetricsServer, parse_address, write_textfile
from prometheus_client.openmetrics import parser as openmetrics_parser
from prometheus_client.parser import text_string_to_metric_families
from unit.client.exporters.made_up import DOWN, HOSTILE_NAMES, SCRAPE, STATISTICS

ANY_PORT = Address("127.0.0.1", 0)


@contextmanager
def serving(make_scrape=lambda: SCRAPE, address=ANY_PORT):
    """Yield a server that answers in a thread."""
    with MetricsServer(address, make_scrape) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def get(server, **headers):
    """Return the answer to a request: headers and body."""
    request = urllib.request.Request(f"http://{server.address}/metrics", headers=headers)
    with urllib.request.urlopen(request, timeout=20) as answer:
        return answer.headers, answer.read()


def read_samples(text, parse=text_string_to_metric_families):
    """Return values by name and labels, these as sorted pairs."""
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in parse(text)
        for sample in family.samples
        if not sample.name.startswith("process_")
    }


def list_expected():
    """Return what there is in SCRAPE, in the form of `read_samples`."""
    expected = {
        ("cowd_up",): 1,
        ("cowd_scrape_duration_seconds",): 0.125,
        ("cowd_groups_left_out",): 4,
        ("cowd_build_info", ("version", "9.8.7")): 1,
        ("cowd_connections",): 3,
        ("cowd_workers",): 2,
        ("cowd_pages_read_total",): 2**40 + 1,
    }
    for group in SCRAPE.groups:
        label = ("group", group.group)
        for state in STATES:
            size_bytes = group.mapping_bytes[state]
            expected["cowd_mapping_bytes", label, ("state", state)] = size_bytes
        expected["cowd_copied_bytes", label] = group.copied_bytes
        expected["cowd_processes", label] = group.process_count
        expected["cowd_oldest_figure_age_seconds", label] = group.oldest_seconds
        expected["cowd_scrape_success", label] = int(group.is_complete)
        if group.fork:
            expected["cowd_fork_shared_bytes", label] = group.fork.shared_bytes
            expected["cowd_fork_copied_bytes", label] = group.fork.copied_bytes
    for call in STATISTICS.calls:
        labels = ("code", call.code), ("method", call.method)
        expected["cowd_requests_total", *labels] = call.count
    for reason, count in STATISTICS.refusals.items():
        expected["cowd_refusals_total", ("reason", reason)] = count
    method = ("method", "SummarizeProcesses")
    name = "cowd_request_duration_seconds"
    for bound, count in {"0.001": 5, "0.01": 65, "1.0": 75, "+Inf": 76}.items():
        expected[f"{name}_bucket", ("le", bound), method] = count
    expected[f"{name}_count", method] = 76
    expected[f"{name}_sum", method] = 2.75
    return expected


def test_every_figure_is_told_once_and_as_it_is():
    with serving() as server:
        text = get(server)[1].decode()
    assert read_samples(text) == list_expected()
    lines = [line for line in text.splitlines() if line.startswith("cowd_")]
    assert len(lines) == len(list_expected())
    assert "process_resident_memory_bytes" in text
    assert "python_gc" not in text


def test_openmetrics_has_the_same():
    with serving() as server:
        headers, body = get(server, Accept="application/openmetrics-text; version=1.0.0")
    assert headers.get_content_type() == "application/openmetrics-text"
    parse = openmetrics_parser.text_string_to_metric_families
    assert read_samples(body.decode(), parse) == list_expected()


def test_states_add_up_to_the_whole():
    with serving() as server:
        samples = read_samples(get(server)[1].decode())
    for group in SCRAPE.groups:
        told = [
            value
            for (name, *labels), value in samples.items()
            if name == "cowd_mapping_bytes" and ("group", group.group) in labels
        ]
        assert len(told) == len(STATES)
        assert sum(told) == sum(group.mapping_bytes.values())


def test_a_daemon_that_is_away_is_told():
    with serving(lambda: DOWN) as server:
        samples = read_samples(get(server)[1].decode())
    assert samples == {
        ("cowd_up",): 0,
        ("cowd_scrape_duration_seconds",): 0.125,
        ("cowd_groups_left_out",): 0,
    }


def test_a_request_is_one_scrape_and_may_be_compressed():
    asked = []

    def make_scrape():
        asked.append(None)
        return SCRAPE

    with serving(make_scrape) as server:
        assert not asked
        headers, body = get(server, **{"Accept-Encoding": "gzip"})
        assert headers["Content-Encoding"] == "gzip"
        assert read_samples(gzip.decompress(body).decode()) == list_expected()
    assert len(asked) == 1


def test_a_client_that_says_nothing_holds_nobody_up(capsys):
    with serving() as server:
        assert 1 < server.RequestHandlerClass.timeout < 60
        server.RequestHandlerClass.timeout = 0.05
        with socket.create_connection(server.address) as silent:
            assert get(server)[1]
            assert silent.recv(1) == b""  # Its time is over.
    assert capsys.readouterr() == ("", "")


def iter_until_closed(connection):
    """Yield every hundredth of a second until the other side has closed, as it has to."""
    for _ in range(2_000):
        yield
        with suppress(TimeoutError):
            assert connection.recv(1) == b""
            return
    pytest.fail("it is open still")


def test_a_client_that_dribbles_holds_nobody_up(capsys, monkeypatch):
    """Seen to fail with the time looked at for each byte alone."""
    monkeypatch.setattr(prometheus, "_SLOW_SECONDS", 0.2)
    with serving() as server, socket.create_connection(server.address) as dribbling:
        dribbling.settimeout(0.01)
        with suppress(ConnectionError):
            for _ in iter_until_closed(dribbling):
                dribbling.sendall(b"x")
    assert capsys.readouterr() == ("", "")


def test_an_answer_takes_as_long_as_its_scrape(monkeypatch):
    """Seen to fail with patience for all of a request's life."""
    monkeypatch.setattr(prometheus, "_SLOW_SECONDS", 0.05)
    ready = threading.Event()

    def make_scrape():
        assert not ready.wait(0.2)
        return SCRAPE

    with serving(make_scrape) as server:
        assert read_samples(get(server)[1].decode()) == list_expected()


def test_too_many_clients_are_turned_away_and_a_place_is_free_again(monkeypatch):
    """Seen to fail without the bound, and with a place that nobody gives back."""
    monkeypatch.setattr(prometheus, "_MOST_CLIENTS", 2)
    begun, go_on = threading.Semaphore(0), threading.Event()

    def make_scrape():
        begun.release()
        assert go_on.wait(20)
        return SCRAPE

    with serving(make_scrape) as server:
        askers = [threading.Thread(target=get, args=[server]) for _ in range(2)]
        for asker in askers:
            asker.start()
        for _ in askers:
            assert begun.acquire(timeout=20)
        with socket.create_connection(server.address) as third:
            assert third.recv(1) == b""
        go_on.set()
        for asker in askers:
            asker.join()
        for _ in range(3):
            assert get(server)[1]


def test_a_client_that_has_gone_is_no_news(capsys):
    begun, gone = threading.Event(), threading.Event()

    def make_scrape():
        begun.set()
        assert gone.wait(20)
        return SCRAPE

    with serving(make_scrape) as server:
        with socket.create_connection(server.address) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert begun.wait(20)
        gone.set()
        assert get(server)[1]
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:9947", ("127.0.0.1", 9947)),
        ("[::1]:9947", ("::1", 9947)),
        ("localhost:0", ("localhost", 0)),
    ],
)
def test_addresses_are_read_and_written_alike(text, address):
    assert parse_address(text) == address
    assert str(parse_address(text)) == text


@pytest.mark.parametrize("text", ["", "9947", ":9947", "x:", "x:y", "x:65536", "::1:9947", "[]:1"])
def test_what_is_no_address_is_refused(text):
    with pytest.raises(ValueError, match="HOST:PORT"):
        parse_address(text)


def test_it_listens_on_ipv6():
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    with serving(address=parse_address("[::1]:0")) as server:
        assert str(server.address).startswith("[::1]:")
        assert read_samples(get(server)[1].decode()) == list_expected()


def test_an_address_that_is_taken_is_an_error():
    with serving() as server, pytest.raises(OSError, match="in use"):
        MetricsServer(server.address, lambda: SCRAPE)


# The file for node_exporter


def test_the_file_has_the_same_and_nothing_of_this_process(tmp_path):
    path = tmp_path / "cowd.prom"
    write_textfile(path, SCRAPE)
    assert read_samples(path.read_text()) == list_expected()
    assert "process_" not in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o644
    assert [*tmp_path.iterdir()] == [path]


def test_whoever_reads_the_file_reads_all_of_it(tmp_path):
    """A file that is written in place is read while it is empty, or half of it."""
    path = tmp_path / "cowd.prom"
    write_textfile(path, SCRAPE)
    whole, down = path.read_bytes(), tmp_path / "down.prom"
    write_textfile(down, DOWN)
    versions, seen = {whole, down.read_bytes()}, set()
    ended = threading.Event()

    def read_again_and_again():
        while not ended.is_set():
            seen.add(path.read_bytes())
            # As node_exporter looks for files: no other is there to be read.
            assert {each.name for each in tmp_path.glob("*.prom")} == {"cowd.prom", "down.prom"}

    reader = threading.Thread(target=read_again_and_again)
    reader.start()
    for number in range(200):
        write_textfile(path, DOWN if number % 2 else SCRAPE)
    ended.set()
    reader.join()
    assert seen <= versions


def test_a_failure_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "cowd.prom"
    write_textfile(path, DOWN)
    old = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(old), limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            write_textfile(path, SCRAPE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == old
    assert [*tmp_path.iterdir()] == [path]


def test_neither_a_directory_nor_one_that_is_missing_is_written_to(tmp_path):
    (tmp_path / "x.prom").mkdir()
    with pytest.raises(IsADirectoryError):
        write_textfile(tmp_path / "x.prom", SCRAPE)
    with pytest.raises(FileNotFoundError):
        write_textfile(tmp_path / "missing" / "x.prom", SCRAPE)
    assert [each.name for each in tmp_path.iterdir()] == ["x.prom"]


def test_names_that_need_escaping_are_there():
    """Or the tests above show less than they seem to."""
    assert {group.group for group in SCRAPE.groups} == set(HOSTILE_NAMES)
