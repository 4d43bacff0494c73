# SPDX-License-Identifier: Apache-2.0
"""Line protocol: that another program's parser reads the same figures, and only those."""

import pytest
from cowd.exporters.figures import STATES
from cowd.exporters.influx import format_lines
from unit.client.exporters.made_up import DOWN, SCRAPE, STATISTICS

GROUPS_AS_TOLD = (
    'say "hi"',
    r"back\x5cslash\x5c",
    r"two\x0alines",
    "a,b=c d",
    r"\x5c,x=1",
    "größe 猫",
    r"\x1b[31m\u2028",
    "{}",
)
TIME_NS = 1_700_003_600_250_000_000


def list_expected():
    """Return what there is in SCRAPE: measurement, tags and fields."""
    expected = [
        (
            "cowd_daemon",
            {},
            {
                "up": 1,
                "scrape_duration_seconds": 0.125,
                "groups_left_out": 4,
                "connections": 3,
                "workers": 2,
                "pages_read": 2**40 + 1,
                "version": "9.8.7",
            },
        )
    ]
    for name, group in zip(GROUPS_AS_TOLD, SCRAPE.groups, strict=True):
        fields = {f"{state}_bytes": group.mapping_bytes[state] for state in STATES}
        fields |= {"copied_bytes": group.copied_bytes, "processes": group.process_count}
        fields |= {"oldest_figure_age_seconds": group.oldest_seconds}
        fields |= {"scrape_success": int(group.is_complete)}
        if group.fork:
            fields |= {"fork_shared_bytes": group.fork.shared_bytes}
            fields |= {"fork_copied_bytes": group.fork.copied_bytes}
        expected.append(("cowd", {"group": name}, fields))
    for call in STATISTICS.calls:
        tags = {"code": call.code} | ({"method": call.method} if call.method else {})
        expected.append(("cowd_requests", tags, {"count": call.count}))
    tags = {"method": "SummarizeProcesses"}
    expected.append(("cowd_request_duration", tags, {"count": 76, "total_seconds": 2.75}))
    for reason, count in STATISTICS.refusals.items():
        expected.append(("cowd_refusals", {"reason": reason}, {"count": count}))
    return expected


@pytest.mark.pypi
def test_a_parser_reads_the_same_figures():
    parser = pytest.importorskip("line_protocol_parser", reason="no line-protocol-parser")
    read = [parser.parse_line(line) for line in format_lines(SCRAPE).removesuffix("\n").split("\n")]
    assert [(each["measurement"], each["tags"], each["fields"]) for each in read] == (
        list_expected()
    )
    assert {each["time"] for each in read} == {TIME_NS}
    # What is an integer to the parser is one to InfluxDB, which keeps the type of the first.
    types = [{name: type(value) for name, value in each["fields"].items()} for each in read]
    assert types == [
        {name: type(value) for name, value in fields.items()} for _, _, fields in list_expected()
    ]


def test_lines_are_as_they_should_be():
    lines = format_lines(SCRAPE).split("\n")
    assert lines[0] == (
        "cowd_daemon up=1i,scrape_duration_seconds=0.125,groups_left_out=4i,connections=3i,"
        f'workers=2i,pages_read=1099511627777i,version="9.8.7" {TIME_NS}'
    )
    assert lines[4].startswith(r"cowd,group=a\,b\=c\ d file_bytes=16384000i,anon_bytes=")
    assert lines[5].startswith(r"cowd,group=\x5c\,x\=1 file_bytes=")
    assert lines[9] == f"cowd_requests,code=OK,method=SummarizeProcesses count=71i {TIME_NS}"
    assert lines[11] == f"cowd_requests,code=UNIMPLEMENTED count=1i {TIME_NS}"
    assert lines[-1] == ""
    assert len(lines) == len(list_expected()) + 1


def test_a_daemon_that_is_away_is_one_line():
    assert format_lines(DOWN) == (
        f"cowd_daemon up=0i,scrape_duration_seconds=0.125,groups_left_out=0i {TIME_NS}\n"
    )
