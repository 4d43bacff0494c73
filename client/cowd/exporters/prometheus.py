# SPDX-License-Identifier: Apache-2.0
"""Figures as Prometheus takes them: over HTTP, or from a file that its node_exporter reads.

Runs as whoever exports, without privilege. Whoever may connect reads everything: there is no
password and no encryption, so it listens on the machine itself unless told otherwise.
"""

import os
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from http.server import ThreadingHTTPServer
from itertools import accumulate
from pathlib import Path
from socketserver import TCPServer
from threading import BoundedSemaphore, Timer
from typing import Any, Final, NamedTuple

from prometheus_client import CollectorRegistry, MetricsHandler, ProcessCollector, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from cowd._statistics import CallDurations, ServerStatistics
from cowd.exporters.figures import STATES, GroupFigures, Scrape

__all__ = ["Address", "MetricsServer", "ScrapeCollector", "parse_address", "write_textfile"]

_SLOW_SECONDS: Final = 10.0
"""How long a client may take over a request, or over reading the answer: its thread waits."""
_MOST_CLIENTS: Final = 32
"""At one time; further ones are turned away. Prometheus connects once for each scrape."""
_MOST_PORT: Final = 65_535
_MODE: Final = 0o644
"""Of the text file: node_exporter is another user."""


# Figures


class _Gauge(NamedTuple):
    """A figure that each group has, or that is None where it has no meaning."""

    name: str
    help: str
    read: Callable[[GroupFigures], float | None]


_GAUGES: Final[Sequence[_Gauge]] = (
    _Gauge(
        "cowd_copied_bytes",
        "Anonymous pages, swapped out or not, in private mappings of files: each has been copied.",
        lambda group: group.copied_bytes,
    ),
    _Gauge(
        "cowd_fork_shared_bytes",
        "Pages that children and the parents that forked them both map; summed over the children.",
        lambda group: group.fork.shared_bytes if group.fork else None,
    ),
    _Gauge(
        "cowd_fork_copied_bytes",
        "Pages that children and the parents that forked them have one each of, as one of the two "
        "wrote there since the fork; summed over the children.",
        lambda group: group.fork.copied_bytes if group.fork else None,
    ),
    _Gauge(
        "cowd_processes",
        "Processes in the group that have memory of their own.",
        lambda group: group.process_count,
    ),
    _Gauge(
        "cowd_oldest_figure_age_seconds",
        "Age of the oldest of the figures that are added up for the group.",
        lambda group: group.oldest_seconds,
    ),
    _Gauge(
        "cowd_scrape_success",
        "1 if every process of the group has been looked at, 0 if one was refused or failed.",
        lambda group: group.is_complete,
    ),
)


class ScrapeCollector(Collector):
    """What a registry asks for figures.

    Args:
        scrape: makes a Scrape; called once for each time that the registry is asked, and by several
            threads.
    """

    def __init__(self, scrape: Callable[[], Scrape]) -> None:
        self._scrape = scrape

    def collect(self) -> Iterator[Metric]:
        """Yield the figures of one scrape."""
        scrape = self._scrape()
        yield GaugeMetricFamily("cowd_up", "1 if cowd answered, else 0.", scrape.is_up)
        yield GaugeMetricFamily(
            "cowd_scrape_duration_seconds",
            "How long it took to make these figures.",
            scrape.duration_seconds,
        )
        yield GaugeMetricFamily(
            "cowd_groups_left_out",
            "Groups that are added up as one, since there are more than maximum_group_count.",
            scrape.left_out_group_count,
        )
        yield from _iter_group_families(scrape.groups)
        if scrape.statistics:
            yield from _iter_daemon_families(scrape.statistics)


def _iter_group_families(groups: Sequence[GroupFigures]) -> Iterator[Metric]:
    sizes = GaugeMetricFamily(
        "cowd_mapping_bytes",
        "Size of the mappings of the group's processes, by the state of their pages; each page is "
        "in one state.",
        labels=["group", "state"],
    )
    for group in groups:
        for state in STATES:
            sizes.add_metric([group.group, state], group.mapping_bytes[state])
    yield sizes
    for gauge in _GAUGES:
        family = GaugeMetricFamily(gauge.name, gauge.help, labels=["group"])
        for group in groups:
            if (value := gauge.read(group)) is not None:
                family.add_metric([group.group], value)
        yield family


def _iter_daemon_families(statistics: ServerStatistics) -> Iterator[Metric]:
    yield InfoMetricFamily("cowd_build", "Which cowd answered.", {"version": statistics.version})
    yield GaugeMetricFamily(
        "cowd_connections", "Connections to cowd that are open.", statistics.connection_count
    )
    yield GaugeMetricFamily(
        "cowd_workers", "Processes of cowd that answer callers.", statistics.worker_count
    )
    yield CounterMetricFamily(
        "cowd_pages_read",
        "Pages whose entry in a page table cowd has looked at.",
        statistics.pages_read,
    )
    requests = CounterMetricFamily(
        "cowd_requests",
        "Calls that cowd has answered, by method and gRPC status.",
        labels=["method", "code"],
    )
    for call in statistics.calls:
        requests.add_metric([call.method, call.code], call.count)
    yield requests
    refusals = CounterMetricFamily(
        "cowd_refusals", "Connections and calls that cowd has refused.", labels=["reason"]
    )
    for reason, count in statistics.refusals.items():
        refusals.add_metric([reason], count)
    yield refusals
    durations = HistogramMetricFamily(
        "cowd_request_duration_seconds",
        "How long calls took, until the last answer was handed to gRPC.",
        labels=["method"],
    )
    for each in statistics.durations:
        durations.add_metric([each.method], _list_buckets(each), each.total_seconds)
    yield durations


def _list_buckets(durations: CallDurations) -> list[tuple[str, float]]:
    """Return how many calls took at most so long, by the bound as Prometheus writes it."""
    bounds = [*map(str, durations.bounds_seconds), "+Inf"]
    return [*zip(bounds, accumulate(durations.counts), strict=True)]


# Over HTTP


class Address(NamedTuple):
    """Where to listen."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """Return what HOST:PORT says.

    Raises:
        ValueError: it is no such thing.
    """
    host, _, port = text.rpartition(":")
    is_bracketed = host.startswith("[") and host.endswith("]")
    is_host = host[1:-1] if is_bracketed else host and ":" not in host
    if not is_host or not port.isdecimal() or int(port) > _MOST_PORT:
        raise ValueError(
            f"{text!r} is no HOST:PORT, such as 127.0.0.1:9947 or [::1]:9947; [::]:9947 is every "
            "address of this machine"
        )
    return Address(host.strip("[]"), int(port))


class _Handler(MetricsHandler):
    """Answers one request, which has to come in time, even if a byte of it does now and then."""

    timeout = _SLOW_SECONDS  # for each byte that is awaited; and for the whole answer

    def handle(self) -> None:
        """Answer, or give up."""
        self._patience = Timer(_SLOW_SECONDS, self._give_up)
        self._patience.daemon = True
        self._patience.start()
        try:
            super().handle()
        finally:
            self._patience.cancel()

    def do_GET(self) -> None:  # noqa: N802 (its class's name for it)
        """Answer a request that has come: a scrape takes as long as it takes."""
        self._patience.cancel()
        super().do_GET()

    def _give_up(self) -> None:
        with suppress(OSError):  # it has gone just now
            self.connection.shutdown(socket.SHUT_RDWR)


class MetricsServer(ThreadingHTTPServer):
    """Answers every GET with figures; to be run by `serve_forever`.

    Args:
        address: to listen on; port 0 is any that is free.
        scrape: as of ScrapeCollector. The figures that any process has of itself, which begin with
            `process_`, are those of this process.

    Raises:
        OSError: it cannot listen there.
    """

    def __init__(self, address: Address, scrape: Callable[[], Scrape]) -> None:
        registry = CollectorRegistry()
        registry.register(ScrapeCollector(scrape))
        ProcessCollector(registry=registry)
        self._places = BoundedSemaphore(_MOST_CLIENTS)
        found = socket.getaddrinfo(*address, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        self.address_family, *_, place = found[0]
        handler = _Handler.factory(registry)
        super().__init__(place[:2], handler)  # type: ignore[arg-type]  # of IPv6 there is more

    @property
    def address(self) -> Address:
        """Where it listens."""
        return Address(*self.server_address[:2])  # type: ignore[arg-type]

    def server_bind(self) -> None:
        """Bind, and ask nobody for the name of the address as HTTPServer does: DNS may be slow."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.address

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401
        """Answer in a thread of its own, unless there are too many."""
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._places.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:  # noqa: ANN401
        """Answer, in the thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 (as typeshed)
        """Tell of a failure, but not of clients that have gone or are too slow."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


# For node_exporter


def write_textfile(path: Path, scrape: Scrape) -> None:
    """Put a file with the figures in the place of the one that is there.

    Whoever reads it reads the old one or the new one, whole. It has no figures of this process,
    whose names node_exporter has for its own.

    Raises:
        OSError: it cannot be written; then nothing has changed.
    """
    registry = CollectorRegistry()
    registry.register(ScrapeCollector(lambda: scrape))
    # node_exporter reads what ends in .prom alone.
    descriptor, temporary = tempfile.mkstemp(".tmp", f".{path.name}.", path.parent)
    try:
        with open(descriptor, "wb") as file:
            file.write(generate_latest(registry))
            os.fchmod(file.fileno(), _MODE)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
