# SPDX-License-Identifier: Apache-2.0
"""`cowctl status`: whether the daemon is there, and what it is to the caller."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Final, NamedTuple

import click

import cowd
from cowd.cli.output import Column, Output, describe_columns, output_options
from cowd.cli.query import format_masks, socket_option

__all__ = ["command"]

SCHEMA: Final = "cowd.status/1"


class _Status(NamedTuple):
    socket: str
    serving: bool
    info: cowd.ServerInfo


_COLUMNS: Final[Sequence[Column[_Status]]] = (
    Column("socket", "SOCKET", "where the daemon listens", lambda status: status.socket),
    Column(
        "serving",
        "SERVING",
        "the daemon says that it is well",
        lambda status: status.serving,
        style=lambda status: "green" if status.serving else "bold red",
    ),
    Column("version", "VERSION", "of the daemon", lambda status: status.info.version),
    Column(
        "caller",
        "CALLER",
        "who you are to the daemon",
        lambda status: {
            "uid": status.info.caller.uid,
            "gid": status.info.caller.gid,
            "groups": list(status.info.caller.groups),
        },
    ),
    Column(
        "page_size_bytes",
        "PAGE-SIZE",
        "of this machine",
        lambda status: status.info.page_size_bytes,
        is_size=True,
    ),
    Column(
        "maximum_page_count",
        "MAX-PAGES",
        "most pages in one call",
        lambda status: status.info.maximum_page_count,
    ),
    Column(
        "maximum_mapping_count",
        "MAX-MAPPINGS",
        "most mappings in one response",
        lambda status: status.info.maximum_mapping_count,
    ),
    Column(
        "maximum_concurrent_call_count",
        "MAX-CALLS",
        "most calls at once; further ones wait",
        lambda status: status.info.maximum_concurrent_call_count,
    ),
    Column(
        "masks",
        "MASKS",
        "kernel flags that you may see, of private and of other pages",
        lambda status: format_masks(status.info.masks),
    ),
    Column(
        "kernel_features",
        "KERNEL",
        "what the running kernel can tell",
        lambda status: asdict(status.info.kernel_features),
    ),
)


@click.command(
    "status",
    epilog=f"""{describe_columns(_COLUMNS)}

\b
Examples:
  cowctl status
  cowctl status --socket /tmp/cowd.sock
  cowctl status -J | jq .version""",
)
@socket_option
@output_options
def command(socket: str | None, output: Output) -> int:
    """Show whether the daemon is there, who you are to it, and its limits.

    Exits with 3 if it cannot be reached, and with 1 if it answers but says that it is not well.
    """
    columns = output.select(_COLUMNS)
    with cowd.Client(socket) as client:
        status = _Status(client.path, client.is_serving(), client.get_server_info())
    output.write_record({"schema": SCHEMA}, status, columns)
    return 0 if status.serving else 1
