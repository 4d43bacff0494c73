# SPDX-License-Identifier: Apache-2.0
"""An OpenTelemetry collector, made of OpenTelemetry's own contract: it keeps what it gets.

Runs in the test process. Needs opentelemetry-proto, which Debian lacks: to be imported by tests
marked `pypi` alone, when they run.
"""

import queue
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from typing import Any

import grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc

__all__ = ["Receiver", "read_attributes", "read_metrics", "read_values"]

SECONDS = 60.0
"""For a request to come: generous, other tests share the machine."""


class Receiver(metrics_service_pb2_grpc.MetricsServiceServicer):
    """Keeps requests.

    Attributes:
        metadata: of the last request.
        refusal: status that it answers with instead, if any.
    """

    def __init__(self) -> None:
        self._requests: queue.Queue[Any] = queue.Queue()
        self.metadata: dict[str, Any] = {}
        self.refusal: grpc.StatusCode | None = None

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802 (a name of the contract)
        self.metadata = dict(context.invocation_metadata())
        if self.refusal:
            context.abort(self.refusal, "not now")
        self._requests.put(request)
        return metrics_service_pb2.ExportMetricsServiceResponse()

    def take(self) -> Any:
        """Return the next request; wait for it."""
        return self._requests.get(timeout=SECONDS)

    @contextmanager
    def listening(self, port: int = 0) -> Iterator[str]:
        """Take requests; yields the URL."""
        with futures.ThreadPoolExecutor(2) as threads:
            server = grpc.server(threads, options=[("grpc.so_reuseport", 0)])
            metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(self, server)
            port = server.add_insecure_port(f"127.0.0.1:{port}")
            server.start()
            try:
                yield f"http://127.0.0.1:{port}"
            finally:
                server.stop(None).wait()


def read_metrics(request: Any) -> dict[str, Any]:
    """Return the metrics of a request by name."""
    [resource] = request.resource_metrics
    [scope] = resource.scope_metrics
    assert scope.scope.name == "cowd"
    metrics = {each.name: each for each in scope.metrics}
    assert len(metrics) == len(scope.metrics)
    return metrics


def read_values(metric: Any) -> dict[tuple[tuple[str, str], ...], float]:
    """Return the values of a metric by attributes."""
    points = getattr(metric, metric.WhichOneof("data")).data_points
    values = {
        read_attributes(each.attributes): getattr(each, each.WhichOneof("value")) for each in points
    }
    assert len(values) == len(points)
    return values


def read_attributes(attributes: Any) -> tuple[tuple[str, str], ...]:
    """Return attributes in order, each with its value."""
    return tuple(sorted((each.key, each.value.string_value) for each in attributes))
