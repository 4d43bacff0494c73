# SPDX-License-Identifier: Apache-2.0
"""Figures for an OpenTelemetry collector, sent by OTLP over gRPC.

Runs as whoever exports, without privilege. OpenTelemetry's SDK sends; it is in no Debian release,
so this module alone imports it. What is sent is made from a Scrape as a whole, in the SDK's own
model of data: instruments of the SDK would call back one by one, in any order, and there is none
that takes a histogram that somebody else has counted.

The variables OTEL_EXPORTER_OTLP_*, OTEL_RESOURCE_ATTRIBUTES and OTEL_SERVICE_NAME mean what they
mean everywhere.
"""

import logging
import socket
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, TypeAlias, cast

from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricExportResult,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

import cowd
from cowd._statistics import ServerStatistics
from cowd.exporters.figures import STATES, GroupFigures, Scrape

__all__ = ["Sender", "make_metrics"]

_Points: TypeAlias = Iterable[tuple[Mapping[str, str], float]]
"""Values, each with its attributes."""

_LOGGER: Final = logging.getLogger("opentelemetry.exporter")
_CUMULATIVE: Final = AggregationTemporality.CUMULATIVE


class Sender:
    """Sends figures to one collector.

    Args:
        endpoint: URL of the collector; None for what OTEL_EXPORTER_OTLP_ENDPOINT says, or
            http://localhost:4317.
        timeout_seconds: after which it gives up a scrape; the SDK tries again until then.
    """

    def __init__(self, endpoint: str | None, timeout_seconds: float) -> None:
        self._started_ns = time.time_ns()
        here = Resource({"service.name": "cowd", "host.name": socket.gethostname()})
        self._resource = here.merge(OTELResourceDetector().detect())
        self._exporter = OTLPMetricExporter(endpoint=endpoint, timeout=timeout_seconds)
        self._log = _LastMessage()
        # Without one, each try would be told on standard error by Python's handler of last resort.
        _LOGGER.addHandler(self._log)

    def send(self, scrape: Scrape) -> str | None:
        """Send figures; return why the collector has not taken them, or None."""
        metrics = make_metrics(scrape, self._started_ns)
        scope = InstrumentationScope("cowd", cowd.__version__)
        data = MetricsData(
            [ResourceMetrics(self._resource, [ScopeMetrics(scope, metrics, "")], "")]
        )
        self._log.text = ""
        if self._exporter.export(data) is MetricExportResult.SUCCESS:
            return None
        # The SDK does not say the same twice in 20 seconds.
        return f"the collector does not take figures: {self._log.text or 'it is not known why'}"

    def close(self) -> None:
        """Close the connection."""
        self._exporter.shutdown()
        _LOGGER.removeHandler(self._log)


class _LastMessage(logging.Handler):
    """Keeps the last that the SDK had to say: it returns only that it failed."""

    text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text = record.getMessage()


def make_metrics(scrape: Scrape, started_ns: int) -> Sequence[Metric]:
    """Return figures as metrics.

    Args:
        scrape: the figures.
        started_ns: when this exporter started, in nanoseconds since 1970.
    """
    now_ns = _count_ns(scrape.time_seconds)
    metrics = [
        *_Maker(started_ns, now_ns).iter_scrape(scrape),
        *_Maker(started_ns, now_ns).iter_groups(scrape.groups),
    ]
    if scrape.statistics:
        daemon_started_ns = _count_ns(scrape.statistics.start_time_seconds)
        metrics += _Maker(daemon_started_ns, now_ns).iter_statistics(scrape.statistics)
    return [metric for metric in metrics if metric.data.data_points]


def _count_ns(time_seconds: float) -> int:
    """Return a time in nanoseconds; a float of seconds since 1970 is right to the microsecond."""
    return round(time_seconds * 1e6) * 1000


class _Maker:
    """Makes metrics of one time.

    Args:
        started_ns: from when on sums are summed, in nanoseconds since 1970.
        now_ns: of all values.
    """

    def __init__(self, started_ns: int, now_ns: int) -> None:
        self._started_ns = started_ns
        self._now_ns = now_ns

    def iter_scrape(self, scrape: Scrape) -> Iterator[Metric]:
        """Yield what there is to say of the scrape as a whole."""
        yield self._gauge("cowd.up", "1", "1 if cowd answered, else 0.", [({}, int(scrape.is_up))])
        yield self._gauge(
            "cowd.scrape.duration",
            "s",
            "How long it took to make these figures.",
            [({}, scrape.duration_seconds)],
        )
        yield self._gauge(
            "cowd.scrape.groups_left_out",
            "{group}",
            "Groups that are added up as one, since there are too many.",
            [({}, scrape.left_out_group_count)],
        )

    def iter_groups(self, groups: Sequence[GroupFigures]) -> Iterator[Metric]:
        """Yield the figures by group."""
        named = [({"cowd.group": group.group}, group) for group in groups]
        forked = [(name, group.fork) for name, group in named if group.fork]
        yield self._up_down_counter(
            "cowd.mapping.usage",
            "By",
            "Size of the mappings, by the state of their pages; each page is in one state.",
            [
                (name | {"cowd.page.state": state}, group.mapping_bytes[state])
                for name, group in named
                for state in STATES
            ],
        )
        yield self._up_down_counter(
            "cowd.mapping.copied",
            "By",
            "Anonymous pages, swapped out or not, in private mappings of files.",
            [(name, group.copied_bytes) for name, group in named],
        )
        yield self._up_down_counter(
            "cowd.fork.shared",
            "By",
            "Pages that children and their parents both map; summed over the children.",
            [(name, fork.shared_bytes) for name, fork in forked],
        )
        yield self._up_down_counter(
            "cowd.fork.copied",
            "By",
            "Pages that children and their parents have one each of, since the fork.",
            [(name, fork.copied_bytes) for name, fork in forked],
        )
        yield self._up_down_counter(
            "cowd.process.count",
            "{process}",
            "Processes that have memory of their own.",
            [(name, group.process_count) for name, group in named],
        )
        yield self._gauge(
            "cowd.scrape.oldest_figure_age",
            "s",
            "Age of the oldest of the figures that are added up.",
            [(name, group.oldest_seconds) for name, group in named],
        )
        yield self._gauge(
            "cowd.scrape.success",
            "1",
            "1 if every process of the group has been looked at, else 0.",
            [(name, int(group.is_complete)) for name, group in named],
        )

    def iter_statistics(self, statistics: ServerStatistics) -> Iterator[Metric]:
        """Yield the daemon's own figures."""
        yield self._up_down_counter(
            "cowd.server.connections",
            "{connection}",
            "Connections that are open.",
            [({}, statistics.connection_count)],
        )
        yield self._up_down_counter(
            "cowd.server.workers",
            "{process}",
            "Processes that answer callers.",
            [({}, statistics.worker_count)],
        )
        yield self._counter(
            "cowd.server.pages_read",
            "{page}",
            "Pages whose entry in a page table was looked at.",
            [({}, statistics.pages_read)],
        )
        yield self._counter(
            "cowd.server.requests",
            "{request}",
            "Calls that were answered.",
            [
                ({"rpc.method": each.method, "rpc.response.status_code": each.code}, each.count)
                for each in statistics.calls
            ],
        )
        yield self._counter(
            "cowd.server.refusals",
            "{refusal}",
            "Connections and calls that were refused.",
            [
                ({"cowd.refusal.reason": reason}, count)
                for reason, count in statistics.refusals.items()
            ],
        )
        points = [
            HistogramDataPoint(
                {"rpc.method": each.method},
                self._started_ns,
                self._now_ns,
                count=sum(each.counts),
                sum=each.total_seconds,
                bucket_counts=each.counts,
                explicit_bounds=each.bounds_seconds,
                # Not known: OTLP leaves them out, though the SDK always knows them.
                min=cast("float", None),
                max=cast("float", None),
            )
            for each in statistics.durations
        ]
        yield Metric(
            "cowd.server.request.duration",
            "How long calls took, until the last answer was handed to gRPC.",
            "s",
            Histogram(points, _CUMULATIVE),
        )

    def _gauge(self, name: str, unit: str, text: str, values: _Points) -> Metric:
        return Metric(name, text, unit, Gauge(self._list_points(values)))

    def _counter(self, name: str, unit: str, text: str, values: _Points) -> Metric:
        points = self._list_points(values)
        return Metric(name, text, unit, Sum(points, _CUMULATIVE, is_monotonic=True))

    def _up_down_counter(self, name: str, unit: str, text: str, values: _Points) -> Metric:
        points = self._list_points(values)
        return Metric(name, text, unit, Sum(points, _CUMULATIVE, is_monotonic=False))

    def _list_points(self, values: _Points) -> list[NumberDataPoint]:
        return [
            NumberDataPoint(attributes, self._started_ns, self._now_ns, value)
            for attributes, value in values
        ]
