# SPDX-License-Identifier: Apache-2.0
"""What an OpenTelemetry collector gets; this one is made of OpenTelemetry's own contract."""

from concurrent import futures

import grpc
import pytest
from cowd.exporters.figures import STATES
from unit.client.exporters.made_up import DOWN, SCRAPE, STATISTICS

pytestmark = pytest.mark.pypi
pytest.importorskip("opentelemetry.sdk", reason="no opentelemetry-sdk: Debian lacks it")
pytest.importorskip("opentelemetry.proto", reason="no opentelemetry-proto: Debian lacks it")

from cowd.exporters.otlp import Sender  # noqa: E402
from opentelemetry.proto.collector.metrics.v1 import (  # noqa: E402
    metrics_service_pb2,
    metrics_service_pb2_grpc,
)

CUMULATIVE = 2
STARTED_NS = 1_700_000_000_500_000_000
NOW_NS = 1_700_003_600_250_000_000


class Receiver(metrics_service_pb2_grpc.MetricsServiceServicer):
    """A collector that keeps what it gets.

    Attributes:
        requests: what came.
        metadata: of the last request.
        refusal: status that it answers with instead, if any.
    """

    def __init__(self):
        self.requests = []
        self.metadata = {}
        self.refusal = None

    def Export(self, request, context):  # noqa: N802 (a name of the contract)
        self.metadata = dict(context.invocation_metadata())
        if self.refusal:
            context.abort(self.refusal, "not now")
        self.requests.append(request)
        return metrics_service_pb2.ExportMetricsServiceResponse()


@pytest.fixture
def receiver():
    return Receiver()


@pytest.fixture
def endpoint(receiver):
    with futures.ThreadPoolExecutor(2) as threads:
        server = grpc.server(threads, options=[("grpc.so_reuseport", 0)])
        metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(receiver, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield f"http://127.0.0.1:{port}"
        server.stop(None).wait()


@pytest.fixture
def sender(endpoint):
    sender = Sender(endpoint, 20.0)
    yield sender
    sender.close()


def read_attributes(attributes):
    return tuple(sorted((each.key, each.value.string_value) for each in attributes))


def read_metrics(request):
    """Return the metrics of a request by name."""
    [resource] = request.resource_metrics
    [scope] = resource.scope_metrics
    assert scope.scope.name == "cowd"
    metrics = {each.name: each for each in scope.metrics}
    assert len(metrics) == len(scope.metrics)
    return metrics


def read_values(metric):
    """Return the values of a metric by attributes."""
    points = getattr(metric, metric.WhichOneof("data")).data_points
    values = {
        read_attributes(each.attributes): getattr(each, each.WhichOneof("value")) for each in points
    }
    assert len(values) == len(points)
    assert all(each.time_unix_nano == NOW_NS for each in points)
    return values


def is_counter(metric):
    """Whether it is one; None if it is a gauge, False if it is what goes up and down."""
    if metric.WhichOneof("data") == "gauge":
        return None
    assert metric.sum.aggregation_temporality == CUMULATIVE
    return metric.sum.is_monotonic


def test_a_collector_gets_the_same_figures(sender, receiver):
    assert sender.send(SCRAPE) is None
    [request] = receiver.requests
    metrics = read_metrics(request)
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
        name: (is_counter(metric), metric.unit, read_values(metric))
        for name, metric in metrics.items()
    } == expected
    assert all(metric.description for metric in metrics.values())
    [point] = metrics["cowd.server.pages_read"].sum.data_points
    assert point.start_time_unix_nano == STARTED_NS
    assert durations.unit == "s"
    assert durations.histogram.aggregation_temporality == CUMULATIVE
    [point] = durations.histogram.data_points
    assert read_attributes(point.attributes) == (("rpc.method", "SummarizeProcesses"),)
    assert [*point.bucket_counts] == [5, 60, 10, 1]
    assert [*point.explicit_bounds] == [0.001, 0.01, 1.0]
    assert (point.count, point.sum) == (76, 2.75)
    assert (point.start_time_unix_nano, point.time_unix_nano) == (STARTED_NS, NOW_NS)
    assert not point.HasField("min")
    assert not point.HasField("max")


def test_a_group_that_is_gone_is_told_no_more(sender, receiver):
    assert sender.send(SCRAPE) is None
    assert sender.send(DOWN) is None
    metrics = read_metrics(receiver.requests[1])
    assert read_values(metrics["cowd.up"]) == {(): 0}
    assert set(metrics) == {"cowd.up", "cowd.scrape.duration", "cowd.scrape.groups_left_out"}


def test_what_opentelemetry_lets_people_set_is_heeded(endpoint, receiver, monkeypatch):
    monkeypatch.setenv("OTEL_SERVICE_NAME", "cowd-of-shop")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-token=abc")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
    sender = Sender(None, 20.0)
    assert sender.send(SCRAPE) is None
    sender.close()
    [resource] = receiver.requests[0].resource_metrics
    told = dict(read_attributes(resource.resource.attributes))
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
    assert len(receiver.requests) == 1
    assert capsys.readouterr() == ("", "")


def test_a_collector_that_is_not_there_is_given_up_in_time(free_port, capsys):
    sender = Sender(f"http://127.0.0.1:{free_port}", 0.5)
    why = sender.send(SCRAPE)
    sender.close()
    assert why.startswith("the collector does not take figures: ")
    assert capsys.readouterr() == ("", "")
