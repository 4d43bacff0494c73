# SPDX-License-Identifier: Apache-2.0
"""The kernel's own mappings in every process: vdso and vvar.

Standard library only; runs as an unprivileged user.
"""

import re
from pathlib import Path

from kinds.memory import ABSENT, Described, UnavailableError, describe, read_page


def find_mapping(name: str) -> int:
    """Return where a mapping of that name starts."""
    maps = Path("/proc/self/maps").read_text()
    found = re.search(rf"^([0-9a-f]+)-.* {re.escape(name)}$", maps, re.MULTILINE)
    if not found:
        raise UnavailableError(f"no {name}")
    return int(found[1], 16)


def make_special() -> Described:
    """Touch frames that the kernel tells nothing of (VM_PFNMAP): they read as if not there."""
    address = find_mapping("[vvar]")
    read_page(address, 0)
    return {"pages": describe(address, ABSENT, mapping="SPECIAL")}


def make_vdso() -> Described:
    """Touch the code that the kernel maps into every process: a page of its own, no copy."""
    address = find_mapping("[vdso]")
    read_page(address, 0)
    page = {
        "state": "FILE",
        "flags_clear": ["anonymous", "ksm", "zero_page", "huge", "thp"],
        "attributes_clear": ["LAZYFREE", "UNSTABLE", "UFFD_WP"],
    }
    return {"pages": describe(address, page, mapping="SPECIAL")}
