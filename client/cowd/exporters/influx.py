# SPDX-License-Identifier: Apache-2.0
"""Figures in InfluxDB's line protocol, as Telegraf's `exec` and `execd` take them. Pure.

https://docs.influxdata.com/influxdb/v2/reference/syntax/line-protocol/. It is written here, since
the client library that InfluxDB's makers keep up brings an HTTP client along and is not in Debian,
and the one in Debian they have given up.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Final

from cowd.cli.text import escape_text
from cowd.exporters.figures import STATES, GroupFigures, Scrape

__all__ = ["format_lines"]

_SPECIAL: Final = re.compile(r"[,= ]")


def format_lines(scrape: Scrape) -> str:
    """Return the figures as lines, the last one with its end.

    A group is one line with a field for each figure, not one for each state of pages: Telegraf and
    InfluxDB keep what has the same tags and time together, and it is read together. Fields are
    called as the metrics of `prometheus` are.
    """
    time_ns = round(scrape.time_seconds * 1e6) * 1000  # A float has no more.
    return "".join(f"{line} {time_ns}\n" for line in _iter_lines(scrape))


def _iter_lines(scrape: Scrape) -> Iterator[str]:
    daemon: dict[str, float | str] = {
        "up": int(scrape.is_up),
        "scrape_duration_seconds": scrape.duration_seconds,
        "groups_left_out": scrape.left_out_group_count,
    }
    statistics = scrape.statistics
    if statistics:
        daemon |= {
            "connections": statistics.connection_count,
            "workers": statistics.worker_count,
            "pages_read": statistics.pages_read,
            # No tag: of another version it would be another series.
            "version": statistics.version,
        }
    yield _format_line("cowd_daemon", {}, daemon)
    for group in scrape.groups:
        yield _format_line("cowd", {"group": group.group}, _list_fields(group))
    if not statistics:
        return
    for call in statistics.calls:
        tags = {"method": call.method, "code": call.code}
        yield _format_line("cowd_requests", tags, {"count": call.count})
    for each in statistics.durations:
        # Fields alone give the mean; buckets would be one series for each bound.
        fields = {"count": sum(each.counts), "total_seconds": each.total_seconds}
        yield _format_line("cowd_request_duration", {"method": each.method}, fields)
    for reason, count in statistics.refusals.items():
        yield _format_line("cowd_refusals", {"reason": reason}, {"count": count})


def _list_fields(group: GroupFigures) -> dict[str, float | str]:
    fields: dict[str, float | str] = {
        f"{state}_bytes": group.mapping_bytes[state] for state in STATES
    }
    fields["copied_bytes"] = group.copied_bytes
    if group.fork:
        fields["fork_shared_bytes"] = group.fork.shared_bytes
        fields["fork_copied_bytes"] = group.fork.copied_bytes
    return fields | {
        "processes": group.process_count,
        "oldest_figure_age_seconds": group.oldest_seconds,
        "scrape_success": int(group.is_complete),
    }


def _format_line(
    measurement: str, tags: Mapping[str, str], fields: Mapping[str, float | str]
) -> str:
    """Return a line without its time. A tag without a value is left out: none may be empty."""
    told = [f",{key}={_escape_tag(value)}" for key, value in sorted(tags.items()) if value]
    values = ",".join(f"{key}={_format_value(value)}" for key, value in fields.items())
    return f"{measurement}{''.join(told)} {values}"


def _format_value(value: float | str) -> str:
    if isinstance(value, str):
        return '"' + re.sub(r'["\\]', r"\\\g<0>", escape_text(value)) + '"'
    return f"{value}i" if isinstance(value, int) else repr(value)


def _escape_tag(value: str) -> str:
    r"""Return a tag's value; groups may be called as any user calls a program.

    The protocol has no way to write the end of a line, nor a backslash that stands at the end or
    before what is escaped (Telegraf's issue 3004): they become `\xNN`.
    """
    return _SPECIAL.sub(r"\\\g<0>", escape_text(value.replace("\\", r"\x5c")))
