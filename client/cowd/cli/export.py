# SPDX-License-Identifier: Apache-2.0
"""`cowctl export`: what has been copied, for the monitoring that people already run.

Forms that go on until they are ended outlive the daemon and the collector: that one of them fails,
or works again, is said on standard error, once for each change.
"""

import gc
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any, Final
from urllib.parse import urlsplit

import click

from cowd.cli.candidates import offer_files
from cowd.cli.clock import iter_ticks, wait_until
from cowd.cli.options import Command, make_command, socket_option
from cowd.cli.output import Column
from cowd.cli.screen import Terminated, end_by_signal
from cowd.cli.text import print_message
from cowd.exporters.config import DEFAULT_PATH, ConfigError, ExportConfig, load_config
from cowd.exporters.figures import Scrape
from cowd.exporters.scraper import Scraper

__all__ = ["command"]

_LISTEN: Final = "127.0.0.1:9947"
_SUFFIX: Final = ".prom"
_INTERVAL_SECONDS: Final = 60.0
_MOST_SEND_SECONDS: Final = 10.0
"""For one sending, as is usual for OTLP; less where the interval is."""
_NEVER_SECONDS: Final = 86_400.0
"""How often to look whether another thread has asked to stop: a signal does not wait for that."""
_PROMETHEUS_HINT: Final = (
    "Prometheus's library for Python is not installed: install Debian's python3-prometheus-client, "
    "or, where cowctl is in a virtual environment, run `pip install prometheus-client` there"
)
_OTLP_HINT: Final = (
    "OpenTelemetry's SDK is not installed, and Debian has no package of it. Make a virtual "
    "environment: `python3 -m venv --system-site-packages DIR`, `DIR/bin/pip install "
    "opentelemetry-sdk opentelemetry-exporter-otlp-proto-grpc`; then run `DIR/bin/python "
    "/usr/bin/cowctl export otlp`"
)


class _Forms(click.Group):
    """The forms, as commands of a command. Its help has the examples of them all.

    Attributes:
        columns, tables: as of `Command`.
    """

    columns: Sequence[Column[Any]] = ()
    tables: Final[dict[str, Sequence[Column[Any]]]] = {}
    format_epilog = Command.format_epilog

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Return the names of the forms in the order of this module."""
        return [*self.commands]

    @property
    def examples(self) -> Mapping[str, str]:
        """As of `Command`."""
        forms = [form for form in self.commands.values() if isinstance(form, Command)]
        return {line: text for form in forms for line, text in form.examples.items()}


@click.group("export", cls=_Forms, no_args_is_help=False)
def command() -> None:
    """Export what has been copied to the monitoring that you run.

    By groups of processes that the settings name; never by process or address. It asks as the
    calling user, and is told of the processes that this user may see: all of them takes a grant.
    """


def _load_config(ctx: click.Context, param: click.Parameter, path: str | None) -> ExportConfig:
    try:
        return load_config(None if path is None else Path(path))
    except ConfigError as error:
        raise click.BadParameter(str(error), ctx, param) from error


_config_option = click.option(
    "--config",
    metavar="PATH",
    callback=_load_config,
    shell_complete=offer_files,
    help=f"Settings: groups, and what a scrape may cost. Default: {DEFAULT_PATH}, if it is there.",
)


# The forms


@make_command(
    "prometheus",
    (),
    {
        "cowctl export prometheus": "Serve `http://127.0.0.1:9947/metrics`.",
        "cowctl export prometheus --listen [::]:9947": "Serve it to every machine that reaches "
        "this one.",
    },
)
@click.option(
    "--listen",
    metavar="HOST:PORT",
    default=_LISTEN,
    help=f"Where to listen; {_LISTEN} by default. Whoever can connect may read.",
)
@_config_option
@socket_option
def _serve_prometheus(listen: str, config: ExportConfig, socket: str | None) -> int:
    """Serve figures to Prometheus over HTTP.

    Each request is a scrape; requests at one time share one. It goes on until it is ended, also
    while the daemon is away: cowd_up is 0 then.
    """
    with _importing(_PROMETHEUS_HINT):
        from cowd.exporters.prometheus import MetricsServer, parse_address
    try:
        address = parse_address(listen)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="'--listen'") from error
    make_scrape = _watch(Scraper(config, socket))
    with _going_on():
        try:
            server = MetricsServer(address, make_scrape)
        except (OSError, UnicodeError) as error:  # the second of a host that can be no name
            why = error.strerror if isinstance(error, OSError) else "it is no name of a host"
            raise click.ClickException(
                f"cannot listen on {address}: {why}; --listen names another place"
            ) from error
        with server:
            print_message(f"note: serving http://{server.address}/metrics; Ctrl-C ends it")
            server.serve_forever(poll_interval=_NEVER_SECONDS)
    return 0


@make_command(
    "textfile",
    (),
    {
        "cowctl export textfile /var/lib/prometheus/node-exporter/cowd.prom": "Write where "
        "Debian's prometheus-node-exporter reads.",
    },
)
@click.argument("path", metavar="PATH", shell_complete=offer_files)
@_config_option
@socket_option
def _write_textfile(path: str, config: ExportConfig, socket: str | None) -> int:
    """Write figures to a file for Prometheus's node_exporter, once.

    PATH ends in .prom. What was there before is replaced at once, so nobody reads half of it; it is
    left alone if the new file cannot be written. If the daemon cannot be reached the file has
    cowd_up 0, and the exit status is 3.
    """
    if not path.endswith(_SUFFIX):
        raise click.BadParameter(
            f"{path} must end in {_SUFFIX}: node_exporter reads no other files", param_hint="'PATH'"
        )
    with _importing(_PROMETHEUS_HINT):
        from cowd.exporters.prometheus import write_textfile
    scrape = _scrape_once(config, socket)
    try:
        write_textfile(Path(path), scrape)
    except OSError as error:
        raise click.ClickException(
            f"cannot write {path}: {error.strerror}; it must be in a folder that this user may "
            "write to"
        ) from error
    return _verify_answered(scrape)


@make_command(
    "influx",
    (),
    {
        "cowctl export influx": "Write lines once, for Telegraf's inputs.exec.",
        "cowctl export influx --execd": "Write them whenever Telegraf asks: inputs.execd, with "
        'signal = "STDIN".',
    },
)
@click.option("--execd", is_flag=True, help="Write once for each line on standard input.")
@_config_option
@socket_option
def _write_influx(execd: bool, config: ExportConfig, socket: str | None) -> int:
    """Write figures in InfluxDB's line protocol, for Telegraf.

    Once; nothing is written if the daemon cannot be reached, and the exit status is 3. With --execd
    it goes on until its input ends, also while the daemon is away: the field up is 0 then.
    """
    from cowd.exporters.influx import format_lines

    if not execd:
        scrape = _scrape_once(config, socket)
        status = _verify_answered(scrape)
        sys.stdout.buffer.write(format_lines(scrape).encode())
        return status
    make_scrape = _watch(Scraper(config, socket))
    with _going_on():
        for _ in sys.stdin.buffer if sys.stdin else ():
            sys.stdout.buffer.write(format_lines(make_scrape()).encode())
            sys.stdout.buffer.flush()
    return 0


def _parse_endpoint(ctx: click.Context, param: click.Parameter, text: str | None) -> str | None:
    parts = urlsplit(text or "")
    if text is not None and (parts.scheme not in ("http", "https") or not parts.hostname):
        example = "http://localhost:4317"
        raise click.BadParameter(f"{text!r} is no URL such as {example}", ctx, param)
    return text


@make_command(
    "otlp",
    (),
    {
        "cowctl export otlp": "Send to a collector on this machine, every minute.",
        "cowctl export otlp --endpoint https://otel.lan:4317 --interval 30": "Send to "
        "another one, twice a minute.",
    },
)
@click.option(
    "--endpoint",
    metavar="URL",
    callback=_parse_endpoint,
    help="Where the collector listens for OTLP over gRPC. Default: OTEL_EXPORTER_OTLP_ENDPOINT, or "
    "`http://localhost:4317`.",
)
@click.option(
    "--interval",
    "interval_seconds",
    metavar="SECONDS",
    type=click.FloatRange(1, 86_400),
    default=_INTERVAL_SECONDS,
    help=f"From the start of one scrape to the start of the next; {_INTERVAL_SECONDS:g} by "
    "default.",
)
@_config_option
@socket_option
def _send_otlp(
    endpoint: str | None, interval_seconds: float, config: ExportConfig, socket: str | None
) -> int:
    """Send figures to an OpenTelemetry collector, by OTLP over gRPC.

    It goes on until it is ended, also while the daemon or the collector is away. Variables of
    OpenTelemetry, such as OTEL_EXPORTER_OTLP_HEADERS and OTEL_RESOURCE_ATTRIBUTES, are heeded.
    """
    with _importing(_OTLP_HINT):
        from cowd.exporters.otlp import Sender
    collector = _Condition(
        f"note: trying again every {interval_seconds:g} s; --endpoint names another collector",
        "note: the collector takes figures again",
    )
    sender = Sender(endpoint, min(interval_seconds, _MOST_SEND_SECONDS))
    make_scrape = _watch(Scraper(config, socket))
    with _going_on(), closing(sender):
        for due in iter_ticks(interval_seconds, None):
            collector.tell(sender.send(make_scrape()))
            wait_until(due or 0.0)
    return 0


for _form in (_serve_prometheus, _write_textfile, _write_influx, _send_otlp):
    command.add_command(_form)


# What they have in common


@contextmanager
def _importing(hint: str) -> Iterator[None]:
    """Have it said what is not installed, and what to do."""
    try:
        yield
    except ImportError as error:
        raise click.ClickException(hint) from error


def _scrape_once(config: ExportConfig, socket: str | None) -> Scrape:
    # Nothing is left for a next time, so it is bounded by its time alone: those that it always left
    # out would be the same ones.
    scrape = Scraper(replace(config, pages_per_second=0), socket).scrape()
    for note in _list_notes(scrape).values():
        print_message(note)
    return scrape


def _verify_answered(scrape: Scrape) -> int:
    """Return 0.

    Raises:
        Error: why the daemon did not answer.
    """
    if scrape.failure:
        raise scrape.failure
    return 0


def _watch(scraper: Scraper) -> Callable[[], Scrape]:
    """Return what makes scrapes, and tells the user what is wrong with them, once."""
    daemon = _Condition(
        "note: there are no figures until it answers; `cowctl doctor` tells more",
        "note: cowd answers again",
    )
    told: set[str] = set()
    lock = threading.Lock()

    def make_scrape() -> Scrape:
        scrape = scraper.scrape()
        daemon.tell(str(scrape.failure) if scrape.failure else None)
        notes = _list_notes(scrape)
        with lock:
            new = notes.keys() - told
            told.clear()
            told.update(notes)
        for about in sorted(new):
            print_message(notes[about])
        return scrape

    return make_scrape


def _list_notes(scrape: Scrape) -> dict[str, str]:
    """Return what the figures lack, by what that is about: of many groups, the first one's."""
    notes = {
        reason: f"note: group {group.group!r} is not complete: {reason}; cowctl-export(1) says more"
        for group in reversed(scrape.groups)
        for reason in group.missing
    }
    if scrape.are_forks_own:
        notes["fork"] = (
            "note: fork = true compares only this user's processes; for all of them, a group of "
            'this user needs a [[grant]] with detail = "pages" in /etc/cowd/cowd.toml'
        )
    return notes


class _Condition:
    """Something that may fail for a while. Threads may share it.

    Args:
        next_step: said after why it fails.
        back: said when it works again.
    """

    def __init__(self, next_step: str, back: str) -> None:
        self._next_step = next_step
        self._back = back
        self._is_failing = False
        self._lock = threading.Lock()

    def tell(self, why: str | None) -> None:
        """Tell the user if it fails and did not before, or the other way round.

        Args:
            why: it fails; None if it works.
        """
        with self._lock:
            was_failing, self._is_failing = self._is_failing, why is not None
        if why is not None and not was_failing:
            print_message(why)
            print_message(self._next_step)
        elif why is None and was_failing:
            print_message(self._back)


@contextmanager
def _going_on() -> Iterator[None]:
    """Let the block run for long: memory is given back; and SIGTERM, too, ends it in good order."""
    gc.enable()  # `main` turns it off, for programs that end soon.

    def leave(number: int, frame: FrameType | None) -> None:
        del frame
        raise Terminated(number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    except Terminated as ending:
        end_by_signal(ending.number)
    finally:
        signal.signal(signal.SIGTERM, before)
