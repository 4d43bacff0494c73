# SPDX-License-Identifier: Apache-2.0
"""`cowctl status`: whether the daemon is there, and what it is to the caller."""

from collections.abc import Sequence
from dataclasses import asdict
from types import SimpleNamespace
from typing import Final

import cowd
from cowd.cli.options import make_command, socket_option
from cowd.cli.output import Column, Output, format_masks

__all__ = ["command"]

SCHEMA: Final = "cowd.status/1"

# Of the fields of cowd.ServerInfo, and two more.
_COLUMNS: Final[Sequence[Column[SimpleNamespace]]] = (
    Column("socket", "SOCKET", "where the daemon listens"),
    Column(
        "serving",
        "SERVING",
        "the daemon says that it is well",
        style=lambda status: "green" if status.serving else "bold red",
    ),
    Column("version", "VERSION", "of the daemon"),
    Column("caller", "CALLER", "who you are to the daemon"),
    Column("page_size_bytes", "PAGE-SIZE", "of this machine", is_size=True),
    Column("maximum_page_count", "MAX-PAGES", "most pages in one call"),
    Column("maximum_mapping_count", "MAX-MAPPINGS", "most mappings in one response"),
    Column("maximum_concurrent_call_count", "MAX-CALLS", "most calls at once; further ones wait"),
    Column("masks", "MASKS", "kernel flags that you may see, of private and of other pages"),
    Column("kernel_features", "KERNEL", "what the running kernel can tell", wraps=True),
    Column("granted", "GRANTED", "what you may ask of processes that the kernel keeps from you"),
    Column("confinement", "CONFINEMENT", "of the process that serves you; 0 is no Landlock"),
)


@make_command(
    "status",
    _COLUMNS,
    {
        "cowctl status": "The daemon at the usual place.",
        "cowctl status --socket /tmp/cowd.sock": "One that was started by hand.",
        "cowctl status -J | jq .version": "For programs: its version.",
    },
)
@socket_option
def command(socket: str | None, output: Output[SimpleNamespace]) -> int:
    """Show whether the daemon is there, and who you are to it.

    Its limits, and what the kernel lets it tell, as well. Exits with 3 if it cannot be reached, and
    with 1 if it answers but says that it is not well.
    """
    with cowd.Client(socket) as client:
        serving, info = client.is_serving(), client.get_server_info()
    is_known = info.granted is not cowd.GrantDetail.UNSPECIFIED
    fields = asdict(info) | {
        "masks": format_masks(info.masks),
        "granted": info.granted.name.lower() if is_known else None,
    }
    status = SimpleNamespace(socket=client.path, serving=serving, **fields)
    output.write_record({"schema": SCHEMA}, status)
    return 0 if serving else 1
