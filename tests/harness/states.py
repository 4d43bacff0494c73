# SPDX-License-Identifier: Apache-2.0
"""The daemon's answers as names, and the sums that the kernel itself makes of the same pages.

Runs in the test process: the daemon is asked through a caller, /proc/PID/smaps is read as root.
"""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from cowproto.v1 import pageflags_pb2

from harness.programs import PAGE_BYTES, Caller

PAGES_PER_CALL = 65_536
VSYSCALL = b"[vsyscall]"
"""Past the end of the address space: pagemap has no entries there."""


class Answer(NamedTuple):
    """What the daemon says of one page, by names without their prefixes."""

    state: str
    attributes: frozenset[str]
    kpageflags: int


def ask(caller: Caller, pid: int, address: int, count: int) -> list[Answer]:
    """Return the daemon's answer about pages of one range."""
    return name_answers(caller.get_page_flags(pid, address, count))


def name_answers(
    response: pageflags_pb2.GetPageFlagsResponse | pageflags_pb2.StreamPageFlagsResponse,
) -> list[Answer]:
    """Return what a response says of the pages that it lists."""
    states = {
        number: name.removeprefix("PAGE_STATE_") for name, number in pageflags_pb2.PageState.items()
    }
    return [
        Answer(states[state], name_attributes(attributes), flags)
        for state, attributes, flags in zip(
            response.state, response.attributes, response.kpageflags, strict=True
        )
    ]


def name_attributes(bits: int) -> frozenset[str]:
    """Return the names of the attributes in `bits`, all of which must be documented."""
    named = {
        name.removeprefix("PAGE_ATTRIBUTE_"): number
        for name, number in pageflags_pb2.PageAttribute.items()
    }
    assert bits & ~sum(named.values()) == 0, f"undocumented attributes: {bits:#x}"
    return frozenset(name for name, number in named.items() if bits & number)


def iter_ranges(mapping: pageflags_pb2.Mapping) -> Iterator[tuple[int, int]]:
    """Yield address and count of the calls that it takes to ask about all of a mapping."""
    pages = (mapping.end_address - mapping.start_address) // PAGE_BYTES
    for first in range(0, pages, PAGES_PER_CALL):
        yield mapping.start_address + first * PAGE_BYTES, min(PAGES_PER_CALL, pages - first)


def name_totals(summary: pageflags_pb2.SummarizeProcessesResponse) -> dict[str, Counter[str]]:
    """Return a summary's counts by names: of mappings ("mappings"), and of pages by state."""
    suffix = "_page_count"
    totals = {}
    for each in summary.totals:
        counts = {
            field.name.removesuffix(suffix).upper(): getattr(each, field.name)
            for field in each.DESCRIPTOR.fields
            if field.name.endswith(suffix)
        }
        named = Counter(counts) + Counter(mappings=each.mapping_count)  # which drops what is 0
        totals[pageflags_pb2.MappingKind.Name(each.kind).removeprefix("MAPPING_KIND_")] = named
    assert len(totals) == len(summary.totals), "a kind comes twice"
    return totals


def add_up_pages(caller: Caller, pid: int) -> dict[str, Counter[str]]:
    """Return the same, made from the answers about every single page."""
    totals: dict[str, Counter[str]] = {}
    for mapping in caller.list_mappings(pid):
        kind = pageflags_pb2.MappingKind.Name(mapping.kind).removeprefix("MAPPING_KIND_")
        counts = totals.setdefault(kind, Counter())
        counts["mappings"] += 1
        if mapping.path == VSYSCALL:
            counts["UNKNOWN"] += (mapping.end_address - mapping.start_address) // PAGE_BYTES
            continue
        for address, count in iter_ranges(mapping):
            counts.update(page.state for page in ask(caller, pid, address, count))
    return totals


def read_smaps(pid: int) -> dict[int, dict[str, int]]:
    """Return the fields of smaps in bytes, by the address where the mapping starts."""
    sections: dict[int, dict[str, int]] = {}
    for line in Path(f"/proc/{pid}/smaps").read_text(errors="replace").splitlines():
        if start := re.match(r"([0-9a-f]+)-[0-9a-f]+ ", line):
            fields = sections.setdefault(int(start[1], 16), {})
        elif field := re.fullmatch(r"(\w+): +(\d+) kB", line):
            fields[field[1]] = int(field[2]) << 10
    return sections


def read_smaps_rollup(pid: int) -> dict[str, int]:
    """Return the fields of smaps_rollup in bytes: the sums over all mappings."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return {name: int(value) << 10 for name, value in re.findall(r"(?m)^(\w+): +(\d+) kB$", text)}
