# SPDX-License-Identifier: Apache-2.0
"""A program that has the library's local backend: lines of JSON in, what the kernel tells it out.

Runs as an unprivileged user, started by a test. Prints {"pid": N} and then answers each line:

    {"pid": N, "address": N, "count": N, "scan": whether PAGEMAP_SCAN is there}
        -> {"states": [NAME, ...], "attributes": [[NAME, ...], ...]}
    {"create": KIND, "arguments": [TEXT, ...]}
        -> what subjects.py says of pages of that kind, now this process's own

Without the ioctl, the library does as on kernels before 6.7.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from cowd import Local, PageAttributes, PageState, _page_scan

has_pagemap_scan = _page_scan.has_pagemap_scan


def answer(order: dict[str, Any]) -> dict[str, Any]:
    """Return the answer to one line."""
    if "create" in order:
        sys.path.append(str(Path(__file__).parent / "kernel"))
        import subjects

        return subjects.create(order["create"], order["arguments"])
    _page_scan.has_pagemap_scan = has_pagemap_scan if order["scan"] else lambda: False
    wanted = order["address"], order["count"]
    flags = Local().get_page_flags(order["pid"], *wanted)
    assert flags.kpageflags is None
    [streamed] = Local().iter_page_flags(order["pid"], [wanted])
    assert streamed == flags
    return {
        "states": [PageState(state).name for state in flags.states],
        "attributes": [
            [name.upper() for name in PageAttributes(bits).names] for bits in flags.attributes
        ],
    }


def main() -> None:
    """Answer lines until there are no more."""
    print(json.dumps({"pid": os.getpid()}), flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
