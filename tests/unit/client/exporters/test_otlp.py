# SPDX-License-Identifier: Apache-2.0
"""What an OpenTelemetry collector gets; this one is made of OpenTelemetry's own contract."""

from contextlib import ExitStack, closing

import grpc
import pytest
from cowd.exporters.figures import STATES
from unit.client.exporters.made_up import DOWN, SCRAPE, STATISTICS

pytestmark = pytest.mark.pypi

CUMULATIVE = 2
STARTED_NS = 1_700_000_000_500_000_000
NOW_NS = 1_700_003_600_250_000_000


@pytest.fixture
def otlp():
    """Return what there is to read what came, where OpenTelemetry's contract is installed."""
    pytest.importorskip("opentelemetry.proto", reason="no opentelemetry-proto: Debian lacks it")
    from harness import otlp_receiver

    return otlp_receiver


@pytest.fixture
def receiver(otlp):
    return otlp.Receiver()


@pytest.fixture
def endpoint(receiver):
    with receiver.listening() as url:
        yield url


@pytest.fixture
def make_sender():
    """Return a function that makes a Sender; imported here, as Debian lacks what it needs."""
    pytest.importorskip("opentelemetry.sdk", reason="no opentelemetry-sdk: Debian lacks it")
    from cowd.exporters.otlp import Sender

    with ExitStack() as senders:
        yield lambda *arguments: senders.enter_context(closing(Sender(*arguments)))


@pytest.fixture
def sender(make_sender, endpoint):
    return make_sender(endpoint, 20.0)


def list_points(metric):
    return getattr(metric, metric.WhichOneof("data")).data_points


def is_counter(metric):
    """Whether it is one; None if it is a gauge, False if it is what goes up and down."""
    if metric.WhichOneof("data") == "gauge":
        return None
    assert metric.sum.aggregation_temporality == CUMULATIVE
    return metric.sum.is_monotonic


def test_a_collector_gets_the_same_figures(sender, receiver, otlp):
    assert sender.send(SCRAPE) is None
    metrics = otlp.read_metrics(receiver.take())
    named = [((("cowd.group", group.group),), group) for group in SCRAPE.groups]
    forked = [(name, group.fork) for name, group in named if group.fork]
    expected = {
        "cowd.up": (None, "1", {(): 1}),
        "cowd.scrape.duration": (None, "s", {(): 0.125}),
        "cowd.scrape.groups_left_out": (None, "{group}", {(): 4}),
        "cowd.mapping.usage": (
            False,
            "By",
            {
                (*name, ("cowd.page.state", state)): group.mapping_bytes[state]
                for name, group in named
                for state in STATES
            },
        ),
        "cowd.mapping.copied": (False, "By", {name: each.copied_bytes for name, each in named}),
        "cowd.fork.shared": (False, "By", {name: each.shared_bytes for name, each in forked}),
        "cowd.fork.copied": (False, "By", {name: each.copied_bytes for name, each in forked}),
        "cowd.process.count": (
            False,
            "{process}",
            {name: each.process_count for name, each in named},
        ),
        "cowd.scrape.oldest_figure_age": (
            None,
            "s",
            {name: each.oldest_seconds for name, each in named},
        ),
        "cowd.scrape.success": (None, "1", {name: int(each.is_complete) for name, each in named}),
        "cowd.server.connections": (False, "{connection}", {(): 3}),
        "cowd.server.workers": (False, "{process}", {(): 2}),
        "cowd.server.pages_read": (True, "{page}", {(): 2**40 + 1}),
        "cowd.server.requests": (
            True,
            "{request}",
            {
                (("rpc.method", each.method), ("rpc.response.status_code", each.code)): each.count
                for each in STATISTICS.calls
            },
        ),
        "cowd.server.refusals": (
            True,
            "{refusal}",
            {(("cowd.refusal.reason", key),): count for key, count in STATISTICS.refusals.items()},
        ),
    }
    durations = metrics.pop("cowd.server.request.duration")
    assert {
        name: (is_counter(metric), metric.unit, otlp.read_values(metric))
        for name, metric in metrics.items()
    } == expected
    points = [each for metric in metrics.values() for each in list_points(metric)]
    assert {each.time_unix_nano for each in points} == {NOW_NS}
    assert all(metric.description for metric in metrics.values())
    [point] = metrics["cowd.server.pages_read"].sum.data_points
    assert point.start_time_unix_nano == STARTED_NS
    assert durations.unit == "s"
    assert durations.histogram.aggregation_temporality == CUMULATIVE
    [point] = durations.histogram.data_points
    assert otlp.read_attributes(point.attributes) == (("rpc.method", "SummarizeProcesses"),)
    assert [*point.bucket_counts] == [5, 60, 10, 1]
    assert [*point.explicit_bounds] == [0.001, 0.01, 1.0]
    assert (point.count, point.sum) == (76, 2.75)
    assert (point.start_time_unix_nano, point.time_unix_nano) == (STARTED_NS, NOW_NS)
    assert not point.HasField("min")
    assert not point.HasField("max")


def test_a_group_that_is_gone_is_told_no_more(sender, receiver, otlp):
    assert sender.send(SCRAPE) is None
    assert sender.send(DOWN) is None
    receiver.take()
    metrics = otlp.read_metrics(receiver.take())
    assert otlp.read_values(metrics["cowd.up"]) == {(): 0}
    assert set(metrics) == {"cowd.up", "cowd.scrape.duration", "cowd.scrape.groups_left_out"}


def test_what_opentelemetry_lets_people_set_is_heeded(
    make_sender, endpoint, receiver, otlp, monkeypatch
):
    monkeypatch.setenv("OTEL_SERVICE_NAME", "cowd-of-shop")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-token=abc")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
    assert make_sender(None, 20.0).send(SCRAPE) is None
    [resource] = receiver.take().resource_metrics
    told = dict(otlp.read_attributes(resource.resource.attributes))
    assert told["service.name"] == "cowd-of-shop"
    assert told["deployment.environment.name"] == "test"
    assert told["host.name"]
    assert receiver.metadata["x-token"] == "abc"


def test_a_collector_that_refuses_is_an_answer_and_the_next_is_sent(sender, receiver, capsys):
    receiver.refusal = grpc.StatusCode.PERMISSION_DENIED
    why = sender.send(SCRAPE)
    assert "PERMISSION_DENIED" in why
    assert "not now" in why
    receiver.refusal = None
    assert sender.send(SCRAPE) is None
    assert receiver.take()
    assert capsys.readouterr() == ("", "")


def test_a_collector_that_is_not_there_is_given_up_in_time(make_sender, free_port, capsys):
    sender = make_sender(f"http://127.0.0.1:{free_port}", 0.5)
    why = sender.send(SCRAPE)
    assert why.startswith("the collector does not take figures: ")
    assert capsys.readouterr() == ("", "")
